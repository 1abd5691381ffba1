"""What each operation computes, in plain PyTorch. The faces beside this file document and check; this file
defines, and `reference_masks.py` for masks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import ops as tv

from maskrcnn.ops.boxes import box_area, box_intersection, box_iou
from maskrcnn.ops.types import AnchorLevel, Ties

CHUNK = 1 << 22  # elements of a temporary: bounds the memory of every loop below
Parts = tuple[Tensor, Tensor, Tensor]


# boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor) -> Tensor:
    order = torch.argsort(scores, descending=True, stable=True)
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    # Group by group: shifting boxes apart by an offset instead would cost float32 precision.
    by_group = order[torch.argsort(groups[order], stable=True)]
    counts: list[int] = torch.unique_consecutive(groups[by_group], return_counts=True)[1].tolist()
    for members in torch.split(by_group, counts):
        finite = torch.isfinite(boxes[members]).all(dim=1)
        kept[members[~finite]] = True
        members = members[finite]
        kept[members[tv.nms(boxes[members], scores[members], iou_threshold)]] = True
    return order[kept[order]]


def match_boxes(priors: Tensor, truths: Tensor, min_iou: float, forced: Ties | None) -> Parts:
    index = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    iou = torch.zeros(len(priors), device=priors.device)
    is_forced = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    if len(priors) == 0 or len(truths) == 0:
        return index, iou, is_forced
    first = 0
    for chunk in torch.split(truths, max(1, CHUNK // len(priors))):
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


def _forced(priors: Tensor, truths: Tensor, ious: Tensor, forced: Ties) -> Tensor:
    best = ious.max(dim=1, keepdim=True).values
    ties = (ious >= best * (1 - 1e-5)) & (best > 0)
    if forced == "all":
        return ties.any(dim=0)
    # Not torch.cdist, whose matrix product loses whole pixels far from the origin.
    apart = (box_centres(truths)[:, None] - box_centres(priors)).square().sum(dim=2)
    distance = apart.masked_fill(~ties, torch.inf)
    nearest = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    nearest[distance.argmin(dim=1)[ties.any(dim=1)]] = True
    return nearest


def match_anchors(levels: Sequence[AnchorLevel], truths: Tensor, min_iou: float, forced: Ties | None) -> Parts:
    return match_boxes(all_anchors(levels), truths, min_iou, forced)


def anchors_at(level: AnchorLevel, index: Tensor) -> Tensor:
    count = len(level.sizes)
    cell, size = index // count, level.sizes[index % count]
    x = (cell % level.width) * level.stride[1] + level.offset[1]
    y = (cell // level.width) * level.stride[0] + level.offset[0]
    centre = torch.stack([x, y], dim=-1).to(size)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def all_anchors(levels: Sequence[AnchorLevel]) -> Tensor:
    counts = [level.height * level.width * len(level.sizes) for level in levels]
    device = levels[0].sizes.device
    return torch.cat(
        [anchors_at(level, torch.arange(count, device=device)) for level, count in zip(levels, counts, strict=True)]
    )


def covered(priors: Tensor, regions: Tensor, min_fraction: float) -> Tensor:
    result = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    area = box_area(priors)
    for chunk in torch.split(regions, max(1, CHUNK // max(1, len(priors)))):
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
        for part in torch.split(members, max(1, CHUNK // (4 * output_size**2 * gx * gy))):
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
