"""What each operation on masks computes, in plain PyTorch; the faces in `masks.py` and `rle.py` document and check.

Masks are windows, offsets and data as in `masks.py`; x counts columns, y rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from maskrcnn.ops.reference import Parts, box_centres
from maskrcnn.ops.types import Windows

CHUNK = 1 << 22  # elements of a temporary: bounds the memory of the loops below


def offsets_of(windows: Tensor) -> Tensor:
    """Where each mask's pixels begin: int64 `[N + 1]`."""
    size = (windows[:, 2:] - windows[:, :2]).long()
    return torch.nn.functional.pad((size[:, 0] * size[:, 1]).cumsum(0), (1, 0))


def window_pixels(windows: Tensor) -> Parts:
    """Every pixel of every window, row-major: `(owner, x, y)`, int64 `[sum of areas]`."""
    offsets = offsets_of(windows)
    owner = torch.repeat_interleave(offsets.diff())
    position = torch.arange(len(owner), device=windows.device) - offsets[owner]
    x1, y1, x2, _ = windows.long()[owner].unbind(dim=1)
    width = x2 - x1
    return owner, x1 + position % width, y1 + position // width


def _parts_of(offsets: Tensor) -> tuple[Tensor, ...]:
    """int64 indices of windows in runs of about CHUNK / 8 pixels (each needs many bytes), one window at least."""
    all_windows = torch.arange(len(offsets) - 1, device=offsets.device)
    counts: list[int] = torch.unique_consecutive(offsets[:-1] // max(1, CHUNK // 8), return_counts=True)[1].tolist()
    return torch.split(all_windows, counts)


def _draw(windows: Tensor, level: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Parts:
    """Masks in `windows` whose levels 0..255 are `level(owner, x, y)`, asked for part by part."""
    offsets = offsets_of(windows)
    data = torch.empty(int(offsets[-1]), dtype=torch.uint8, device=windows.device)
    for part in _parts_of(offsets):
        owner, x, y = window_pixels(windows[part])
        values = level(part[owner], x, y)
        values = values.round().clamp(0, 255) if values.is_floating_point() else values
        data[offsets[part[0]] : offsets[part[-1] + 1]] = values.to(torch.uint8)
    return windows, offsets, data


def lookup(masks: Windows, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Levels of masks `owner` at integer pixels, uint8; 0 outside the window."""
    windows, offsets, data = masks
    if len(data) == 0:
        return torch.zeros_like(owner, dtype=torch.uint8)
    x1, y1, x2, y2 = windows.long()[owner].unbind(dim=1)
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    position = offsets[owner] + (y - y1) * (x2 - x1) + (x - x1)
    return data[torch.where(inside, position, 0)] * inside


def bilinear(masks: Windows, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Levels at continuous coordinates where pixel j has its centre at j; float32."""
    left, top = x.floor(), y.floor()
    fx, fy = x - left, y - top
    left, top = left.long(), top.long()
    upper = lookup(masks, owner, left, top) * (1 - fx) + lookup(masks, owner, left + 1, top) * fx
    lower = lookup(masks, owner, left, top + 1) * (1 - fx) + lookup(masks, owner, left + 1, top + 1) * fx
    return upper * (1 - fy) + lower * fy


def crop_masks(masks: Windows, x: int, y: int, size: tuple[int, int]) -> Parts:
    origin = torch.tensor([x, y, x, y], dtype=torch.int32, device=masks.windows.device)
    windows = clip_windows(masks.windows - origin, size)
    return _draw(windows, lambda owner, column, row: lookup(masks, owner, column + x, row + y))


def clip_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows cut to a canvas (H, W); those outside become empty."""
    limit = torch.tensor([size[1], size[0]], dtype=windows.dtype, device=windows.device)
    low = torch.minimum(windows[:, :2].clamp(min=0), limit)
    high = torch.maximum(torch.minimum(windows[:, 2:], limit), low)
    empty = ((high - low) == 0).any(dim=1, keepdim=True)
    return torch.cat([low, torch.where(empty, low, high)], dim=1)


def flip_masks(masks: Windows, size: tuple[int, int], horizontal: bool, vertical: bool) -> Parts:
    x1, y1, x2, y2 = masks.windows.unbind(dim=1)
    if horizontal:
        x1, x2 = size[1] - x2, size[1] - x1
    if vertical:
        y1, y2 = size[0] - y2, size[0] - y1

    def level(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return lookup(masks, owner, size[1] - 1 - x if horizontal else x, size[0] - 1 - y if vertical else y)

    return _draw(torch.stack([x1, y1, x2, y2], dim=1), level)


def transpose_masks(masks: Windows) -> Parts:
    return _draw(masks.windows[:, [1, 0, 3, 2]], lambda owner, x, y: lookup(masks, owner, y, x))


def resize_masks(masks: Windows, size: tuple[int, int], new_size: tuple[int, int]) -> Parts:
    # float32 throughout, so that pixels are those that PyTorch's nearest interpolation takes.
    step_y, step_x = (
        torch.tensor(old / new, device=masks.windows.device) for old, new in zip(size, new_size, strict=True)
    )
    step = torch.stack([step_x, step_y])
    low, high = masks.windows[:, :2] / step, masks.windows[:, 2:] / step
    windows = clip_windows(torch.cat([low.floor() - 1, high.ceil() + 1], dim=1).int(), new_size)
    windows = torch.where((masks.offsets.diff() == 0)[:, None], torch.zeros_like(windows), windows)
    return _draw(windows, lambda owner, x, y: lookup(masks, owner, (x * step_x).long(), (y * step_y).long()))


def warp_masks(masks: Windows, matrix: Tensor, size: tuple[int, int]) -> Parts:
    matrix = matrix.to(masks.windows.device, torch.float64)
    if not torch.isfinite(matrix).all() or abs(float(torch.linalg.det(matrix[:, :2]))) < 1e-12:
        raise ValueError(f"matrix must be finite and invertible, got {matrix.tolist()}")
    inverse = torch.linalg.inv(matrix[:, :2])
    corners = masks.windows[:, [0, 1, 2, 1, 0, 3, 2, 3]].view(-1, 4, 2).double() @ matrix[:, :2].T + matrix[:, 2]
    low, high = corners.amin(dim=1).floor() - 1, corners.amax(dim=1).ceil() + 1
    limit = 2 * max(size)  # int32 holds the clipped windows whatever the matrix
    windows = clip_windows(torch.cat([low, high], dim=1).clamp(-limit, limit).int(), size)
    windows = torch.where((masks.offsets.diff() == 0)[:, None], torch.zeros_like(windows), windows)

    def level(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        source = (torch.stack([x, y], dim=1) + 0.5 - matrix[:, 2]) @ inverse.T - 0.5
        return bilinear(masks, owner, source[:, 0].float(), source[:, 1].float())

    return _draw(windows, level)


def sample_masks(
    masks: Windows,
    size: tuple[int, int],
    boxes: Tensor,
    index: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    soft: bool,
) -> Tensor:
    start = boxes[:, :2] - (0.5 if aligned else 0.0)
    extent = boxes[:, 2:] - boxes[:, :2] if aligned else (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    result = torch.zeros(len(boxes), output_size, output_size, device=boxes.device)
    ratio = (extent / output_size).ceil().clamp(min=1).long()
    ratio = torch.full_like(ratio, sampling_ratio) if sampling_ratio else ratio
    for gx, gy in torch.unique(ratio, dim=0).tolist():
        members = torch.nonzero((ratio[:, 0] == gx) & (ratio[:, 1] == gy)).flatten()
        for part in torch.split(members, max(1, CHUNK // (output_size**2 * gx * gy))):
            x = _bin_samples(start[part, 0], extent[part, 0], output_size, gx, size[1])
            y = _bin_samples(start[part, 1], extent[part, 1], output_size, gy, size[0])
            rows = torch.split(y, max(1, CHUNK // x.numel()), dim=1)
            level = torch.cat([_levels_on_grid(masks, index[part], x, some) for some in rows], dim=1)
            level = level.view(len(part), output_size, gy, output_size, gx).mean(dim=(2, 4))
            result[part] = level / 255
    return result if soft else (result >= 0.5).float()


def _bin_samples(start: Tensor, extent: Tensor, bins: int, samples: int, limit: int) -> Tensor:
    """Coordinates along one axis, `[K, bins * samples]`, held inside the canvas; -2 where over a pixel beyond it."""
    step = (torch.arange(bins * samples, device=start.device) + 0.5) / (bins * samples)
    at = start[:, None] + extent[:, None] * step
    return torch.where((at < -1) | (at > limit), -2, at.clamp(0, limit - 1))


def _levels_on_grid(masks: Windows, index: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`bilinear` of masks `index [K]` at the grids of `x [K, X]` and `y [K, Y]`: float32 `[K, Y, X]`."""
    windows, offsets, data = masks
    level = torch.zeros(len(x), y.shape[1], x.shape[1], device=x.device)
    if len(data) == 0:
        return level
    x1, y1, x2, y2 = windows[index].unbind(dim=1)
    first = offsets[index].clamp(max=len(data) - 1)[:, None, None]
    for row, row_weight in _taps(y, y1, y2):
        row_start = first + row[:, :, None] * (x2 - x1)[:, None, None]
        for column, column_weight in _taps(x, x1, x2):
            weight = row_weight[:, :, None] * column_weight[:, None, :]
            level += data[row_start + column[:, None, :]] * weight
    return level


def _taps(at: Tensor, low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around each coordinate, counted from the window's edge `low`, and their weights, 0 outside."""
    left = at.floor()
    fraction = at - left
    pixel = left.long() - low[:, None]
    last = (high - low)[:, None] - 1
    taps = ((pixel, 1 - fraction), (pixel + 1, fraction))
    return [(torch.minimum(p.clamp(min=0), last.clamp(min=0)), w * ((p >= 0) & (p <= last))) for p, w in taps]


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Parts:
    side = probabilities.shape[-1]
    low, high = (boxes[:, :2] - 0.5).ceil(), (boxes[:, 2:] - 0.5).ceil()
    centre = box_centres(boxes).floor()
    missed = high <= low
    low, high = torch.where(missed, centre, low), torch.where(missed, centre + 1, high)
    limit = 2 * max(size)
    windows = clip_windows(torch.cat([low, high], dim=1).clamp(-limit, limit).int(), size)
    scale = side / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)

    def level(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        u = ((x + 0.5 - boxes[owner, 0]) * scale[owner, 0] - 0.5).clamp(0, side - 1)
        v = ((y + 0.5 - boxes[owner, 1]) * scale[owner, 1] - 0.5).clamp(0, side - 1)
        left, top = u.long().clamp(max=max(0, side - 2)), v.long().clamp(max=max(0, side - 2))
        fx, fy = u - left, v - top
        right, bottom = (left + 1).clamp(max=side - 1), (top + 1).clamp(max=side - 1)
        upper = probabilities[owner, top, left] * (1 - fx) + probabilities[owner, top, right] * fx
        lower = probabilities[owner, bottom, left] * (1 - fx) + probabilities[owner, bottom, right] * fx
        return (upper * (1 - fy) + lower * fy) * 255

    return _draw(windows, level)


def mask_iou(masks1: Windows, masks2: Windows) -> Parts:
    rows, columns = _overlapping_windows(masks1.windows, masks2.windows)
    low = torch.maximum(masks1.windows[rows, :2], masks2.windows[columns, :2])
    high = torch.minimum(masks1.windows[rows, 2:], masks2.windows[columns, 2:])
    shared = torch.cat([low, high], dim=1)
    intersection = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for part in _parts_of(offsets_of(shared)):
        owner, x, y = window_pixels(shared[part])
        first = lookup(masks1, rows[part][owner], x, y) >= 128
        both = first & (lookup(masks2, columns[part][owner], x, y) >= 128)
        intersection[part] = torch.zeros_like(part).index_add_(0, owner, both.long())
    union = mask_areas(masks1)[rows] + mask_areas(masks2)[columns] - intersection
    hit = intersection > 0
    return rows[hit], columns[hit], (intersection[hit] / union[hit]).float()


def _overlapping_windows(windows1: Tensor, windows2: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns, first = [], [], 0
    for chunk in torch.split(windows1, max(1, CHUNK // max(1, len(windows2)))):
        low = torch.maximum(chunk[:, None, :2], windows2[:, :2])
        high = torch.minimum(chunk[:, None, 2:], windows2[:, 2:])
        row, column = torch.nonzero((high > low).all(dim=2), as_tuple=True)
        rows.append(row + first)
        columns.append(column)
        first += len(chunk)
    if not rows:
        nothing = torch.zeros(0, dtype=torch.int64, device=windows1.device)
        return nothing, nothing
    return torch.cat(rows), torch.cat(columns)


def mask_areas(masks: Windows) -> Tensor:
    """Pixels inside each mask: int64 `[N]`."""
    total = torch.nn.functional.pad((masks.data >= 128).long().cumsum(0), (1, 0))
    return total[masks.offsets].diff()


def mask_boxes(masks: Windows) -> Tensor:
    """Tight boxes of the pixels inside, float32 `[N, 4]`; zeros where a mask is empty."""
    owner, x, y = window_pixels(masks.windows)
    inside = masks.data >= 128
    owner, x, y = owner[inside], x[inside], y[inside]
    return bounds(owner, x, y, len(masks.windows)).float()


def bounds(owner: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
    """Bounding windows (exclusive end) of pixels that belong to `owner`, int64 `[count, 4]`; zeros where none."""
    low = torch.full((count, 2), torch.iinfo(torch.int64).max, device=x.device)
    high = torch.zeros(count, 2, dtype=torch.int64, device=x.device)
    points, to = torch.stack([x, y], dim=1), owner[:, None].expand(-1, 2)
    low.scatter_reduce_(0, to, points, "amin")
    high.scatter_reduce_(0, to, points + 1, "amax")
    return torch.cat([torch.where(high > 0, low, 0), high], dim=1)


def label_image(masks: Windows, size: tuple[int, int], min_visible_fraction: float) -> tuple[Tensor, Tensor]:
    labels = torch.zeros(size, dtype=torch.int32).numpy()
    windows, offsets, data = masks.windows.tolist(), masks.offsets.tolist(), (masks.data >= 128).cpu().numpy()
    kept = torch.zeros(len(windows), dtype=torch.bool)
    number = 0
    for i, (x1, y1, x2, y2) in enumerate(windows):
        inside = data[offsets[i] : offsets[i + 1]].reshape(y2 - y1, x2 - x1)
        under = labels[y1:y2, x1:x2]
        free = inside & (under == 0)
        visible, total = int(free.sum()), int(inside.sum())
        if visible > min_visible_fraction * total:
            number += 1
            under[free] = number
            kept[i] = True
    device = masks.windows.device
    return torch.from_numpy(labels).to(device), kept.to(device)


def masks_from_label_image(labels: Tensor, ids: Tensor) -> Parts:
    order = torch.argsort(ids)
    y, x = torch.nonzero(labels, as_tuple=True)
    value = labels[y, x].long()
    place = torch.searchsorted(ids[order], value).clamp(max=max(0, len(ids) - 1))
    known = ids[order][place] == value if len(ids) else torch.zeros_like(value, dtype=torch.bool)
    windows = bounds(order[place[known]], x[known], y[known], len(ids)).int()
    owner, x, y = window_pixels(windows)
    return windows, offsets_of(windows), (labels[y, x] == ids[owner]).to(torch.uint8) * 255
