"""Anchors of a feature pyramid, unrounded by default."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.model.config import RPNConfig
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.values import as_text


def make_base_sizes(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """Compute (width, height) of the anchors of a cell, float32 `[len(ratios) * len(sizes), 2]`, ordered by ratio."""
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    size = torch.tensor(sizes, dtype=torch.float32)[None, :]
    wh = torch.stack([(size / root).flatten(), (size * root).flatten()], dim=1)
    return (wh / 2).round() * 2 if rounded else wh


def make_anchor_levels(
    config: RPNConfig, maps: Sequence[Tensor], strides: Sequence[int], padded: tuple[int, int]
) -> list[AnchorLevel]:
    """Make the anchor grids of RPN maps `[B, _, h, w]` with the given strides, for images of the size `padded`."""
    levels = []
    for sizes, x, stride in zip(config.anchor_sizes, maps, strides, strict=True):
        height, width = x.shape[-2:]
        step = (padded[0] // height, padded[1] // width) if config.stride_from_size else (stride, stride)
        # The cells of a strided RPN are centered on their cells of the feature map.
        offset = config.anchor_offset * stride / config.anchor_stride
        base = make_base_sizes(sizes, config.anchor_ratios, config.round_anchors).to(x.device)
        levels.append(AnchorLevel((float(step[0]), float(step[1])), (offset, offset), base, height, width))
    return levels


def check_anchors(config: RPNConfig, num_levels: int) -> None:
    """Check that the anchor sizes match the levels, and that sizes and ratios are valid.

    Raises:
        UserError: If they do not.
    """
    counts = {len(sizes) for sizes in config.anchor_sizes}
    if len(config.anchor_sizes) != num_levels or len(counts) != 1 or 0 in counts:
        raise UserError(
            f"detector.rpn.anchor_sizes must list equally many sizes for each of the {num_levels} levels, "
            f"got {as_text(config.anchor_sizes)}"
        )
    for name, values in (("sizes", sum(config.anchor_sizes, ())), ("ratios", config.anchor_ratios)):
        if not values or not all(0 < value < math.inf for value in values):
            raise UserError(f"detector.rpn.anchor_{name} must be finite numbers above 0, got {as_text(values)}")
