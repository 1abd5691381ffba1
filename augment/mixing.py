"""Transforms that combine several samples: copy-paste of objects between images, and mosaics of four images.

Both draw samples from a `source`, anything with a length whose items are `(image, instances)`, for example a data set.
Objects keep the annotation ids of their images. Pasting requires samples on the CPU.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from augment.photometric import apply_gaussian_blur
from maskrcnn.ops.windows import window_pixels
from maskrcnn.structures.affine import Size, compose, mirror, translation, transposition
from maskrcnn.structures.boxes import clip_boxes
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.pixels import draw_uniform, match_dtype
from maskrcnn.structures.warping import Sample, add_margins, compute_margins, warp, warp_instances

MAX_TRIES = 10  # positions tried for an object before it is skipped


class SampleSource(Protocol):
    """Sequence of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class CopyPaste:
    """Paste up to `max_objects` objects of another sample at random positions, each in one of its eight orientations.

    A position is accepted if at most `max_overlap` of the object overlaps other objects; otherwise another is tried.
    Pasted objects occlude others: masks lose the covered pixels, and `edges` defines what happens to occluded objects.
    Objects without masks are not occluded, and are pasted as rectangles. Ignored objects are not pasted.

    Args:
        max_objects: maximum number of objects to paste, at least 1.
        source: samples to draw from; None: the sample itself.
        max_overlap: maximum fraction of a pasted object that overlaps others.
        feather: sigma (px) of the blending of edges; 0: the levels of the mask.
        edges: rules for occluded objects.

    Raises:
        ValueError: If the source has no samples, or an argument is out of range.

    Source: Ghiasi et al., Simple Copy-Paste, arXiv 2012.07177; Kisantal et al., arXiv 1902.07296, for small objects.
    """

    max_objects: int
    source: SampleSource | None = None
    max_overlap: float = 0.2
    feather: float = 0.5
    edges: Edges = field(default_factory=Edges)

    def __post_init__(self) -> None:
        if self.source is not None:
            _check_source(self.source)
        if self.max_objects < 1:
            raise ValueError(f"max_objects must be at least 1, got {self.max_objects}")
        if not 0 <= self.max_overlap <= 1:
            raise ValueError(f"max_overlap {self.max_overlap} must be in [0, 1]")
        if not 0 <= self.feather < 100:
            raise ValueError(f"feather {self.feather} must be in [0, 100) pixels")

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the sample with the pasted objects after its own.

        Raises:
            ValueError: If only one of the two samples has masks, or ids.
        """
        donor_image, donor = _draw_sample(self.source, (image, instances), generator)
        donor_image = match_dtype(donor_image, image)
        drawn = donor.has_mask() if donor.masks is not None else _get_masks(donor).areas() > 0
        candidates = torch.nonzero(~donor.ignore & drawn).flatten()
        count = int(torch.randint(1, self.max_objects + 1, (), generator=generator))
        canvas = _PasteCanvas(image, _unify_fields(instances, donor))
        for index in candidates[torch.randperm(len(candidates), generator=generator)[:count]].tolist():
            pixels, part = _cut_out(donor_image, donor[index], self.feather, generator)
            place = canvas.find_place(part, self.max_overlap, generator)
            if place is not None:
                canvas.paste(pixels, part, place, self.feather)
        return canvas.result(self.edges)


class _PasteCanvas:
    """Sample that objects are pasted into; the cost of an object is proportional to its window."""

    def __init__(self, image: Tensor, instances: Instances) -> None:
        self.image, self.instances = image.clone(), instances
        self.pasted: list[Instances] = []
        self.top = torch.zeros(instances.size, dtype=torch.int32)  # number of the topmost pasted object; 0: none
        self.taken = _get_masks(instances).to_label_image()[0] > 0

    def find_place(self, part: Instances, max_overlap: float, generator: Generator) -> tuple[int, int] | None:
        """Draw the corner (x, y) of a cut-out with one object, or None if every try overlaps too much."""
        assert part.masks is not None
        x1, y1, x2, y2 = part.masks.boxes()[0].int().tolist()
        object_ = part.masks.to_dense()[0, y1:y2, x1:x2]
        room = (self.taken.shape[1] - (x2 - x1), self.taken.shape[0] - (y2 - y1))
        if min(room) < 0:
            return None
        for _ in range(MAX_TRIES):
            left, top = (_draw_int(0, length, generator) for length in room)
            under = self.taken[top : top + y2 - y1, left : left + x2 - x1]
            if int((under & object_).sum()) <= max_overlap * int(object_.sum()):
                return left - x1, top - y1
        return None

    def paste(self, pixels: Tensor, part: Instances, place: tuple[int, int], feather: float) -> None:
        """Blend in a cut-out with its corner at `place`, cropped to the image."""
        assert part.masks is not None
        (x, y), (height, width) = place, self.taken.shape
        there = (slice(max(0, y), y + pixels.shape[1]), slice(max(0, x), x + pixels.shape[2]))
        here = (slice(max(0, -y), height - y), slice(max(0, -x), width - x))
        old, new = self.image[:, *there].float(), pixels[:, *here].float()
        blended = torch.lerp(old, new, _compute_alpha(part.masks, feather)[here].expand_as(old))  # exact at 0 and 1
        self.image[:, *there] = blended if self.image.is_floating_point() else blended.round()
        masks = part.masks.crop(-x, -y, height, width)
        boxes = clip_boxes(part.boxes + part.boxes.new_tensor([x, y, x, y]), (height, width))
        self.pasted.append(replace(part, size=(height, width), boxes=boxes, masks=masks))
        x1, y1, x2, y2 = masks.windows[0].tolist()
        inside = masks.window(0) >= 128
        self.top[y1:y2, x1:x2][inside] = len(self.pasted)
        self.taken[y1:y2, x1:x2] |= inside

    def result(self, edges: Edges) -> Sample:
        """Return the image, and all objects that are still visible."""
        if self.instances.masks is None:
            return self.image, Instances.cat([self.instances, *(replace(each, masks=None) for each in self.pasted)])
        whole = Instances.cat([self.instances, *self.pasted])
        assert whole.masks is not None
        masks = self._visible(whole.masks)
        left = masks.areas().float() / whole.masks.areas().clamp(min=1)
        left = torch.where(whole.has_mask(), left, 1.0)  # without a mask, it is unknown what is hidden
        present, cut = left > 0, left < edges.min_visible_fraction
        if edges.cut == "drop":
            present &= ~cut
        ignore = whole.ignore | cut if edges.cut == "ignore" else whole.ignore
        boxes = add_margins(masks, compute_margins(whole), whole.boxes)
        return self.image, replace(whole, masks=masks, boxes=boxes, ignore=ignore)[present]

    def _visible(self, masks: CroppedMasks) -> CroppedMasks:
        """Remove from the masks of all objects the pixels where another object is on top."""
        number = torch.arange(1 - len(self.instances), len(self.pasted) + 1).clamp(min=0).int()
        under = torch.nonzero(_find_nonempty_windows(self.top > 0, masks.windows)).flatten()
        some = masks[under]
        owner, x, y = window_pixels(some.windows)
        top = self.top[y, x]
        shown = replace(some, data=some.data * ((top == 0) | (top == number[under][owner])))
        return masks.replace_at(under, shown)


@dataclass(frozen=True)
class Mosaic:
    """Combine four images, in the quarters around a random point of the canvas, with probability `probability`.

    The canvas has the size of the sample's image; the other three images are drawn from `source`. Each quarter shows a
    random crop of its image; where the image is smaller, `edges` defines the padding. Images with a height or width
    below 4 pixels are unchanged.

    Args:
        source: samples to draw from.
        probability: probability in [0, 1].
        edges: rules at the edges of the images.

    Raises:
        ValueError: If the source has no samples, or the probability is out of range.

    Source: Bochkovskiy et al., YOLOv4, arXiv 2004.10934, section 3.3.
    """

    source: SampleSource
    probability: float = 1.0
    edges: Edges = field(default_factory=Edges)

    def __post_init__(self) -> None:
        _check_source(self.source)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability} must be in [0, 1]")

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the mosaic, or the sample unchanged.

        Raises:
            ValueError: If only some of the samples have masks, or ids.
        """
        height, width = instances.size
        if float(draw_uniform(generator)) >= self.probability or min(height, width) < 4:
            return image, instances
        x, y = (_draw_int(length // 4, length - length // 4, generator) for length in (width, height))
        canvas, parts = torch.empty_like(image), []
        for quarter, (left, top, right, bottom) in enumerate(
            ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        ):
            sample = (image, instances) if quarter == 0 else _draw_sample(self.source, (image, instances), generator)
            part, objects = _random_window(sample, (bottom - top, right - left), self.edges, generator)
            canvas[:, top:bottom, left:right] = match_dtype(part, image)
            parts.append(warp_instances(objects, translation(left, top), (height, width)))
        fullest = max(parts, key=len)
        return canvas, Instances.cat([_unify_fields(part, fullest) for part in parts])


def _random_window(sample: Sample, size: Size, edges: Edges, generator: Generator) -> Sample:
    margins = [sample[1].size[axis] - size[axis] for axis in (0, 1)]
    y, x = (_draw_int(min(0, length), max(0, length), generator) for length in margins)
    return warp(*sample, translation(-x, -y), size, edges)


def _draw_int(first: int, last: int, generator: Generator) -> int:
    return int(torch.randint(first, last + 1, (), generator=generator))


def _draw_sample(source: SampleSource | None, own: Sample, generator: Generator) -> Sample:
    return own if source is None else source[int(torch.randint(len(source), (), generator=generator))]


def _check_source(source: SampleSource) -> None:
    if len(source) == 0:
        raise ValueError("source has no samples to draw from")


def _unify_fields(one: Instances, other: Instances) -> Instances:
    """Return `one` with the optional fields of `other` if it has no objects, so that both can be concatenated.

    Raises:
        ValueError: If only one of them has masks, or ids.
    """
    if len(one) == 0:
        masks = None if other.masks is None else CroppedMasks.empty(one.size)
        return replace(other[:0], size=one.size, masks=masks)
    if len(other) and ((one.masks is None) != (other.masks is None) or (one.ids is None) != (other.ids is None)):
        raise ValueError("samples with masks or ids cannot be mixed with samples without")
    return one


def _get_masks(instances: Instances) -> CroppedMasks:
    """Return the masks, or filled boxes if there are none."""
    if instances.masks is not None:
        masks = instances.ignore_empty_masks().masks
        assert masks is not None
        return masks
    return CroppedMasks.from_boxes(instances.boxes, instances.size)


def _find_nonempty_windows(where: Tensor, windows: Tensor) -> Tensor:
    """Return whether any pixel of bool `[H, W]` is set within each window, bool `[N]`; by a summed-area table."""
    sums = pad(where.int().cumsum(0).cumsum(1), (1, 0, 1, 0))
    x1, y1, x2, y2 = windows.long().unbind(dim=1)
    return sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1] > 0


def _cut_out(image: Tensor, one: Instances, feather: float, generator: Generator) -> Sample:
    """Cut out one object in a random orientation, with a margin around it for blending."""
    masks = _get_masks(one)
    beyond = int(compute_margins(replace(one, masks=masks)).abs().max().ceil())  # of the box beyond the mask
    room = 1 + max(int(4 * feather), beyond)
    x1, y1, x2, y2 = masks.boxes()[0].int().tolist()
    size = (y2 - y1 + 2 * room, x2 - x1 + 2 * room)
    horizontal, vertical, transposed = (draw_uniform(generator, 3) < 0.5).tolist()
    moved = compose(translation(room - x1, room - y1), mirror(size, horizontal, vertical))
    if transposed:
        moved, size = compose(moved, transposition()), (size[1], size[0])
    whole = replace(one, masks=masks)
    return warp(image, whole, moved, size, Edges("replicate"))


def _compute_alpha(masks: CroppedMasks, feather: float) -> Tensor:
    """Compute the opacity of a pasted cut-out, float32 `[h, w]`, 1 inside the object."""
    x1, y1, x2, y2 = masks.windows[0].tolist()
    alpha = torch.zeros(masks.size, dtype=torch.float32)
    alpha[y1:y2, x1:x2] = masks.window(0).float() / 255
    return torch.maximum(alpha, apply_gaussian_blur(alpha[None], feather)[0])
