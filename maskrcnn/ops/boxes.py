"""Box algebra that needs no kernel of its own. Boxes are xyxy in pixels, continuous.

Half types and integers of at most 16 bits are computed in float32, wider integers in float64: an area of 256 × 256
pixels is infinite in float16, and one of 12 × 12 overflows int8. float32 and float64 stay.
"""

import torch
from torch import Tensor

_WIDE = (torch.float32, torch.float64)
_NARROW = (torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.bool)


def box_area(boxes: Tensor) -> Tensor:
    """Compute the areas of boxes `[..., 4]` in square pixels, float `[...]`; inverted boxes have area 0."""
    boxes = _upcast(boxes)
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def box_intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the areas shared by each pair of boxes `[N, 4]` and `[M, 4]`: float `[N, M]`."""
    boxes1, boxes2 = _upcast(boxes1), _upcast(boxes2)
    width = torch.minimum(boxes1[:, None, 2], boxes2[:, 2]) - torch.maximum(boxes1[:, None, 0], boxes2[:, 0])
    height = torch.minimum(boxes1[:, None, 3], boxes2[:, 3]) - torch.maximum(boxes1[:, None, 1], boxes2[:, 1])
    return width.clamp_(min=0) * height.clamp_(min=0)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the IoU of each pair of boxes `[N, 4]` and `[M, 4]`: float `[N, M]`; 0 for empty and non-finite ones."""
    intersection = box_intersection(boxes1, boxes2)
    union = box_area(boxes1)[:, None] + box_area(boxes2) - intersection
    iou = intersection / union
    return torch.where(torch.isfinite(union) & (union > 0), iou, torch.zeros_like(iou))


def _upcast(boxes: Tensor) -> Tensor:
    if boxes.dtype in _WIDE:
        return boxes
    return boxes.to(torch.float32 if boxes.dtype in _NARROW else torch.float64)
