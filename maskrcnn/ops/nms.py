"""Greedy non-maximum suppression."""

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops._native import native
from maskrcnn.ops.checks import check_boxes, check_like


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Keep the boxes that no better kept box of the same group overlaps by more than `iou_threshold`.

    Args:
        boxes: float `[N, 4]`, xyxy in pixels; rounded to float32. Non-finite boxes never overlap.
        scores: float `[N]`; of equal scores the lower index is better.
        iou_threshold: IoU in 0..1 above which the worse box goes. The float32 IoU is compared with the float64
            threshold, as torchvision does on a CPU: an IoU of exactly .3 is above .3, one of .5 is not above .5.
        groups: int64 `[N]`, anything that keeps boxes apart (image, level, class); None: one group.

    Returns:
        int64 `[K]`: indices of the kept boxes in descending order of score.

    Raises:
        ValueError: If shapes do not match, or the threshold is outside 0..1.

    Source: Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based Models, TPAMI 2010,
    section 6.2; exact, with the search pruned as described in csrc/cpu/grid.h.
    """
    check_boxes(boxes=boxes)
    check_like(boxes, scores=scores)
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in 0..1, got {iou_threshold}")
    groups = torch.zeros_like(scores, dtype=torch.int64) if groups is None else groups
    check_like(boxes, groups=groups)
    order = torch.argsort(scores, descending=True, stable=True)
    kept = native(reference.nms, boxes.device)(boxes.float()[order], groups.long()[order], iou_threshold)
    return order[kept]
