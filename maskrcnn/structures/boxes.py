"""Encoding, clipping, scaling, and level assignment of boxes.

Boxes are xyxy in continuous pixel coordinates; nothing is rounded, and no width is computed with `+ 1`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.ops.boxes import box_area

SIZE_CLAMP = math.log(1000.0 / 16)  # Detectron's limit for size deltas, so that exp() cannot overflow


def encode_boxes(boxes: Tensor, priors: Tensor, weights: Sequence[float]) -> Tensor:
    """Encode boxes as deltas relative to priors (Girshick et al., arXiv 1311.2524, appendix C).

    Args:
        boxes: `[N, 4]`.
        priors: `[N, 4]`, anchors or proposals.
        weights: factors of the four deltas (x, y, w, h).

    Returns:
        Deltas `[N, 4]`.
    """
    prior_size, size = priors[:, 2:] - priors[:, :2], boxes[:, 2:] - boxes[:, :2]
    prior_size, size = prior_size.clamp(min=1e-6), size.clamp(min=1e-6)
    shift = ((boxes[:, :2] + boxes[:, 2:]) - (priors[:, :2] + priors[:, 2:])) / 2 / prior_size
    return torch.cat([shift, torch.log(size / prior_size)], dim=1) * boxes.new_tensor(weights)


def decode_boxes(deltas: Tensor, priors: Tensor, weights: Sequence[float]) -> Tensor:
    """Decode deltas `[..., 4]` relative to priors to boxes `[..., 4]`, always in float32.

    Args:
        deltas: `[..., 4]`, see `encode_boxes`.
        priors: boxes that broadcast to the deltas.
        weights: factors of the four deltas (x, y, w, h).
    """
    deltas, priors = deltas.float(), priors.float()
    deltas = deltas / deltas.new_tensor(weights)
    prior_size = priors[..., 2:] - priors[..., :2]
    center = priors[..., :2] + prior_size / 2 + deltas[..., :2] * prior_size
    half = prior_size * torch.exp(deltas[..., 2:].clamp(max=SIZE_CLAMP)) / 2
    return torch.cat([center - half, center + half], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes `[..., 4]` to an image of `size` (H, W)."""
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)


def scale_boxes(boxes: Tensor, x: float, y: float) -> Tensor:
    """Scale boxes `[N, 4]` by the factors `x` and `y`."""
    return boxes * boxes.new_tensor([x, y, x, y])


def enlarge_boxes(boxes: Tensor, scale: float, border: float) -> Tensor:
    """Enlarge boxes `[N, 4]` around their centers by `scale`, and by at least `border` pixels on each side."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    half = torch.maximum(half * scale, half + border)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([center - half, center + half], dim=1)


def assign_levels(boxes: Tensor, canonical_size: float, canonical_level: int, levels: Sequence[int]) -> Tensor:
    """Assign each RoI to a pyramid level (Lin et al., arXiv 1612.03144, equation 1).

    The tolerance of 1e-6 is the same as in Detectron2 and torchvision.

    Args:
        boxes: RoIs `[N, 4]`.
        canonical_size: side in pixels of a RoI that is assigned to `canonical_level`.
        canonical_level: log2 of the stride of that level.
        levels: log2 of the strides of all levels, consecutive.

    Returns:
        Index into `levels` for each RoI, int64 `[N]`.
    """
    side = box_area(boxes).sqrt().clamp(min=1e-6)
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(levels[0], levels[-1]).long() - levels[0]
