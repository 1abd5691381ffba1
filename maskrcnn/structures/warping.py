"""Affine warping of samples: image, boxes, and masks are transformed by the same matrix.

A sample is an image `[C, H, W]` (uint8, uint16 or float32, which is kept) and its `Instances`. Inputs are not modified.
Ground-truth boxes follow the warped masks: the margins between a box and the extent of its mask are mapped, too. Boxes
without masks or with empty masks, and boxes of predictions (which have scores), are mapped themselves; under rotation
and shear, as if an ellipse filled them.
"""

from dataclasses import replace

import torch
from torch import Tensor

from maskrcnn.ops.affine import invert
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
from maskrcnn.structures.pixels import Pixels, read_canvas

Sample = tuple[Tensor, Instances]


def warp(
    image: Tensor | Pixels, instances: Instances, matrix: Tensor, size: Size, edges: Edges | None = None
) -> Sample:
    """Warp a sample to a new canvas.

    Pixels are interpolated bilinearly and antialiased if the image shrinks; translations by whole pixels, flips,
    transposes, and 90° rotations are exact. The result may contain no objects.

    Args:
        image: `[C, H, W]`, or `Pixels`, of which only the visible window is read.
        instances: objects of the image.
        matrix: `[2, 3]`, from old to new coordinates (see `maskrcnn.structures.affine`).
        size: size of the canvas (H, W).
        edges: padding and treatment of cut objects.

    Raises:
        ValueError: If the matrix is singular or not finite, the canvas has no pixels, or the size of the image is not
            that of its instances.
    """
    edges = edges or Edges()
    _check_canvas(size)
    if isinstance(image, Tensor):
        check_sizes(image, instances)
        window, from_window = image, matrix
    else:
        window, from_window = read_canvas(image, matrix, size, edges.pad_mode)
    pixels = warp_image(window, from_window, size, edges.pad_mode)
    moved = warp_instances(instances, matrix, size, edges)
    if edges.pad_mode != "reflect":
        return pixels, moved
    return pixels, Instances.cat([moved, *_mirror_objects(instances, matrix, size)])


def warp_instances(instances: Instances, matrix: Tensor, size: Size, edges: Edges | None = None) -> Instances:
    """Warp objects as `warp` does; also used to map detections back to their image.

    Raises:
        ValueError: If the matrix is singular or not finite, or the canvas has no pixels.
    """
    edges = edges or Edges()
    _check_canvas(size)
    invert(matrix)  # raises an error for an invalid matrix
    masks = None if instances.masks is None else instances.masks.warp(matrix, size)
    unclipped = _map_object_boxes(instances, matrix)
    visible = _visible_fractions(instances, matrix, size, unclipped)
    boxes = clip_boxes(unclipped, size)
    if masks is not None and instances.masks is not None:
        masks = _keep_smallest(masks, instances.masks, visible)
        boxes = _boxes_from_masks(instances, masks, matrix, boxes)
    present = visible > 0
    if masks is not None and instances.scores is None:
        present &= (
            masks.areas() > 0
        ) | ~instances.has_mask()  # without this, objects that shrank to nothing would stay
    cut = visible < edges.min_visible_fraction
    if edges.cut == "drop":
        present &= ~cut
    ignore = instances.ignore | cut if edges.cut == "ignore" else instances.ignore
    return replace(instances, size=(size[0], size[1]), boxes=boxes, masks=masks, ignore=ignore)[present]


def _map_object_boxes(instances: Instances, matrix: Tensor) -> Tensor:
    """Map boxes `[N, 4]` without clipping: exactly if the axes stay parallel, otherwise as ellipses filling the boxes.

    The bounding box of mapped corners would grow with every rotation. A ground-truth box with integer coordinates is
    the extent of an object's pixels; it is rounded after mapping, so that it is one again, like the boxes of masks.
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
    """Compute boxes from warped masks: always for ground truth, for predictions only under rotation or shear."""
    if instances.scores is None:
        margins = map_margins(matrix[:, :2], compute_margins(instances))
        return add_margins(masks, margins, boxes)
    if is_axis_aligned(matrix):
        return boxes
    return torch.where((masks.areas() > 0)[:, None], masks.boxes(), boxes)


def compute_margins(instances: Instances) -> Tensor:
    """Compute the margins (box minus extent of the mask), float64 `[N, 4]`; zeros if the mask is empty."""
    assert instances.masks is not None
    margins = instances.boxes.double() - instances.masks.boxes().double()
    return torch.where(instances.has_mask()[:, None], margins, 0.0)


def add_margins(masks: CroppedMasks, margins: Tensor, others: Tensor) -> Tensor:
    """Compute boxes of warped or cropped masks: their extent plus margins, clipped to the canvas.

    If such a box is empty because most of the mask is gone, it is the extent alone.

    Args:
        masks: N masks.
        margins: `[N, 4]`, see `compute_margins`.
        others: boxes `[N, 4]` of objects whose mask is empty.
    """
    extent = masks.boxes()
    boxes = clip_boxes(extent.double() + margins.to(extent.device), masks.size).to(extent.dtype)
    boxes = torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1)[:, None], boxes, extent)
    return torch.where((masks.areas() > 0)[:, None], boxes, others)


def _visible_fractions(instances: Instances, matrix: Tensor, size: Size, boxes: Tensor) -> Tensor:
    """Compute the fraction of each object on the new canvas, float32 `[N]`; `boxes` are mapped and not clipped.

    For ground truth with a mask it is the fraction of mask pixels whose centers are mapped to the canvas, otherwise
    the fraction of the box area.
    """
    masks = instances.masks if instances.scores is None else None
    drawn = instances.has_mask()
    if masks is not None:
        extent = map_boxes(matrix, masks.windows.to(boxes.dtype))  # the boxes may be smaller than the masks
        boxes = torch.where(drawn[:, None], extent, boxes)
    clipped = clip_boxes(boxes, size)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    fraction = torch.where(area > 0, left / area.clamp(min=1e-12), 0.0)
    if masks is None:
        return fraction
    visible = torch.where(drawn, (left > 0).to(fraction.dtype), fraction)
    edge = torch.nonzero(drawn & (visible > 0) & (clipped != boxes).any(dim=1)).flatten()
    if len(edge):
        visible[edge] = _visible_pixel_fractions(masks[edge], matrix, size)
    return visible


def _visible_pixel_fractions(masks: CroppedMasks, matrix: Tensor, size: Size) -> Tensor:
    owner, x, y = window_pixels(masks.windows)
    inside = masks.data >= 128
    owner, x, y = owner[inside], x[inside], y[inside]
    x, y = map_points(matrix, torch.stack([x, y], dim=1).double() + 0.5).unbind(1)
    on_canvas = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    kept = torch.zeros(len(masks), dtype=torch.float32, device=x.device).index_add_(0, owner, on_canvas.float())
    return kept / masks.areas().clamp(min=1)


def _keep_smallest(masks: CroppedMasks, before: CroppedMasks, visible: Tensor) -> CroppedMasks:
    """Keep masks of one or two pixels that would fade between the new pixels: raise their highest levels to 255.

    Masks that were empty `before` stay empty.
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


def _mirror_objects(instances: Instances, matrix: Tensor, size: Size) -> list[Instances]:
    """Return the objects in the mirror images visible on the canvas beside the image itself, all of them ignored.

    An image of length L, mirrored about the centers of its edge pixels, repeats with a period of L − 1; every other
    copy is flipped.
    """
    height, width = instances.size
    shown = torch.tensor([[0.0, 0.0, size[1], size[0]]], dtype=torch.float64)
    x1, y1, x2, y2 = map_boxes(invert(matrix), shown)[0].tolist()
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
    """Return which objects are entirely on the line of pixels that a copy shares with the previous one, bool `[N]`.

    The previous copy already shows these objects.
    """
    if number == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    is_at_end = (number > 0) == (number % 2 == 1)
    return boxes[:, axis] >= length - 1 if is_at_end else boxes[:, axis + 2] <= 1


def _touched_copies(start: float, end: float, length: int) -> range:
    """Return the numbers of the copies of the image that are visible in [start, end) of one axis."""
    if length == 1:  # an image of one pixel does not repeat
        return range(1)
    first, last, step = int(start // 1), -int(-end // 1), length - 1
    # If a window ends on the pixel shared by two copies, only the nearer copy is visible.
    return range(first // step, max(-((1 - last) // step), first // step + 1))


def check_sizes(image: Tensor, instances: Instances, channels: int | None = None) -> None:
    """Check that an image is `[C, H, W]` with the size of its instances and, if given, the number of channels.

    Raises:
        ValueError: If it is not.
    """
    if image.dim() != 3 or tuple(image.shape) != (channels or image.shape[0], *instances.size):
        raise ValueError(
            f"image of shape {list(image.shape)} does not fit instances of size {tuple(instances.size)}: "
            f"[{channels or 'C'}, H, W] expected"
        )


def _check_canvas(size: Size) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be a height and a width of at least 1 pixel, got {tuple(size)}")
