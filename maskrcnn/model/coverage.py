"""How well a detector's anchors fit objects whose boxes are known; no network, and cost that follows the objects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.anchors import base_sizes, check_anchors
from maskrcnn.model.config import BackboneConfig, DetectorConfig, ImageConfig
from maskrcnn.model.images import resized


class Truths(NamedTuple):
    """Objects in the frame of the network's images: boxes float32 `[N, 4]`, sizes int64 `[N, 2]` (H, W) of theirs."""

    boxes: Tensor
    sizes: Tensor


class Gaps(NamedTuple):
    """What one level's grid leaves between each object and its anchors: all float32 `[N]`.

    x, y: from the object's centre to the nearest column and row of anchors; width, height: of the object.
    """

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


def as_seen(boxes: Tensor, sizes: Tensor, config: ImageConfig) -> Truths:
    """Boxes `[N, 4]` in images of sizes `[N, 2]` (H, W) as the network is shown them."""
    unique, place = torch.unique(sizes, dim=0, return_inverse=True)
    shown = [resized((int(height), int(width)), config) for height, width in unique.tolist()]
    shown_sizes = torch.tensor(shown, dtype=torch.int64).reshape(-1, 2)
    factors = (shown_sizes.double() / unique.clamp(min=1)).flip(1).repeat(1, 2).float()
    return Truths(boxes.float() * factors[place], shown_sizes[place])


def pyramid_strides(config: BackboneConfig) -> list[int]:
    """The stride of each level, finest first, as the backbone will have them."""
    return [config.finest_stride << level for level in range(config.num_levels + config.pool_level)]


def grid_gaps(truths: Truths, level: int, config: DetectorConfig) -> Gaps:
    """How far each object is from the anchors of a level, where `maskrcnn.model.anchors` places them."""
    strides, rpn, image = pyramid_strides(config.backbone), config.rpn, config.image
    stride, multiple = strides[level] * rpn.anchor_stride, image.pad_multiple or strides[-1]
    least = -(-image.max_size // multiple) if image.resize == "square" else 1
    padded = _divided_up(truths.sizes, multiple).clamp(min=least) * multiple
    cells = _divided_up(padded, stride)
    step = padded // cells if rpn.stride_from_size else torch.full_like(cells, stride)
    first = rpn.anchor_offset * strides[level]
    centres = (truths.boxes[:, :2] + truths.boxes[:, 2:]).flip(1) / 2  # y, x, as sizes are
    nearest = ((centres - first) / step).round().clamp(min=0).minimum(cells - 1)
    gaps = (nearest * step + first - centres).abs()
    sides = truths.boxes[:, 2:] - truths.boxes[:, :2]
    return Gaps(gaps[:, 1], gaps[:, 0], sides[:, 0], sides[:, 1])


def _divided_up(values: Tensor, divisor: int) -> Tensor:
    return (values + divisor - 1) // divisor


def iou_with(gaps: Gaps, width: float, height: float) -> Tensor:
    """IoU float32 `[N]` of each object with the nearest anchor of one shape, of which none overlaps it more.

    The two overlaps, along x and along y, only fall with the distance on their axis, so that the anchor in the nearest
    column and the nearest row is the best of its shape.
    """
    x = ((gaps.width + width) / 2 - gaps.x).clamp(min=0).minimum(gaps.width.clamp(max=width))
    y = ((gaps.height + height) / 2 - gaps.y).clamp(min=0).minimum(gaps.height.clamp(max=height))
    both = x * y
    return both / (gaps.width * gaps.height + width * height - both)


def best_ious(truths: Truths, config: DetectorConfig) -> Tensor:
    """float32 `[N]`: the IoU of each object with the best of all anchors in its image.

    Raises:
        UserError: anchor sizes that do not fit the levels.
    """
    strides, rpn = pyramid_strides(config.backbone), config.rpn
    check_anchors(rpn, len(strides))
    best = torch.zeros(len(truths.boxes), dtype=torch.float32)
    for level, sizes in enumerate(rpn.anchor_sizes):
        gaps = grid_gaps(truths, level, config)
        for width, height in base_sizes(sizes, rpn.anchor_ratios, rpn.round_anchors).tolist():
            torch.maximum(best, iou_with(gaps, width, height), out=best)
    return best


def share(ious: Tensor, threshold: float) -> float:
    """Which share of the truths is matched at an IoU; 0 where there are none."""
    return float((ious >= threshold).float().mean()) if len(ious) else 0.0


def anchors_a_location(config: DetectorConfig) -> int:
    """Anchors at each cell of a level."""
    return len(config.rpn.anchor_sizes[0]) * len(config.rpn.anchor_ratios)
