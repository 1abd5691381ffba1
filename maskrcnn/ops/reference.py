"""Reference implementations of the operations in plain PyTorch; see `reference_masks.py` for masks.

Each function has the name and signature of an operation `torch.ops.maskrcnn.*` and defines its result. The modules of
this package document the operations and check their arguments.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision import ops as tv

from maskrcnn.ops.boxes import box_area, box_intersection, box_iou
from maskrcnn.ops.types import TIES

CHUNK = 1 << 22  # max. elements of temporary tensors
Parts = tuple[Tensor, Tensor, Tensor]


# boxes


def nms(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes `[N, 4]`, in descending order of score, NMS keeps, bool `[N]`.

    The float32 IoU is compared with the float64 threshold, as in torchvision on a CPU.
    """
    # On a GPU torchvision rounds the threshold to float32. Rounding it down first gives the same result on both.
    threshold = np.float32(iou_threshold)
    threshold = threshold if float(threshold) <= iou_threshold else np.nextafter(threshold, np.float32(-1))
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    # NMS runs per group, because offsets that separate the groups would cost float32 precision.
    by_group = torch.argsort(groups, stable=True)
    counts: list[int] = torch.unique_consecutive(groups[by_group], return_counts=True)[1].tolist()
    for members in torch.split(by_group, counts):
        members = members[torch.isfinite(boxes[members]).all(dim=1)]
        kept[members] = False
        scores = torch.arange(len(members), 0, -1, dtype=torch.float32, device=boxes.device)
        kept[members[tv.nms(boxes[members], scores, float(threshold))]] = True
    return kept


def match_boxes(priors: Tensor, targets: Tensor, min_iou: float, ties: int) -> Parts:
    """Match each prior to the target with the maximum IoU; returns index, IoU, and forced matches."""
    index = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    iou = torch.zeros(len(priors), dtype=torch.float32, device=priors.device)
    forced = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    if len(priors) == 0 or len(targets) == 0:
        return index, iou, forced
    first = 0
    for chunk in torch.split(targets, max(1, CHUNK // len(priors))):
        ious = box_iou(chunk, priors)
        best, best_index = ious.max(dim=0)
        better = best > iou
        iou = torch.where(better, best, iou)
        index = torch.where(better, best_index + first, index)
        if ties != TIES[None]:
            forced |= _forced(priors, chunk, ious, ties)
        first += len(chunk)
    unmatched = (iou < min_iou) & ~forced
    return index.masked_fill(unmatched, -1), iou.masked_fill(unmatched, 0.0), forced


def _forced(priors: Tensor, targets: Tensor, ious: Tensor, ties: int) -> Tensor:
    # IoUs with a relative difference below 1e-5 are ties, because exact ties depend on rounding.
    best = ious.max(dim=1, keepdim=True).values
    tied = (ious >= best * (1 - 1e-5)) & (best > 0)
    if ties == TIES["all"]:
        return tied.any(dim=0)
    # torch.cdist uses a matrix product, which is off by whole pixels far from the origin.
    apart = (box_centers(targets)[:, None] - box_centers(priors)).square().sum(dim=2)
    distance = apart.masked_fill(~tied, torch.inf)
    nearest = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    nearest[distance.argmin(dim=1)[tied.any(dim=1)]] = True
    return nearest


def match_anchors(sizes: Tensor, grids: Tensor, cells: Tensor, targets: Tensor, min_iou: float, ties: int) -> Parts:
    """Match all anchors of grids (see `matching._grids`) as `match_boxes` does."""
    return match_boxes(all_anchors(sizes, grids, cells), targets, min_iou, ties)


def all_anchors(sizes: Tensor, grids: Tensor, cells: Tensor) -> Tensor:
    """Compute all anchors of grids, float32 `[N, 4]`."""
    columns, rows, first, step = cells.unbind(dim=1)
    counts = columns * rows
    grid = torch.repeat_interleave(counts)
    cell = torch.arange(len(grid), device=sizes.device) - (counts.cumsum(0) - counts)[grid]
    place = torch.stack([cell % columns[grid], cell // columns[grid]], dim=1)
    center = place * grids[grid, :2] + grids[grid, 2:]
    half = sizes[grid] / 2
    anchors = torch.empty(len(grid), 4, dtype=torch.float32, device=sizes.device)
    anchors[first[grid] + cell * step[grid]] = torch.cat([center - half, center + half], dim=1)
    return anchors


def covered(priors: Tensor, regions: Tensor, min_fraction: float) -> Tensor:
    """Return which priors have at least `min_fraction` of their area in one of the regions, bool `[P]`."""
    result = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    area = box_area(priors)
    for chunk in torch.split(regions, max(1, CHUNK // max(1, len(priors)))):
        result |= (box_intersection(chunk, priors) >= min_fraction * area.clamp(min=1e-9)).any(dim=0)
    return result


def box_centers(boxes: Tensor) -> Tensor:
    """Compute the centers of boxes, `[N, 2]`."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


# pooling: maps are [B, H, W, C]


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    strides: Sequence[float],
    output_size: int | Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pool RoIs from the levels of a feature pyramid, `[K, *output_size, C]`."""
    bins = (output_size, output_size) if isinstance(output_size, int) else (output_size[1], output_size[0])  # x, y
    # All maps are rows of one table, and each bin is a weighted sum of rows, for all levels and images in one call
    # that is parallel and vectorized over channels.
    channels = features[0].shape[3]
    table = torch.cat([feature.reshape(-1, channels) for feature in features])
    shapes = torch.tensor([feature.shape[1:3] for feature in features], device=boxes.device)
    sizes = torch.tensor([0] + [feature[..., 0].numel() for feature in features], device=boxes.device)
    height, width = shapes[levels].unbind(dim=1)
    first = sizes.cumsum(0)[levels] + images * height * width
    boxes = boxes.double() if table.dtype == torch.float64 else boxes
    boxes = boxes / boxes.new_tensor(strides)[levels][:, None] - (0.5 if aligned else 0.0)
    extent = boxes[:, 2:] - boxes[:, :2]
    extent = extent if aligned else extent.clamp(min=1)
    # The result of an empty or inverted RoI without adaptive samples is 0, as in torchvision and Detectron2.
    ratio = (extent / extent.new_tensor(bins)).ceil().clamp(min=0).long()
    ratio = torch.full_like(ratio, sampling_ratio) if sampling_ratio else ratio
    result = table.new_zeros(len(boxes), bins[1], bins[0], channels)
    for gx, gy in torch.unique(ratio[(ratio > 0).all(dim=1)], dim=0).tolist():
        members = torch.nonzero((ratio[:, 0] == gx) & (ratio[:, 1] == gy)).flatten()
        for part in torch.split(members, max(1, CHUNK // (4 * bins[0] * bins[1] * gx * gy))):
            at = bin_samples(boxes[part], extent[part], bins, (gx, gy))
            columns, rows = (_corners(*axis) for axis in zip(at, (width[part], height[part]), bins, strict=True))
            result[part] = _pooled(table, first[part], width[part], columns, rows, 1 / (gx * gy))
    return result


def bin_samples(
    boxes: Tensor, extent: Tensor, bins: tuple[int, int], samples: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Compute sample coordinates along x and y, `[K, bins * samples]`, in an extent `[K, 2]` from the corner x1 y1."""
    counts = [number * per_bin for number, per_bin in zip(bins, samples, strict=True)]
    steps = [(torch.arange(count, dtype=boxes.dtype, device=boxes.device) + 0.5) / count for count in counts]
    x, y = (boxes[:, axis, None] + extent[:, axis, None] * step for axis, step in enumerate(steps))
    return x, y


def _corners(at: Tensor, limit: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Compute the cells along one axis that contribute to each bin, and their weights, `[K, bins, 2 * samples]`."""
    inside = (at >= -1) & (at <= limit[:, None])
    last = (limit - 1)[:, None]
    at = torch.minimum(at.clamp(min=0), last.to(at))
    low = at.long()
    fraction = at - low
    cells = torch.stack([low, torch.minimum(low + 1, last)], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None]
    taps = 2 * (at.shape[1] // bins)
    return cells.view(len(at), bins, taps), weights.view(len(at), bins, taps)


def _pooled(
    table: Tensor,
    first: Tensor,
    width: Tensor,
    columns: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor],
    scale: float,
) -> Tensor:
    """Compute weighted sums `[K, S, S, C]` of table rows; maps start at `first` and are `width` cells wide, `[K]`."""
    (x, x_weight), (y, y_weight) = columns, rows
    row = (first[:, None, None] + y * width[:, None, None])[:, :, None, :, None] + x[:, None, :, None, :]
    weight = (y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]).flatten(3) * scale
    pooled = torch.nn.functional.embedding_bag(
        row.flatten(3).flatten(0, 2), table, per_sample_weights=weight.flatten(0, 2).to(table), mode="sum"
    )
    return pooled.view(len(first), y.shape[1], x.shape[1], table.shape[1])


def crop_and_resize(
    features: Tensor, boxes: Tensor, images: Tensor, output_size: int, extrapolation_value: float
) -> Tensor:
    """Crop and resize RoIs as TensorFlow's `crop_and_resize`, `[K, S, S, C]`."""
    height, width, channels = features.shape[1:]
    boxes = boxes.double() if features.dtype == torch.float64 else boxes
    bins = torch.arange(output_size, dtype=boxes.dtype, device=boxes.device)
    step = bins / (output_size - 1) if output_size > 1 else bins + 0.5
    result = []
    for part in torch.split(torch.arange(len(boxes), device=boxes.device), max(1, CHUNK // (4 * output_size**2))):
        axes = []
        for low, high, size in ((0, 2, width), (1, 3, height)):
            at = (boxes[part, low, None] + (boxes[part, high] - boxes[part, low])[:, None] * step) * (size - 1)
            outside = (at < 0) | (at > size - 1)
            limit = torch.full_like(part, size)
            axes.append((_corners(at, limit, output_size), outside))
        (columns, no_column), (rows, no_row) = axes
        first = images[part] * height * width
        pooled = _pooled(features.reshape(-1, channels), first, torch.full_like(part, width), columns, rows, 1.0)
        outside = no_row[:, :, None] | no_column[:, None, :]
        result.append(pooled.masked_fill(outside[..., None], extrapolation_value))
    return torch.cat(result) if result else features.new_zeros(0, output_size, output_size, channels)
