"""A sample under an affine map: image, boxes and masks moved as one, by one matrix in one coordinate convention.

A sample is an image `[C, H, W]` (uint8, or float32 in [0, 1]) and its `Instances`. Nothing given is changed. Boxes of
ground truth follow the moved masks: the margins between the box and the extent of the mask are moved by the same map.
Boxes without masks or with empty ones, and those of predictions (which have scores), are moved themselves, under
rotation and shear as if an ellipse filled them.
"""

from dataclasses import replace

import torch
from torch import Tensor

from maskrcnn.ops.affine import inverse_of
from maskrcnn.ops.images import warp_image
from maskrcnn.ops.windows import window_pixels
from maskrcnn.structures.affine import (
    Size,
    compose,
    is_axis_aligned,
    map_boxes,
    map_margins,
    map_points,
    map_round_boxes,
    mirror,
    translation,
)
from maskrcnn.structures.boxes import clip_boxes
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.pixels import Pixels, as_float, read_canvas

Sample = tuple[Tensor, Instances]


def warp(
    image: Tensor | Pixels, instances: Instances, matrix: Tensor, size: Size, edges: Edges | None = None
) -> Sample:
    """A sample under `matrix` (`[2, 3]`, old to new coordinates, see `structures.affine`) on a canvas of `size` (H, W).

    Pixels are bilinear, means of several samples where the image shrinks; whole-pixel moves, flips, transposes and
    quarter turns are exact. A canvas with no object on it is a valid sample. Of an image that is read by window, only
    what the canvas shows is read.

    Raises:
        ValueError: a matrix that is singular or not finite, a canvas without pixels, or an image whose size is not
            that of its instances.
    """
    edges = edges or Edges()
    _check_canvas(size)
    if isinstance(image, Tensor):
        check_sizes(image, instances)
        window, from_window = image, matrix
    else:
        window, from_window = read_canvas(image, matrix, size, edges.pad_mode)
    window = as_float(window) if window.dtype == torch.uint16 else window
    pixels = warp_image(window, from_window, size, edges.pad_mode)
    moved = warp_instances(instances, matrix, size, edges)
    if edges.pad_mode != "reflect":
        return pixels, moved
    return pixels, Instances.cat([moved, *_mirrored(instances, matrix, size)])


def warp_instances(instances: Instances, matrix: Tensor, size: Size, edges: Edges | None = None) -> Instances:
    """The objects alone, as `warp` moves them; a detector's results are mapped back to their image by this.

    Raises:
        ValueError: a matrix that is singular or not finite, or a canvas without pixels.
    """
    edges = edges or Edges()
    _check_canvas(size)
    inverse_of(matrix)  # says what is wrong with it
    masks = None if instances.masks is None else instances.masks.warp(matrix, size)
    unclipped = _map_object_boxes(instances, matrix)
    visible = _visible_fractions(instances, matrix, size, unclipped)
    boxes = clip_boxes(unclipped, size)
    if masks is not None and instances.masks is not None:
        masks = _keep_smallest(masks, instances.masks, visible)
        boxes = _boxes_from_masks(instances, masks, matrix, boxes)
    present = visible > 0
    if masks is not None and instances.scores is None:
        present &= (masks.areas() > 0) | ~instances.has_mask()  # else shrunk to nothing
    cut = visible < edges.min_visible_fraction
    if edges.cut == "drop":
        present &= ~cut
    ignore = instances.ignore | cut if edges.cut == "ignore" else instances.ignore
    return replace(instances, size=(size[0], size[1]), boxes=boxes, masks=masks, ignore=ignore)[present]


def _map_object_boxes(instances: Instances, matrix: Tensor) -> Tensor:
    """Mapped boxes `[N, 4]`, not clipped: exact where the axes stay axes, else of the ellipses that fill the boxes.

    The box of the mapped corners would grow with every rotation. A ground-truth box on whole pixels is the extent of
    an object's pixels, and so is the mapped one, as the boxes of moved masks are.
    """
    if is_axis_aligned(matrix):
        return map_boxes(matrix, instances.boxes)
    boxes = map_round_boxes(matrix, instances.boxes)
    if instances.scores is not None:
        return boxes
    low, high = boxes[:, :2].round(), boxes[:, 2:].round()
    is_empty = high <= low
    low = torch.where(is_empty, ((boxes[:, :2] + boxes[:, 2:]) / 2).floor(), low)
    on_pixels = (instances.boxes == instances.boxes.round()).all(dim=1, keepdim=True)
    return torch.where(on_pixels, torch.cat([low, torch.where(is_empty, low + 1, high)], dim=1), boxes)


def _boxes_from_masks(instances: Instances, masks: CroppedMasks, matrix: Tensor, boxes: Tensor) -> Tensor:
    """Boxes that follow the moved masks: of ground truth always, of predictions where the corners' would be loose."""
    if instances.scores is None:
        margins = map_margins(matrix[:, :2], compute_margins(instances))
        return add_margins(masks, margins, boxes)
    if is_axis_aligned(matrix):
        return boxes
    return torch.where((masks.areas() > 0)[:, None], masks.boxes(), boxes)


def compute_margins(instances: Instances) -> Tensor:
    """Box minus extent of the mask, float64 `[N, 4]`; zeros where the mask is empty."""
    assert instances.masks is not None
    margins = instances.boxes.double() - instances.masks.boxes().double()
    return torch.where(instances.has_mask()[:, None], margins, 0.0)


def add_margins(masks: CroppedMasks, margins: Tensor, others: Tensor) -> Tensor:
    """Boxes of masks that were moved or cut: their extent plus `margins`, cut to the canvas.

    Where that is empty, because most of the mask is gone, the extent alone. Objects with an empty mask get theirs of
    the boxes `others`.
    """
    extent = masks.boxes()
    boxes = clip_boxes(extent.double() + margins.to(extent.device), masks.size).to(extent.dtype)
    boxes = torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1)[:, None], boxes, extent)
    return torch.where((masks.areas() > 0)[:, None], boxes, others)


def _visible_fractions(instances: Instances, matrix: Tensor, size: Size, boxes: Tensor) -> Tensor:
    """Share of each object that lies on the new canvas, float32 `[N]`; `boxes` are the mapped ones, not clipped.

    Of ground truth with a mask, the share of the pixels inside whose centres come to lie there; else of the box.
    """
    masks = instances.masks if instances.scores is None else None
    drawn = instances.has_mask()
    if masks is not None:
        extent = map_boxes(matrix, masks.windows.to(boxes.dtype))  # the given ones may be tighter
        boxes = torch.where(drawn[:, None], extent, boxes)
    clipped = clip_boxes(boxes, size)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    share = torch.where(area > 0, left / area.clamp(min=1e-12), 0.0)
    if masks is None:
        return share
    visible = torch.where(drawn, (left > 0).to(share.dtype), share)
    edge = torch.nonzero(drawn & (visible > 0) & (clipped != boxes).any(dim=1)).flatten()
    if len(edge):
        visible[edge] = _share_inside(masks[edge], matrix, size)
    return visible


def _share_inside(masks: CroppedMasks, matrix: Tensor, size: Size) -> Tensor:
    owner, x, y = window_pixels(masks.windows)
    inside = masks.data >= 128
    owner, x, y = owner[inside], x[inside], y[inside]
    x, y = map_points(matrix, torch.stack([x, y], dim=1).double() + 0.5).unbind(1)
    on_canvas = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    kept = torch.zeros(len(masks), dtype=torch.float32, device=x.device).index_add_(0, owner, on_canvas.float())
    return kept / masks.areas().clamp(min=1)


def _keep_smallest(masks: CroppedMasks, before: CroppedMasks, visible: Tensor) -> CroppedMasks:
    """Objects of a pixel or two can fall between the new pixels: their highest levels are then raised to 255.

    Those that had no pixel `before` get none.
    """
    faded = (masks.areas() == 0) & (visible > 0)
    if not faded.any():
        return masks
    some = torch.nonzero(faded).flatten()
    faded[some] = before[some].areas() > 0
    owner = torch.repeat_interleave(masks.offsets.diff())
    peak = torch.zeros(len(masks), dtype=torch.uint8, device=masks.data.device)
    peak = peak.scatter_reduce(0, owner, masks.data, "amax")
    raised = faded[owner] & (masks.data > 0) & (masks.data == peak[owner])
    return replace(masks, data=torch.where(raised, 255, masks.data).to(torch.uint8))


def _mirrored(instances: Instances, matrix: Tensor, size: Size) -> list[Instances]:
    """The objects in the mirror images that a canvas shows beside the image itself, all set to ignore.

    Mirrored about the centres of its edge pixels, an image of length L repeats with a step of L − 1; every other copy
    is flipped.
    """
    height, width = instances.size
    shown = torch.tensor([[0.0, 0.0, size[1], size[0]]], dtype=torch.float64)
    x1, y1, x2, y2 = map_boxes(inverse_of(matrix), shown)[0].tolist()
    copies = []
    for row in _touched_copies(y1, y2, height):
        for column in _touched_copies(x1, x2, width):
            if row == column == 0:
                continue
            moved = compose(
                mirror((height, width), horizontal=column % 2 == 1, vertical=row % 2 == 1),
                translation(column * max(width - 1, 1), row * max(height - 1, 1)),
                matrix,
            )
            boxes = instances.boxes
            again = _on_shared_line(boxes, 0, column, width) | _on_shared_line(boxes, 1, row, height)
            fresh = instances[~again] if again.any() else instances
            copy = warp_instances(fresh, moved, size, Edges(cut="keep"))
            copies.append(replace(copy, ignore=torch.ones_like(copy.ignore)))
    return copies


def _on_shared_line(boxes: Tensor, axis: int, number: int, length: int) -> Tensor:
    """Bool `[N]`: which objects lie in the line of pixels alone that a copy shares with the one before it.

    There the one before shows them already.
    """
    if number == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    is_at_end = (number > 0) == (number % 2 == 1)
    return boxes[:, axis] >= length - 1 if is_at_end else boxes[:, axis + 2] <= 1


def _touched_copies(start: float, end: float, length: int) -> range:
    """Numbers of the copies of the image that show along one axis of [start, end)."""
    if length == 1:  # one pixel mirrored is that pixel: nothing repeats
        return range(1)
    first, last, step = int(start // 1), -int(-end // 1), length - 1
    # A window that ends on the pixel two copies share shows only the nearer one.
    return range(first // step, max(-((1 - last) // step), first // step + 1))


def check_sizes(image: Tensor, instances: Instances, channels: int | None = None) -> None:
    """ValueError unless an image `[C, H, W]`, of so many channels, has the size of its instances."""
    if image.dim() != 3 or tuple(image.shape) != (channels or image.shape[0], *instances.size):
        raise ValueError(
            f"image of shape {list(image.shape)} does not fit instances of size {tuple(instances.size)}: "
            f"[{channels or 'C'}, H, W] expected"
        )


def _check_canvas(size: Size) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be a height and a width of at least 1 pixel, got {tuple(size)}")
