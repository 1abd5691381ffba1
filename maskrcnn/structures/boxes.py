"""Boxes: coding, clipping, levels. xyxy in pixels, continuous; no rounding and no `+ 1` anywhere."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.ops.boxes import box_area

SIZE_CLAMP = math.log(1000.0 / 16)  # Detectron's limit of a box delta, so that exp() cannot overflow


def encode_boxes(boxes: Tensor, priors: Tensor, weights: Sequence[float]) -> Tensor:
    """Deltas `[N, 4]` that turn `priors` into `boxes`: Girshick et al., arXiv 1311.2524, appendix C, times weights."""
    prior_size, size = priors[:, 2:] - priors[:, :2], boxes[:, 2:] - boxes[:, :2]
    prior_size, size = prior_size.clamp(min=1e-6), size.clamp(min=1e-6)
    shift = ((boxes[:, :2] + boxes[:, 2:]) - (priors[:, :2] + priors[:, 2:])) / 2 / prior_size
    return torch.cat([shift, torch.log(size / prior_size)], dim=1) * boxes.new_tensor(weights)


def decode_boxes(deltas: Tensor, priors: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes `[..., 4]` from deltas `[..., 4]` and priors that broadcast to them; float32 whatever the input."""
    deltas, priors = deltas.float(), priors.float()
    deltas = deltas / deltas.new_tensor(weights)
    prior_size = priors[..., 2:] - priors[..., :2]
    centre = priors[..., :2] + prior_size / 2 + deltas[..., :2] * prior_size
    half = prior_size * torch.exp(deltas[..., 2:].clamp(max=SIZE_CLAMP)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes `[..., 4]` cut to an image of `size` (H, W)."""
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)


def scale_boxes(boxes: Tensor, x: float, y: float) -> Tensor:
    """Boxes under a change of the image's scale."""
    return boxes * boxes.new_tensor([x, y, x, y])


def enlarge_boxes(boxes: Tensor, scale: float, border: float) -> Tensor:
    """Boxes grown about their centre by `scale`, and by at least `border` pixels on each side."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    half = torch.maximum(half * scale, half + border)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def assign_levels(boxes: Tensor, canonical_size: float, canonical_level: int, levels: Sequence[int]) -> Tensor:
    """Index into `levels` (consecutive, log2 of the strides) for each RoI `[N, 4]`, int64.

    Source: Lin et al., arXiv 1612.03144, equation 1; the 1e-6 is Detectron2's and torchvision's.
    """
    side = box_area(boxes).sqrt().clamp(min=1e-6)
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(levels[0], levels[-1]).long() - levels[0]
