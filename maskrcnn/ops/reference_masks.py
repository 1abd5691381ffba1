"""Reference implementations of the operations on masks in plain PyTorch.

Masks are windows, offsets, and data as in `masks.py`; x is the column and y the row. Operations that draw masks take
the new windows and offsets and return the data.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from maskrcnn.ops.reference import CHUNK, Parts, bin_samples
from maskrcnn.ops.reference_images import mean_of_samples
from maskrcnn.ops.types import Windows
from maskrcnn.ops.windows import (
    bilinear_levels,
    draw_levels,
    levels_at,
    pixel_bounds,
    split_windows,
    window_offsets,
    window_pixels,
)


def warp_masks(
    windows: Tensor,
    offsets: Tensor,
    data: Tensor,
    matrix: Tensor,
    new_windows: Tensor,
    new_offsets: Tensor,
    samples: int,
) -> Tensor:
    """Warp masks; `matrix` float64 `[2, 3]` maps new to old continuous coordinates."""
    masks = Windows(windows, offsets, data)

    def level(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return mean_of_samples(matrix, x, y, samples, lambda u, v: bilinear_levels(masks, owner, u, v))

    return draw_levels(new_windows, new_offsets, level)


def sample_masks(
    windows: Tensor,
    offsets: Tensor,
    data: Tensor,
    height: int,
    width: int,
    boxes: Tensor,
    index: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    soft: bool,
) -> Tensor:
    """Sample masks inside boxes, float32 `[K, S, S]`."""
    masks, limits = Windows(windows, offsets, data), (width, height)
    start = boxes - (0.5 if aligned else 0.0)
    extent = boxes[:, 2:] - boxes[:, :2]
    extent = extent if aligned else extent.clamp(min=1)
    result = torch.zeros(len(boxes), output_size, output_size, dtype=torch.float32, device=boxes.device)
    # The result of an empty or inverted box without adaptive samples is 0, as in `reference.roi_align`.
    ratio = (extent / output_size).ceil().clamp(min=0).long()
    ratio = torch.full_like(ratio, sampling_ratio) if sampling_ratio else ratio
    for gx, gy in torch.unique(ratio[(ratio > 0).all(dim=1)], dim=0).tolist():
        members = torch.nonzero((ratio[:, 0] == gx) & (ratio[:, 1] == gy)).flatten()
        for part in torch.split(members, max(1, CHUNK // (output_size**2 * gx * gy))):
            samples = bin_samples(start[part], extent[part], (output_size, output_size), (gx, gy))
            # Coordinates are clamped to the canvas; those beyond it are set to -2, where there is no pixel.
            x, y = (
                torch.where((at < -1) | (at > limit), -2, at.clamp(0, limit - 1))
                for at, limit in zip(samples, limits, strict=True)
            )
            rows = torch.split(y, max(1, CHUNK // x.numel()), dim=1)
            level = torch.cat([_levels_on_grid(masks, index[part], x, some) for some in rows], dim=1)
            result[part] = level.view(len(part), output_size, gy, output_size, gx).mean(dim=(2, 4)) / 255
    return result if soft else (result >= 0.5).float()


def _levels_on_grid(masks: Windows, index: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample masks `index` `[K]` bilinearly at grids of `x` `[K, X]` and `y` `[K, Y]`, float32 `[K, Y, X]`."""
    windows, offsets, data = masks
    level = torch.zeros(len(x), y.shape[1], x.shape[1], dtype=torch.float32, device=x.device)
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
    """Return the two pixels around each coordinate, relative to the edge `low` of the window, and their weights."""
    left = at.floor()
    fraction = at - left
    pixel = left.long() - low[:, None]
    last = (high - low)[:, None] - 1
    taps = ((pixel, 1 - fraction), (pixel + 1, fraction))
    return [(torch.minimum(p.clamp(min=0), last.clamp(min=0)), w * ((p >= 0) & (p <= last))) for p, w in taps]


def paste_masks(probabilities: Tensor, boxes: Tensor, new_windows: Tensor, new_offsets: Tensor) -> Tensor:
    """Paste mask probabilities into windows; returns the levels."""
    side = probabilities.shape[-1]
    scale = side / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)

    def level(owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        u = ((x.float() + 0.5 - boxes[owner, 0]) * scale[owner, 0] - 0.5).clamp(0, side - 1)
        v = ((y.float() + 0.5 - boxes[owner, 1]) * scale[owner, 1] - 0.5).clamp(0, side - 1)
        left, top = u.long().clamp(max=max(0, side - 2)), v.long().clamp(max=max(0, side - 2))
        fx, fy = u - left, v - top
        right, bottom = (left + 1).clamp(max=side - 1), (top + 1).clamp(max=side - 1)
        upper = probabilities[owner, top, left] * (1 - fx) + probabilities[owner, top, right] * fx
        lower = probabilities[owner, bottom, left] * (1 - fx) + probabilities[owner, bottom, right] * fx
        return (upper * (1 - fy) + lower * fy) * 255

    return draw_levels(new_windows, new_offsets, level)


def mask_iou(
    windows1: Tensor, offsets1: Tensor, data1: Tensor, windows2: Tensor, offsets2: Tensor, data2: Tensor
) -> Parts:
    """Compute rows, columns, and IoU of all overlapping pairs of masks."""
    masks1, masks2 = Windows(windows1, offsets1, data1), Windows(windows2, offsets2, data2)
    rows, columns = _overlapping_windows(windows1, windows2)
    low = torch.maximum(windows1[rows, :2], windows2[columns, :2])
    high = torch.minimum(windows1[rows, 2:], windows2[columns, 2:])
    shared = torch.cat([low, high], dim=1)
    intersection = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for part in split_windows(window_offsets(shared)):
        owner, x, y = window_pixels(shared[part])
        first = levels_at(masks1, rows[part][owner], x, y) >= 128
        both = first & (levels_at(masks2, columns[part][owner], x, y) >= 128)
        intersection[part] = torch.zeros_like(part).index_add_(0, owner, both.long())
    union = measure_masks(*masks1)[0][rows] + measure_masks(*masks2)[0][columns] - intersection
    hit = intersection > 0
    return rows[hit], columns[hit], intersection[hit].float() / union[hit]


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


def pick_masks(windows: Tensor, offsets: Tensor, data: Tensor, index: Tensor) -> Parts:
    """Select masks by index."""
    new_windows = windows[index]
    new_offsets = window_offsets(new_windows)
    new_data = torch.empty(int(new_offsets[-1]), dtype=torch.uint8, device=data.device)
    for part in split_windows(new_offsets):
        begin, end = new_offsets[part[0]], new_offsets[part[-1] + 1]
        shift = torch.repeat_interleave(offsets[index[part]] - new_offsets[part] + begin, new_offsets.diff()[part])
        new_data[begin:end] = data[shift.add_(torch.arange(len(shift), device=shift.device))]
    return new_windows, new_offsets, new_data


def measure_masks(windows: Tensor, offsets: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the areas and tight boxes of masks."""
    areas, boxes = [offsets[:0]], [windows[:0]]
    for run in _runs(Windows(windows, offsets, data)):
        owner, x, y = (pixels[run.data >= 128] for pixels in window_pixels(run.windows))
        areas.append(torch.bincount(owner, minlength=len(run.windows)))
        boxes.append(pixel_bounds(owner, x, y, len(run.windows)).int())
    return torch.cat(areas), torch.cat(boxes)


def _runs(masks: Windows) -> Iterator[Windows]:
    """Split masks into runs with a limited number of pixels, as views of their memory."""
    windows, offsets, data = masks
    for part in split_windows(offsets):
        begin, end = int(part[0]), int(part[-1]) + 1
        places = offsets[begin : end + 1]
        yield Windows(windows[begin:end], places - places[0], data[int(places[0]) : int(places[-1])])


def label_image(
    windows: Tensor, offsets: Tensor, data: Tensor, height: int, width: int, min_visible_fraction: float
) -> tuple[Tensor, Tensor]:
    """Paint a label image with the first mask on top; returns it and which masks were painted."""
    labels = torch.zeros(height, width, dtype=torch.int32).numpy()
    ends, is_inside = offsets.tolist(), (data >= 128).cpu().numpy()
    kept = torch.zeros(len(windows), dtype=torch.bool)
    number = 0
    for i, (x1, y1, x2, y2) in enumerate(windows.tolist()):
        inside = is_inside[ends[i] : ends[i + 1]].reshape(y2 - y1, x2 - x1)
        under = labels[y1:y2, x1:x2]
        free = inside & (under == 0)
        visible, total = int(free.sum()), int(inside.sum())
        if visible > min_visible_fraction * total:
            number += 1
            under[free] = number
            kept[i] = True
    return torch.from_numpy(labels).to(windows.device), kept.to(windows.device)


def masks_from_label_image(labels: Tensor, ids: Tensor) -> Parts:
    """Convert a label image to masks in the order of `ids`."""
    order = torch.argsort(ids, stable=True)
    y, x = torch.nonzero(labels, as_tuple=True)
    value = labels[y, x].long()
    place = torch.searchsorted(ids[order], value).clamp(max=max(0, len(ids) - 1))
    known = ids[order][place] == value if len(ids) else torch.zeros_like(value, dtype=torch.bool)
    windows = pixel_bounds(order[place[known]], x[known], y[known], len(ids)).int()
    owner, x, y = window_pixels(windows)
    return windows, window_offsets(windows), (labels[y, x] == ids[owner]).to(torch.uint8) * 255
