"""Masks stored as windows: cost grows with the objects, never with objects × image area.

N masks are three tensors: `windows` int32 `[N, 4]` (x1 y1 x2 y2, exclusive end, inside the canvas), `offsets` int64 `[N
+ 1]`, and `data` uint8 `[sum of window areas]`, row-major, one level 0..255 per pixel; a pixel is inside if its level
is at least 128.

All operations raise a ValueError or RuntimeError for shapes, dtypes, or devices that do not match, offsets that are not
the cumulative areas of the windows, an index out of range, or a non-finite box.
"""

import torch
from torch import Tensor

from maskrcnn.ops import reference_masks as reference
from maskrcnn.ops._native import native
from maskrcnn.ops.affine import invert, resolve_num_samples
from maskrcnn.ops.checks import check_boxes, check_like, check_positive
from maskrcnn.ops.types import Windows
from maskrcnn.ops.windows import draw_levels, levels_at, window_offsets


def crop_masks(masks: Windows, x: int, y: int, size: tuple[int, int]) -> Windows:
    """Crop the masks to a canvas of `size` (H, W) with its origin at (x, y), possibly negative, of the old canvas."""
    origin = torch.tensor([x, y, x, y], dtype=torch.int32, device=masks.windows.device)
    return _warp_into_windows(masks, [[1, 0, x], [0, 1, y]], clip_windows(masks.windows - origin, size))


def flip_masks(masks: Windows, size: tuple[int, int], horizontal: bool, vertical: bool) -> Windows:
    """Flip the masks on their canvas of `size` (H, W)."""
    x1, y1, x2, y2 = masks.windows.unbind(dim=1)
    matrix = [[1, 0, 0], [0, 1, 0]]
    if horizontal:
        x1, x2, matrix[0] = size[1] - x2, size[1] - x1, [-1, 0, size[1]]
    if vertical:
        y1, y2, matrix[1] = size[0] - y2, size[0] - y1, [0, -1, size[0]]
    return _warp_into_windows(masks, matrix, torch.stack([x1, y1, x2, y2], dim=1))


def transpose_masks(masks: Windows) -> Windows:
    """Swap x and y of the masks."""
    return _warp_into_windows(masks, [[0, 1, 0], [1, 0, 0]], masks.windows[:, [1, 0, 3, 2]].contiguous())


def resize_masks(masks: Windows, size: tuple[int, int], new_size: tuple[int, int]) -> Windows:
    """Resize the masks from a canvas of `size` to `new_size` (H, W): pixel j takes pixel floor(j * old / new)."""
    # float32 throughout, so that pixels equal those of PyTorch's nearest interpolation.
    step_y, step_x = (
        torch.tensor(old / new, dtype=torch.float32, device=masks.windows.device)
        for old, new in zip(size, new_size, strict=True)
    )
    step = torch.stack([step_x, step_y])
    low, high = masks.windows[:, :2] / step, masks.windows[:, 2:] / step
    windows = _nonempty(masks, clip_windows(torch.cat([low.floor() - 1, high.ceil() + 1], dim=1).int(), new_size))
    offsets = window_offsets(windows)

    def level(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return levels_at(masks, owner, (x * step_x).long(), (y * step_y).long())

    return Windows(windows, offsets, draw_levels(windows, offsets, level))


def warp_masks(masks: Windows, matrix: Tensor, size: tuple[int, int], samples: int | None = None) -> Windows:
    """Warp the masks by an affine map, with bilinear levels, onto a canvas of `size` (H, W).

    Args:
        masks: N masks.
        matrix: float `[2, 3]`, from old to new continuous pixel coordinates.
        size: (H, W) of the new canvas.
        samples: number of samples along each axis of a new pixel, which are averaged; default: see
            `choose_num_samples`.

    Returns:
        The masks.

    Raises:
        ValueError: If the matrix is singular or not finite, or samples are not 1 to 64.
    """
    samples = resolve_num_samples(samples, matrix)
    back = invert(matrix)
    matrix = matrix.to(masks.windows.device, torch.float64)
    # Bilinear levels fall to 0 within half a pixel around a window.
    reach = torch.tensor([-0.5, -0.5, 0.5, 0.5], dtype=torch.float64, device=matrix.device)
    corners = (masks.windows + reach)[:, [0, 1, 2, 1, 0, 3, 2, 3]].view(-1, 4, 2) @ matrix[:, :2].T + matrix[:, 2]
    windows = torch.cat([corners.amin(dim=1).floor(), corners.amax(dim=1).ceil()], dim=1)
    return _warp_into_windows(masks, back, _nonempty(masks, clip_windows(_to_int32(windows, size), size)), samples)


def _warp_into_windows(masks: Windows, matrix: Tensor | list[list[int]], windows: Tensor, samples: int = 1) -> Windows:
    """Warp the masks into `windows`; `matrix` maps new to old coordinates."""
    device = masks.windows.device
    back = torch.as_tensor(matrix, dtype=torch.float64, device=device).contiguous()
    offsets = window_offsets(windows)
    return Windows(windows, offsets, native(reference.warp_masks, device)(*masks, back, windows, offsets, samples))


def sample_masks(
    masks: Windows,
    size: tuple[int, int],
    boxes: Tensor,
    index: Tensor,
    output_size: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    soft: bool = True,
) -> Tensor:
    """Compute the targets of a mask head by RoIAlign of the masks at boxes.

    Args:
        masks: N masks.
        size: canvas (H, W).
        boxes: float `[K, 4]`, xyxy in pixels, finite.
        index: int64 `[K]`, mask of each box.
        output_size: S.
        sampling_ratio: samples in each bin along each axis; 0: adaptive, as many as the bin has pixels, rounded up, so
            that an empty or inverted box gives 0 if aligned.
        aligned: half-pixel correction as in `roi_align`.
        soft: False thresholds at .5.

    Returns:
        float32 `[K, S, S]` in [0, 1].

    Source: He et al., Mask R-CNN, arXiv 1703.06870, section 3.1.
    """
    check_boxes(boxes=boxes)
    check_like(boxes, index=index)
    check_positive(output_size=output_size)
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must not be negative, got {sampling_ratio}")
    sample = native(reference.sample_masks, boxes.device)
    boxes, index = boxes.float().contiguous(), index.long().contiguous()
    return sample(*masks, *size, boxes, index, output_size, sampling_ratio, aligned, soft)


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Windows:
    """Paste S × S probabilities into their boxes, bilinearly; only pixels with centers inside the box are set.

    Args:
        probabilities: float `[N, S, S]` in [0, 1]; the S × S cells tile the box, with values at cell centers, constant
            from the outermost centers to the edge.
        boxes: float `[N, 4]`, xyxy in pixels. A box between pixel centers gets the pixel that contains its center.
        size: canvas (H, W).

    Returns:
        The masks.

    Source: He et al., Mask R-CNN, arXiv 1703.06870, section 3.1: the m × m output is resized to the RoI and binarized
    at .5; here levels are kept, and binarized when read.
    """
    check_boxes(boxes=boxes)
    if probabilities.ndim != 3 or len(probabilities) != len(boxes) or probabilities.shape[1] != probabilities.shape[2]:
        raise ValueError(f"probabilities must be [{len(boxes)}, S, S] like boxes, got {list(probabilities.shape)}")
    if probabilities.device != boxes.device:
        raise ValueError(f"probabilities must be on {boxes.device} like boxes, got {probabilities.device}")
    boxes = boxes.float().contiguous()
    low, high = (boxes[:, :2] - 0.5).ceil(), (boxes[:, 2:] - 0.5).ceil()
    center = ((boxes[:, :2] + boxes[:, 2:]) / 2).floor()
    missed = high <= low
    low, high = torch.where(missed, center, low), torch.where(missed, center + 1, high)
    windows = clip_windows(_to_int32(torch.cat([low, high], dim=1), size), size)
    offsets = window_offsets(windows)
    paste = native(reference.paste_masks, boxes.device)
    return Windows(windows, offsets, paste(probabilities.float().contiguous(), boxes, windows, offsets))


def clip_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip windows to a canvas (H, W); those outside become empty."""
    limit = torch.tensor([size[1], size[0]], dtype=windows.dtype, device=windows.device)
    low = torch.minimum(windows[:, :2].clamp(min=0), limit)
    high = torch.maximum(torch.minimum(windows[:, 2:], limit), low)
    empty = ((high - low) == 0).any(dim=1, keepdim=True)
    return torch.cat([low, torch.where(empty, low, high)], dim=1)


def _to_int32(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert to int32 after clamping far-away windows that would overflow; NaN becomes 0."""
    limit = 2 * max(size)
    return windows.nan_to_num(0.0).clamp(-limit, limit).int()


def _nonempty(masks: Windows, windows: Tensor) -> Tensor:
    """Return `windows`, but empty where the masks' windows are empty."""
    return torch.where((masks.offsets.diff() == 0)[:, None], torch.zeros_like(windows), windows)


def measure_masks(masks: Windows) -> tuple[Tensor, Tensor]:
    """Compute the number of pixels inside each mask, int64 `[N]`, and tight boxes, int32 `[N, 4]`, zeros if empty."""
    return native(reference.measure_masks, masks.windows.device)(*masks)


def pick_masks(masks: Windows, index: Tensor) -> Windows:
    """Select masks by an int `[K]` index in 0..N-1."""
    if index.ndim != 1 or index.dtype == torch.bool:
        raise ValueError(f"index must be [K] numbers of masks, got {list(index.shape)} of {index.dtype}")
    return Windows(*native(reference.pick_masks, masks.windows.device)(*masks, index.long().contiguous()))


def mask_iou(masks1: Windows, masks2: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the IoU of all overlapping pairs, as `(rows int64 [P], columns int64 [P], iou float32 [P])`, sorted."""
    return native(reference.mask_iou, masks1.windows.device)(*masks1, *masks2)


def label_image(masks: Windows, size: tuple[int, int], min_visible_fraction: float = 0.0) -> tuple[Tensor, Tensor]:
    """Paint the masks into one label image, earlier masks on top.

    A mask is kept if more than `min_visible_fraction` of it is still free; kept masks are numbered 1, 2, … (as in
    Britefury's Mask R-CNN for the Data Science Bowl 2018).

    Args:
        masks: N masks.
        size: canvas (H, W).
        min_visible_fraction: fraction in 0..1.

    Returns:
        Labels int32 `[H, W]` and kept bool `[N]`.
    """
    return native(reference.label_image, masks.windows.device)(*masks, *size, float(min_visible_fraction))


def masks_from_label_image(labels: Tensor, ids: Tensor) -> Windows:
    """Extract the masks of distinct `ids` int64 `[N]` from a label image int `[H, W]`; empty if an id is missing."""
    if labels.ndim != 2:
        raise ValueError(f"labels must be [H, W], got {list(labels.shape)}")
    return Windows(
        *native(reference.masks_from_label_image, labels.device)(labels.int().contiguous(), ids.long().contiguous())
    )
