"""Greedy non-maximum suppression."""

import torch
from torch import Tensor

from maskrcnn.ops import reference


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Keep the boxes that no better kept box of the same group overlaps by more than `iou_threshold`.

    Args:
        boxes: float `[N, 4]`, xyxy in pixels. Non-finite boxes never overlap.
        scores: float `[N]`; of equal scores the lower index is better.
        iou_threshold: IoU above which the worse box goes.
        groups: int64 `[N]`, anything that keeps boxes apart (image, level, class); None: one group.

    Returns:
        int64 `[K]`: indices of the kept boxes by falling score.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [N, 4], got {list(boxes.shape)}")
    for name, values in (("scores", scores), ("groups", groups)):
        if values is not None and values.shape != boxes.shape[:1]:
            raise ValueError(f"{name} must be [{len(boxes)}] like boxes, got {list(values.shape)}")
    groups = torch.zeros_like(scores, dtype=torch.int64) if groups is None else groups
    return reference.nms(boxes.float(), scores.float(), iou_threshold, groups)
