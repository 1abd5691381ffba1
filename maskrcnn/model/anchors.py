"""Anchors of a pyramid: sizes and ratios at each cell, unrounded unless asked."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.config import UserError, as_text
from maskrcnn.model.config import RPNConfig
from maskrcnn.ops.types import AnchorLevel


def base_sizes(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """(width, height) of each anchor of a cell, float32 `[len(ratios) * len(sizes), 2]`, ratio by ratio."""
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    size = torch.tensor(sizes, dtype=torch.float32)[None, :]
    wh = torch.stack([(size / root).flatten(), (size * root).flatten()], dim=1)
    return (wh / 2).round() * 2 if rounded else wh


def anchor_levels(
    config: RPNConfig, maps: Sequence[Tensor], strides: Sequence[int], padded: tuple[int, int]
) -> list[AnchorLevel]:
    """The anchor grids of RPN maps `[B, _, h, w]` whose anchors stand `strides` pixels apart, in an image `padded`."""
    levels = []
    for sizes, x, stride in zip(config.anchor_sizes, maps, strides, strict=True):
        height, width = x.shape[-2:]
        step = (padded[0] // height, padded[1] // width) if config.stride_from_size else (stride, stride)
        # Cells of a strided RPN are centred on the cell of the map they stand on.
        offset = config.anchor_offset * stride / config.anchor_stride
        base = base_sizes(sizes, config.anchor_ratios, config.round_anchors).to(x.device)
        levels.append(AnchorLevel((float(step[0]), float(step[1])), (offset, offset), base, height, width))
    return levels


def check_anchors(config: RPNConfig, num_levels: int) -> None:
    counts = {len(sizes) for sizes in config.anchor_sizes}
    if len(config.anchor_sizes) != num_levels or len(counts) != 1 or 0 in counts:
        raise UserError(
            f"detector.rpn.anchor_sizes must list equally many sizes for each of the {num_levels} levels, "
            f"got {as_text(config.anchor_sizes)}"
        )
    for name, values in (("sizes", sum(config.anchor_sizes, ())), ("ratios", config.anchor_ratios)):
        if not values or not all(0 < value < math.inf for value in values):
            raise UserError(f"detector.rpn.anchor_{name} must be finite numbers above 0, got {as_text(values)}")
