"""Matching priors (anchors, proposals) to ground truth, without promising a dense matrix."""

from collections.abc import Sequence

from torch import Tensor

from maskrcnn.ops import anchor_matching, reference
from maskrcnn.ops.types import AnchorLevel, Matches, Ties


def match_boxes(priors: Tensor, truths: Tensor, min_iou: float = 0.0, forced: Ties | None = None) -> Matches:
    """For each prior its best truth and IoU; of equal IoUs the lower truth.

    Args:
        priors: float `[P, 4]`, xyxy in pixels. Non-finite boxes never match.
        truths: float `[T, 4]`.
        min_iou: below this IoU a prior has no match.
        forced: mark for each truth the prior it overlaps best: `"all"` priors within 1e-5 of the best (relative), or
            of those only the one with the `"nearest"` centre.
    """
    check_boxes(priors=priors, truths=truths)
    return Matches(*reference.match_boxes(priors, truths, min_iou, forced))


def match_anchors(
    levels: Sequence[AnchorLevel], truths: Tensor, min_iou: float = 0.0, forced: Ties | None = None
) -> Matches:
    """`match_boxes` for the anchors of a pyramid, in the order level, row, column, anchor."""
    check_boxes(truths=truths)
    return Matches(*anchor_matching.match_anchors(levels, truths, min_iou, forced))


def anchors_at(level: AnchorLevel, index: Tensor) -> Tensor:
    """Boxes float32 `[..., 4]` of the anchors `index` int64 (row, column, anchor) of a level, none but these."""
    return reference.anchors_at(level, index)


def all_anchors(levels: Sequence[AnchorLevel]) -> Tensor:
    """Every anchor of a pyramid, float32 `[P, 4]`, in the order level, row, column, anchor."""
    return reference.all_anchors(levels)


def covered(priors: Tensor, regions: Tensor, min_fraction: float = 0.5) -> Tensor:
    """bool `[P]`: priors `[P, 4]` of whose area at least `min_fraction` lies inside one of `regions [R, 4]`."""
    check_boxes(priors=priors, regions=regions)
    return reference.covered(priors, regions, min_fraction)


def check_boxes(**named: Tensor) -> None:
    for name, boxes in named.items():
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} must be [N, 4], got {list(boxes.shape)}")
