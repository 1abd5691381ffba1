"""Samples made of several: objects pasted from one image into another, and mosaics of four images.

Both draw from a `source`, anything with a length whose items are `(image, instances)`, a data set for example. Ids stay
those of the annotations in the images that the objects come from. Objects are pasted on the CPU.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from augment.affine import Size, mirror, then, translation, transposition
from augment.geometry import Edges, Sample, boxes_with_margins, margins_of, warp, warp_instances
from augment.photometric import blurred
from augment.values import in_type_of
from maskrcnn.ops.reference_masks import window_pixels
from maskrcnn.structures.boxes import clip_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

TRIES = 10  # places tried for an object before it is left out


class Source(Protocol):
    """Samples to draw from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class CopyPaste:
    """Up to `most` objects of another sample of `source` (of this one where that is None), each in one of its eight
    orientations, pasted at random places.

    A place is taken if at most `max_overlap` of the object lies on others, else another is tried. Edges blend in over
    `feather` pixels (sigma; 0: by the levels of the mask). What is pasted hides what was there: masks lose the covered
    pixels, objects without masks stay; `edges` says what becomes of objects that are hidden. Objects to ignore are not
    pasted. Objects without masks are pasted as rectangles.

    Raises ValueError for a source without samples, and for settings out of range.

    Source: Ghiasi et al., Simple Copy-Paste, arXiv 2012.07177; Kisantal et al., arXiv 1902.07296, for small objects.
    """

    most: int
    source: Source | None = None
    max_overlap: float = 0.2
    feather: float = 0.5
    edges: Edges = field(default_factory=Edges)

    def __post_init__(self) -> None:
        if self.source is not None:
            _check_source(self.source)
        if self.most < 1:
            raise ValueError(f"most {self.most} of the objects to paste must be at least 1")
        if not 0 <= self.max_overlap <= 1:
            raise ValueError(f"max_overlap {self.max_overlap} must be in [0, 1]")
        if not 0 <= self.feather < 100:
            raise ValueError(f"feather {self.feather} must be in [0, 100) pixels")

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """The sample with what is pasted after its own objects. ValueError if only one sample has masks, or ids."""
        donor_image, donor = _drawn(self.source, (image, instances), generator)
        donor_image = in_type_of(donor_image, image)
        drawn = donor.has_mask() if donor.masks is not None else _shapes(donor).areas() > 0
        able = torch.nonzero(~donor.ignore & drawn).flatten()
        count = int(torch.randint(1, self.most + 1, (), generator=generator))
        scene = _Scene(image, _alike(instances, donor))
        for index in able[torch.randperm(len(able), generator=generator)[:count]].tolist():
            pixels, part = _cut_out(donor_image, donor[index], self.feather, generator)
            place = scene.find_place(part, self.max_overlap, generator)
            if place is not None:
                scene.paste(pixels, part, place, self.feather)
        return scene.result(self.edges)


class _Scene:
    """A sample that objects are pasted into, each at a cost of its own window; beside that the image costs, once."""

    def __init__(self, image: Tensor, instances: Instances) -> None:
        self.image, self.instances = image.clone(), instances
        self.pasted: list[Instances] = []
        self.top = torch.zeros(instances.size, dtype=torch.int32)  # which of the pasted ones is seen, from 1; 0: none
        self.taken = _shapes(instances).to_label_image()[0] > 0

    def find_place(self, part: Instances, max_overlap: float, generator: Generator) -> tuple[int, int] | None:
        """(x, y) for the corner of a cut-out that holds one object, or None where every try overlaps too much."""
        assert part.masks is not None
        x1, y1, x2, y2 = part.masks.boxes()[0].int().tolist()
        object_ = part.masks.to_dense()[0, y1:y2, x1:x2]
        room = (self.taken.shape[1] - (x2 - x1), self.taken.shape[0] - (y2 - y1))
        if min(room) < 0:
            return None
        for _ in range(TRIES):
            left, top = (_between(0, length, generator) for length in room)
            under = self.taken[top : top + y2 - y1, left : left + x2 - x1]
            if int((under & object_).sum()) <= max_overlap * int(object_.sum()):
                return left - x1, top - y1
        return None

    def paste(self, pixels: Tensor, part: Instances, place: tuple[int, int], feather: float) -> None:
        """Blend a cut-out in, its corner at `place`; what of it lies outside the image is left out."""
        assert part.masks is not None
        (x, y), (height, width) = place, self.taken.shape
        there = (slice(max(0, y), y + pixels.shape[1]), slice(max(0, x), x + pixels.shape[2]))
        here = (slice(max(0, -y), height - y), slice(max(0, -x), width - x))
        old, fresh = self.image[:, *there].float(), pixels[:, *here].float()
        mixed = torch.lerp(old, fresh, _alpha(part.masks, feather)[here].expand_as(old))  # exact at 0 and 1
        self.image[:, *there] = mixed.round() if self.image.dtype == torch.uint8 else mixed
        masks = part.masks.crop(-x, -y, height, width)
        boxes = clip_boxes(part.boxes + torch.tensor([x, y, x, y]), (height, width))
        self.pasted.append(replace(part, size=(height, width), boxes=boxes, masks=masks))
        x1, y1, x2, y2 = masks.windows[0].tolist()
        inside = masks.window(0) >= 128
        self.top[y1:y2, x1:x2][inside] = len(self.pasted)
        self.taken[y1:y2, x1:x2] |= inside

    def result(self, edges: Edges) -> Sample:
        if self.instances.masks is None:
            return self.image, Instances.cat([self.instances, *(replace(each, masks=None) for each in self.pasted)])
        whole = Instances.cat([self.instances, *self.pasted])
        assert whole.masks is not None
        masks = self._visible(whole.masks)
        left = masks.areas() / whole.masks.areas().clamp(min=1)
        left = torch.where(whole.has_mask(), left, 1.0)  # without a mask nobody knows what is hidden
        present, cut = left > 0, left < edges.min_visible_fraction
        if edges.cut == "drop":
            present &= ~cut
        ignore = whole.ignore | cut if edges.cut == "ignore" else whole.ignore
        boxes = boxes_with_margins(masks, margins_of(whole), whole.boxes)
        return self.image, replace(whole, masks=masks, boxes=boxes, ignore=ignore)[present]

    def _visible(self, masks: CroppedMasks) -> CroppedMasks:
        """The masks of all objects without the pixels where another is on top."""
        number = torch.cat([torch.zeros(len(self.instances)), torch.arange(1, len(self.pasted) + 1)]).int()
        under = torch.nonzero(_any_inside(self.top > 0, masks.windows)).flatten()
        some = masks[under]
        owner, x, y = window_pixels(some.windows)
        top = self.top[y, x]
        shown = replace(some, data=some.data * ((top == 0) | (top == number[under][owner])))
        return masks.exchanged(under, shown)


@dataclass(frozen=True)
class Mosaic:
    """With probability `probability`, four images in the quarters about a random point of a canvas.

    The canvas has the size of this image, the other three are drawn from `source`. Each fills its quarter from a
    random place of the image, as a crop does; where it is smaller, the rest is up to `edges`. Images of less than 4
    pixels in height or width stay as they are.

    Raises ValueError for a source without samples, and for a probability out of range.

    Source: Bochkovskiy et al., YOLOv4, arXiv 2004.10934, section 3.3.
    """

    source: Source
    probability: float = 1.0
    edges: Edges = field(default_factory=Edges)

    def __post_init__(self) -> None:
        _check_source(self.source)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability} must be in [0, 1]")

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        height, width = instances.size
        if float(torch.rand((), generator=generator)) >= self.probability or min(height, width) < 4:
            return image, instances
        x, y = (_between(length // 4, length - length // 4, generator) for length in (width, height))
        canvas, parts = torch.empty_like(image), []
        for quarter, (left, top, right, bottom) in enumerate(
            ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        ):
            sample = (image, instances) if quarter == 0 else _drawn(self.source, (image, instances), generator)
            part, found = _random_window(sample, (bottom - top, right - left), self.edges, generator)
            canvas[:, top:bottom, left:right] = in_type_of(part, image)
            parts.append(warp_instances(found, translation(left, top), (height, width)))
        fullest = max(parts, key=len)
        return canvas, Instances.cat([_alike(part, fullest) for part in parts])


def _random_window(sample: Sample, size: Size, edges: Edges, generator: Generator) -> Sample:
    spare = [sample[1].size[axis] - size[axis] for axis in (0, 1)]
    y, x = (_between(min(0, length), max(0, length), generator) for length in spare)
    return warp(*sample, translation(-x, -y), size, edges)


def _between(first: int, last: int, generator: Generator) -> int:
    return int(torch.randint(first, last + 1, (), generator=generator))


def _drawn(source: Source | None, own: Sample, generator: Generator) -> Sample:
    return own if source is None else source[int(torch.randint(len(source), (), generator=generator))]


def _check_source(source: Source) -> None:
    if len(source) == 0:
        raise ValueError("source has no samples to draw from")


def _alike(one: Instances, other: Instances) -> Instances:
    """`one`, which can be joined to `other`: without objects, it takes on whether there are masks and ids.

    Raises:
        ValueError: only one of them has masks, or ids.
    """
    if len(one) == 0:
        masks = None if other.masks is None else CroppedMasks.empty(one.size)
        return replace(other[:0], size=one.size, masks=masks)
    if len(other) and ((one.masks is None) != (other.masks is None) or (one.ids is None) != (other.ids is None)):
        raise ValueError("samples with masks or ids cannot be mixed with samples without")
    return one


def _shapes(instances: Instances) -> CroppedMasks:
    """The masks; where there are none, the boxes filled."""
    if instances.masks is not None:
        masks = instances.as_judged_by_masks().masks
        assert masks is not None
        return masks
    return CroppedMasks.from_boxes(instances.boxes, instances.size)


def _any_inside(where: Tensor, windows: Tensor) -> Tensor:
    """bool `[N]`: whether any pixel of each window of bool `[H, W]` is set; by sums over all above and left of it."""
    sums = pad(where.int().cumsum(0).cumsum(1), (1, 0, 1, 0))
    x1, y1, x2, y2 = windows.long().unbind(dim=1)
    return sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1] > 0


def _cut_out(image: Tensor, one: Instances, feather: float, generator: Generator) -> Sample:
    """A piece of image with one object in a random orientation, and room around it to blend in."""
    masks = _shapes(one)
    beyond = int(margins_of(replace(one, masks=masks)).abs().max().ceil())  # of the box beyond the mask
    room = 1 + max(int(4 * feather), beyond)
    x1, y1, x2, y2 = masks.boxes()[0].int().tolist()
    size = (y2 - y1 + 2 * room, x2 - x1 + 2 * room)
    horizontal, vertical, transposed = (torch.rand(3, generator=generator) < 0.5).tolist()
    moved = then(translation(room - x1, room - y1), mirror(size, horizontal, vertical))
    if transposed:
        moved, size = then(moved, transposition()), (size[1], size[0])
    whole = replace(one, masks=masks)
    return warp(image, whole, moved, size, Edges("replicate"))


def _alpha(masks: CroppedMasks, feather: float) -> Tensor:
    """float32 `[h, w]`: how much of the pasted piece shows, 1 inside the object."""
    x1, y1, x2, y2 = masks.windows[0].tolist()
    alpha = torch.zeros(masks.size)
    alpha[y1:y2, x1:x2] = masks.window(0).float() / 255
    return torch.maximum(alpha, blurred(alpha[None], feather)[0])
