"""What each operation computes, in plain PyTorch. The faces beside this file document and check; this file defines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision import ops as tv

from maskrcnn.ops.boxes import box_area, box_intersection, box_iou

if TYPE_CHECKING:
    from maskrcnn.ops.masks import Windows
    from maskrcnn.ops.matching import AnchorLevel, Ties

CHUNK = 1 << 22  # elements of a temporary: bounds the memory of every loop below
Parts = tuple[Tensor, Tensor, Tensor]


# boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor) -> Tensor:
    order = torch.argsort(scores, descending=True, stable=True)
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    # Group by group: shifting boxes apart by an offset instead would cost float32 precision.
    by_group = order[torch.argsort(groups[order], stable=True)]
    for members in by_group.split(torch.unique_consecutive(groups[by_group], return_counts=True)[1].tolist()):
        finite = torch.isfinite(boxes[members]).all(dim=1)
        kept[members[~finite]] = True
        members = members[finite]
        kept[members[tv.nms(boxes[members], scores[members], iou_threshold)]] = True
    return order[kept[order]]


def match_boxes(priors: Tensor, truths: Tensor, min_iou: float, forced: "Ties | None") -> Parts:
    index = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    iou = torch.zeros(len(priors), device=priors.device)
    is_forced = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    if len(priors) == 0 or len(truths) == 0:
        return index, iou, is_forced
    first = 0
    for chunk in truths.split(max(1, CHUNK // len(priors))):
        ious = box_iou(chunk, priors)
        best, best_index = ious.max(dim=0)
        better = best > iou
        iou = torch.where(better, best, iou)
        index = torch.where(better, best_index + first, index)
        if forced is not None:
            is_forced |= _forced(priors, chunk, ious, forced)
        first += len(chunk)
    unmatched = (iou < min_iou) & ~is_forced
    return index.masked_fill(unmatched, -1), iou.masked_fill(unmatched, 0.0), is_forced


def _forced(priors: Tensor, truths: Tensor, ious: Tensor, forced: "Ties") -> Tensor:
    best = ious.max(dim=1, keepdim=True).values
    ties = (ious >= best * (1 - 1e-5)) & (best > 0)
    if forced == "all":
        return ties.any(dim=0)
    distance = torch.cdist(box_centres(truths), box_centres(priors)).masked_fill(~ties, torch.inf)
    nearest = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    nearest[distance.argmin(dim=1)[ties.any(dim=1)]] = True
    return nearest


def match_anchors(levels: "Sequence[AnchorLevel]", truths: Tensor, min_iou: float, forced: "Ties | None") -> Parts:
    return match_boxes(all_anchors(levels), truths, min_iou, forced)


def anchors_at(level: "AnchorLevel", index: Tensor) -> Tensor:
    count = len(level.sizes)
    cell, size = index // count, level.sizes[index % count]
    x = (cell % level.width) * level.stride[1] + level.offset[1]
    y = (cell // level.width) * level.stride[0] + level.offset[0]
    centre = torch.stack([x, y], dim=-1).to(size)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def all_anchors(levels: "Sequence[AnchorLevel]") -> Tensor:
    counts = [level.height * level.width * len(level.sizes) for level in levels]
    device = levels[0].sizes.device
    return torch.cat(
        [anchors_at(level, torch.arange(count, device=device)) for level, count in zip(levels, counts, strict=True)]
    )


def covered(priors: Tensor, regions: Tensor, min_fraction: float) -> Tensor:
    result = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    area = box_area(priors)
    for chunk in regions.split(max(1, CHUNK // max(1, len(priors)))):
        result |= (box_intersection(chunk, priors) >= min_fraction * area.clamp(min=1e-9)).any(dim=0)
    return result


def box_centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


# pooling


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    strides: Sequence[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    # All maps as rows of one table: each bin is then a weighted bag of rows, for all levels and images in one call,
    # in parallel and vectorised over channels.
    channels = features[0].shape[1]
    table = torch.cat([feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    shapes = torch.tensor([feature.shape[2:] for feature in features], device=boxes.device)
    rows = torch.tensor([0] + [len(feature) * feature[0, 0].numel() for feature in features], device=boxes.device)
    height, width = shapes[levels].unbind(dim=1)
    first = rows.cumsum(0)[levels] + images * height * width
    boxes = boxes.float() / torch.tensor(strides, device=boxes.device)[levels][:, None] - (0.5 if aligned else 0.0)
    extent = boxes[:, 2:] - boxes[:, :2]
    extent = extent if aligned else extent.clamp(min=1)
    ratio = (extent / output_size).ceil().clamp(min=1).long()
    ratio = torch.full_like(ratio, sampling_ratio) if sampling_ratio else ratio
    result = table.new_zeros(len(boxes), output_size, output_size, channels)
    for gx, gy in torch.unique(ratio, dim=0).tolist():
        members = torch.nonzero((ratio[:, 0] == gx) & (ratio[:, 1] == gy)).flatten()
        for part in members.split(max(1, CHUNK // (4 * output_size**2 * gx * gy))):
            x, x_weight = _corners(boxes[part, 0], extent[part, 0], output_size, gx, width[part])
            y, y_weight = _corners(boxes[part, 1], extent[part, 1], output_size, gy, height[part])
            row = (first[part, None, None] + y * width[part, None, None])[:, :, None, :, None] + x[:, None, :, None, :]
            weight = (y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]).flatten(3) / (gx * gy)
            pooled = torch.nn.functional.embedding_bag(
                row.flatten(3).flatten(0, 2), table, per_sample_weights=weight.flatten(0, 2).to(table), mode="sum"
            )
            result[part] = pooled.view(len(part), output_size, output_size, channels)
    return result.permute(0, 3, 1, 2)


def _corners(start: Tensor, extent: Tensor, bins: int, samples: int, limit: Tensor) -> tuple[Tensor, Tensor]:
    """The cells that the samples of each bin touch along one axis and their weights, `[K, bins, 2 * samples]`."""
    step = (torch.arange(bins * samples, device=start.device) + 0.5) / (bins * samples)
    at = start[:, None] + extent[:, None] * step
    inside = (at >= -1) & (at <= limit[:, None])
    last = (limit - 1)[:, None]
    at = torch.minimum(at.clamp(min=0), last.to(at))
    low = at.long()
    fraction = at - low
    cells = torch.stack([low, torch.minimum(low + 1, last)], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None]
    return cells.view(len(start), bins, -1), weights.view(len(start), bins, -1)


# masks as windows


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


def lookup(masks: "Windows", owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Levels of masks `owner` at integer pixels, uint8; 0 outside the window."""
    windows, offsets, data = masks
    if len(data) == 0:
        return torch.zeros_like(owner, dtype=torch.uint8)
    x1, y1, x2, y2 = windows.long()[owner].unbind(dim=1)
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    position = offsets[owner] + (y - y1) * (x2 - x1) + (x - x1)
    return data[torch.where(inside, position, 0)] * inside


def bilinear(masks: "Windows", owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Levels at continuous coordinates where pixel j has its centre at j; float32."""
    left, top = x.floor(), y.floor()
    fx, fy = x - left, y - top
    left, top = left.long(), top.long()
    upper = lookup(masks, owner, left, top) * (1 - fx) + lookup(masks, owner, left + 1, top) * fx
    lower = lookup(masks, owner, left, top + 1) * (1 - fx) + lookup(masks, owner, left + 1, top + 1) * fx
    return upper * (1 - fy) + lower * fy


def crop_masks(masks: "Windows", x: int, y: int, size: tuple[int, int]) -> Parts:
    origin = torch.tensor([x, y, x, y], dtype=torch.int32, device=masks.windows.device)
    windows = clip_windows(masks.windows - origin, size)
    owner, column, row = window_pixels(windows)
    return windows, offsets_of(windows), lookup(masks, owner, column + x, row + y)


def clip_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows cut to a canvas (H, W); those outside become empty."""
    limit = torch.tensor([size[1], size[0]], dtype=windows.dtype, device=windows.device)
    low = torch.minimum(windows[:, :2].clamp(min=0), limit)
    high = torch.maximum(torch.minimum(windows[:, 2:], limit), low)
    empty = ((high - low) == 0).any(dim=1, keepdim=True)
    return torch.cat([low, torch.where(empty, low, high)], dim=1)


def flip_masks(masks: "Windows", size: tuple[int, int], horizontal: bool, vertical: bool) -> Parts:
    x1, y1, x2, y2 = masks.windows.unbind(dim=1)
    if horizontal:
        x1, x2 = size[1] - x2, size[1] - x1
    if vertical:
        y1, y2 = size[0] - y2, size[0] - y1
    windows = torch.stack([x1, y1, x2, y2], dim=1)
    owner, x, y = window_pixels(windows)
    x = size[1] - 1 - x if horizontal else x
    y = size[0] - 1 - y if vertical else y
    return windows, masks.offsets, lookup(masks, owner, x, y)


def transpose_masks(masks: "Windows") -> Parts:
    windows = masks.windows[:, [1, 0, 3, 2]]
    owner, x, y = window_pixels(windows)
    return windows, masks.offsets, lookup(masks, owner, y, x)


def resize_masks(masks: "Windows", size: tuple[int, int], new_size: tuple[int, int]) -> Parts:
    # float32 throughout, so that pixels are those that PyTorch's nearest interpolation takes.
    step_y, step_x = (torch.tensor(old / new) for old, new in zip(size, new_size, strict=True))
    low = masks.windows[:, :2] / torch.stack([step_x, step_y]).to(masks.windows.device)
    high = masks.windows[:, 2:] / torch.stack([step_x, step_y]).to(masks.windows.device)
    windows = clip_windows(torch.cat([low.floor() - 1, high.ceil() + 1], dim=1).int(), new_size)
    windows = torch.where((masks.offsets.diff() == 0)[:, None], torch.zeros_like(windows), windows)
    owner, x, y = window_pixels(windows)
    source_x, source_y = (x * step_x.to(x.device)).long(), (y * step_y.to(x.device)).long()
    return windows, offsets_of(windows), lookup(masks, owner, source_x, source_y)


def warp_masks(masks: "Windows", matrix: Tensor, size: tuple[int, int]) -> Parts:
    matrix = matrix.to(masks.windows.device, torch.float64)
    if not torch.isfinite(matrix).all() or abs(float(torch.linalg.det(matrix[:, :2]))) < 1e-12:
        raise ValueError(f"matrix must be finite and invertible, got {matrix.tolist()}")
    inverse = torch.linalg.inv(matrix[:, :2])
    corners = masks.windows[:, [0, 1, 2, 1, 0, 3, 2, 3]].view(-1, 4, 2).double() @ matrix[:, :2].T + matrix[:, 2]
    low, high = corners.amin(dim=1).floor() - 1, corners.amax(dim=1).ceil() + 1
    limit = 2 * max(size)  # int32 holds the clipped windows whatever the matrix
    windows = clip_windows(torch.cat([low, high], dim=1).clamp(-limit, limit).int(), size)
    windows = torch.where((masks.offsets.diff() == 0)[:, None], torch.zeros_like(windows), windows)
    owner, x, y = window_pixels(windows)
    source = (torch.stack([x, y], dim=1) + 0.5 - matrix[:, 2]) @ inverse.T - 0.5
    level = bilinear(masks, owner, source[:, 0].float(), source[:, 1].float())
    return windows, offsets_of(windows), level.round().to(torch.uint8)


def sample_masks(
    masks: "Windows",
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
        for part in members.split(max(1, CHUNK // (output_size**2 * gx * gy))):
            x = _bin_samples(start[part, 0], extent[part, 0], output_size, gx, size[1])
            y = _bin_samples(start[part, 1], extent[part, 1], output_size, gy, size[0])
            level = _levels_on_grid(masks, index[part], x, y)
            level = level.view(len(part), output_size, gy, output_size, gx).mean(dim=(2, 4))
            result[part] = level / 255
    return result if soft else (result >= 0.5).float()


def _bin_samples(start: Tensor, extent: Tensor, bins: int, samples: int, limit: int) -> Tensor:
    """Coordinates along one axis, `[K, bins * samples]`, held inside the canvas; -2 where over a pixel beyond it."""
    step = (torch.arange(bins * samples, device=start.device) + 0.5) / (bins * samples)
    at = start[:, None] + extent[:, None] * step
    return torch.where((at < -1) | (at > limit), -2, at.clamp(0, limit - 1))


def _levels_on_grid(masks: "Windows", index: Tensor, x: Tensor, y: Tensor) -> Tensor:
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
    owner, x, y = window_pixels(windows)
    scale = side / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    u = ((x + 0.5 - boxes[owner, 0]) * scale[owner, 0] - 0.5).clamp(0, side - 1)
    v = ((y + 0.5 - boxes[owner, 1]) * scale[owner, 1] - 0.5).clamp(0, side - 1)
    left, top = u.long().clamp(max=max(0, side - 2)), v.long().clamp(max=max(0, side - 2))
    fx, fy = u - left, v - top
    right, bottom = (left + 1).clamp(max=side - 1), (top + 1).clamp(max=side - 1)
    upper = probabilities[owner, top, left] * (1 - fx) + probabilities[owner, top, right] * fx
    lower = probabilities[owner, bottom, left] * (1 - fx) + probabilities[owner, bottom, right] * fx
    level = (upper * (1 - fy) + lower * fy) * 255
    return windows, offsets_of(windows), level.round().clamp(0, 255).to(torch.uint8)


def mask_iou(masks1: "Windows", masks2: "Windows") -> Parts:
    rows, columns = _overlapping_windows(masks1.windows, masks2.windows)
    low = torch.maximum(masks1.windows[rows, :2], masks2.windows[columns, :2])
    high = torch.minimum(masks1.windows[rows, 2:], masks2.windows[columns, 2:])
    shared = torch.cat([low, high], dim=1)
    intersection = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    ends = offsets_of(shared)[1:]
    for part in torch.arange(len(rows), device=rows.device).split(_pairs_per_chunk(ends)):
        owner, x, y = window_pixels(shared[part])
        first = lookup(masks1, rows[part][owner], x, y) >= 128
        both = first & (lookup(masks2, columns[part][owner], x, y) >= 128)
        intersection[part] = torch.zeros_like(part).index_add_(0, owner, both.long())
    union = mask_areas(masks1)[rows] + mask_areas(masks2)[columns] - intersection
    hit = intersection > 0
    return rows[hit], columns[hit], (intersection[hit] / union[hit]).float()


def _overlapping_windows(windows1: Tensor, windows2: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns, first = [], [], 0
    for chunk in windows1.split(max(1, CHUNK // max(1, len(windows2)))):
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


def _pairs_per_chunk(ends: Tensor) -> int:
    return max(1, int(len(ends) * CHUNK / max(1, int(ends[-1])))) if len(ends) else 1


def mask_areas(masks: "Windows") -> Tensor:
    """Pixels inside each mask: int64 `[N]`."""
    total = torch.nn.functional.pad((masks.data >= 128).long().cumsum(0), (1, 0))
    return total[masks.offsets].diff()


def mask_boxes(masks: "Windows") -> Tensor:
    """Tight boxes of the pixels inside, float32 `[N, 4]`; zeros where a mask is empty."""
    owner, x, y = window_pixels(masks.windows)
    inside = masks.data >= 128
    owner, x, y = owner[inside], x[inside], y[inside]
    return _bounds(owner, x, y, len(masks.windows)).float()


def _bounds(owner: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
    """Bounding windows (exclusive end) of pixels that belong to `owner`, int64 `[count, 4]`; zeros where none."""
    low = torch.full((count, 2), torch.iinfo(torch.int64).max, device=x.device)
    high = torch.zeros(count, 2, dtype=torch.int64, device=x.device)
    points, to = torch.stack([x, y], dim=1), owner[:, None].expand(-1, 2)
    low.scatter_reduce_(0, to, points, "amin")
    high.scatter_reduce_(0, to, points + 1, "amax")
    return torch.cat([torch.where(high > 0, low, 0), high], dim=1)


def label_image(masks: "Windows", size: tuple[int, int], min_visible_fraction: float) -> tuple[Tensor, Tensor]:
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
    windows = _bounds(order[place[known]], x[known], y[known], len(ids)).int()
    owner, x, y = window_pixels(windows)
    return windows, offsets_of(windows), (labels[y, x] == ids[owner]).to(torch.uint8) * 255
