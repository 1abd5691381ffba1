"""Fit of anchors to objects with known boxes, without a network; cost is proportional to the number of objects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.anchors import check_anchors, make_base_sizes
from maskrcnn.model.backbones import build_backbone, check_backbone
from maskrcnn.model.config import BackboneConfig, DetectorConfig, ImageConfig, is_own_backbone
from maskrcnn.model.images import compute_input_size


class TargetBoxes(NamedTuple):
    """Target boxes in pixels of the network's input.

    Attributes:
        boxes: float32 `[N, 4]`.
        sizes: int64 `[N, 2]` (H, W), size of each box's image.
    """

    boxes: Tensor
    sizes: Tensor


class Gaps(NamedTuple):
    """Distances between objects and the nearest anchors of one level, float32 `[N]` each.

    Attributes:
        x: horizontal distance from the object's center to the nearest column of anchors.
        y: vertical distance to the nearest row.
        width: width of the object.
        height: height of the object.
    """

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


def resize_targets(boxes: Tensor, sizes: Tensor, config: ImageConfig) -> TargetBoxes:
    """Resize boxes `[N, 4]` in images of sizes `[N, 2]` (H, W) as the network's input."""
    unique, index = torch.unique(sizes, dim=0, return_inverse=True)
    shown = [compute_input_size((int(height), int(width)), config) for height, width in unique.tolist()]
    shown_sizes = torch.tensor(shown, dtype=torch.int64).reshape(-1, 2)
    factors = (shown_sizes.double() / unique.clamp(min=1)).flip(1).repeat(1, 2).float()
    return TargetBoxes(boxes.float() * factors[index], shown_sizes[index])


def compute_strides(config: BackboneConfig) -> list[int]:
    """Compute the stride of each pyramid level of a backbone, finest first; a user's own is built for that."""
    if is_own_backbone(config.name):
        return check_backbone(build_backbone(config, channels=3))[1]
    return [config.finest_stride << level for level in range(config.num_levels + config.pool_level)]


def compute_grid_gaps(targets: TargetBoxes, level: int, config: DetectorConfig) -> Gaps:
    """Compute the distances between objects and the anchors of a level, as placed by `maskrcnn.model.anchors`."""
    strides, rpn, image = compute_strides(config.backbone), config.rpn, config.image
    stride, multiple = strides[level] * rpn.anchor_stride, image.pad_multiple or strides[-1]
    min_cells = -(-image.max_size // multiple) if image.resize == "square" else 1
    padded = _ceil_divide(targets.sizes, multiple).clamp(min=min_cells) * multiple
    cells = _ceil_divide(padded, stride)
    step = padded // cells if rpn.stride_from_size else torch.full_like(cells, stride)
    first = rpn.anchor_offset * strides[level]
    centers = (targets.boxes[:, :2] + targets.boxes[:, 2:]).flip(1) / 2  # y, x, as sizes are
    nearest = ((centers - first) / step).round().clamp(min=0).minimum(cells - 1)
    gaps = (nearest * step + first - centers).abs()
    sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
    return Gaps(gaps[:, 1], gaps[:, 0], sides[:, 0], sides[:, 1])


def _ceil_divide(values: Tensor, divisor: int) -> Tensor:
    return (values + divisor - 1) // divisor


def compute_anchor_iou(gaps: Gaps, width: float, height: float) -> Tensor:
    """Compute the maximum IoU, float32 `[N]`, of each object with the anchors of one shape.

    The overlaps along x and y decrease with the distance on their axis, so the anchor in the nearest column and row is
    the best of its shape.
    """
    x = ((gaps.width + width) / 2 - gaps.x).clamp(min=0).minimum(gaps.width.clamp(max=width))
    y = ((gaps.height + height) / 2 - gaps.y).clamp(min=0).minimum(gaps.height.clamp(max=height))
    both = x * y
    return both / (gaps.width * gaps.height + width * height - both)


def compute_best_ious(targets: TargetBoxes, config: DetectorConfig) -> Tensor:
    """Compute the IoU of each object with the best anchor in its image, float32 `[N]`.

    Raises:
        UserError: If the anchor sizes do not match the levels.
    """
    strides, rpn = compute_strides(config.backbone), config.rpn
    check_anchors(rpn, len(strides))
    best = torch.zeros(len(targets.boxes), dtype=torch.float32)
    for level, sizes in enumerate(rpn.anchor_sizes):
        gaps = compute_grid_gaps(targets, level, config)
        for width, height in make_base_sizes(sizes, rpn.anchor_ratios, rpn.round_anchors).tolist():
            torch.maximum(best, compute_anchor_iou(gaps, width, height), out=best)
    return best


def compute_matched_fraction(ious: Tensor, threshold: float) -> float:
    """Compute the fraction of objects with at least this IoU; 0 without objects."""
    return float((ious >= threshold).float().mean()) if len(ious) else 0.0


def count_anchors_per_location(config: DetectorConfig) -> int:
    """Count the anchors at each location of a level."""
    return len(config.rpn.anchor_sizes[0]) * len(config.rpn.anchor_ratios)
