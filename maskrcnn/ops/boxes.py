"""Box algebra that needs no kernel of its own. Boxes are xyxy in pixels, continuous."""

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas of boxes `[..., 4]` in square pixels, `[...]`; inverted boxes have area 0."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def box_intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Areas shared by each pair of boxes `[N, 4]` and `[M, 4]`: `[N, M]`."""
    width = torch.minimum(boxes1[:, None, 2], boxes2[:, 2]) - torch.maximum(boxes1[:, None, 0], boxes2[:, 0])
    height = torch.minimum(boxes1[:, None, 3], boxes2[:, 3]) - torch.maximum(boxes1[:, None, 1], boxes2[:, 1])
    return width.clamp_(min=0) * height.clamp_(min=0)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of each pair of boxes `[N, 4]` and `[M, 4]`: `[N, M]`; 0 where a box is empty or not finite."""
    intersection = box_intersection(boxes1, boxes2)
    union = box_area(boxes1)[:, None] + box_area(boxes2) - intersection
    iou = intersection / union
    return torch.where(torch.isfinite(union) & (union > 0), iou, torch.zeros_like(iou))
