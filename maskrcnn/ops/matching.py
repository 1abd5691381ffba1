"""Matching of priors (anchors, proposals) to ground truth without a dense matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops._native import native
from maskrcnn.ops.checks import check_boxes, check_positive
from maskrcnn.ops.types import TIES, AnchorLevel, Matches, Ties


def match_boxes(priors: Tensor, targets: Tensor, min_iou: float = 0.0, forced: Ties | None = None) -> Matches:
    """Find the best ground-truth box of each prior and their IoU; ties go to the lower index.

    Args:
        priors: float `[P, 4]`, xyxy in pixels. Non-finite boxes never match.
        targets: float `[T, 4]`, ground-truth boxes.
        min_iou: below this IoU, in 0..1, a prior has no match.
        forced: mark the prior with the highest IoU for each ground-truth box: `"all"` priors within 1e-5 (relative) of
            the highest, or only the one among them with the `"nearest"` center.

    Returns:
        The matches.

    Raises:
        ValueError: If shapes or devices do not match, or `min_iou` is out of range.

    Source: Ren et al., Faster R-CNN, arXiv 1506.01497, section 3.1.2.
    """
    check_boxes(priors=priors, targets=targets)
    _check(priors, targets, min_iou)
    match = native(reference.match_boxes, priors.device)
    return Matches(*match(priors.float().contiguous(), targets.float().contiguous(), min_iou, TIES[forced]))


def match_anchors(
    levels: Sequence[AnchorLevel], targets: Tensor, min_iou: float = 0.0, forced: Ties | None = None
) -> Matches:
    """Run `match_boxes` on the anchors of a pyramid, in the order level, row, column, anchor.

    Raises:
        ValueError: If there is no level, a stride or size is not positive, or as `match_boxes`.
    """
    check_boxes(targets=targets)
    if not levels:
        raise ValueError("levels must be one AnchorLevel at least, got none")
    for level in levels:
        check_positive(stride_y=level.stride[0], stride_x=level.stride[1])
        if level.height < 0 or level.width < 0:
            raise ValueError(f"height and width of a level must not be negative, got {level.height}, {level.width}")
    _check(levels[0].sizes, targets, min_iou)
    match = native(reference.match_anchors, targets.device)
    return Matches(*match(*_grids(levels), targets.float().contiguous(), min_iou, TIES[forced]))


def _check(priors: Tensor, targets: Tensor, min_iou: float) -> None:
    if not 0 <= min_iou <= 1:
        raise ValueError(f"min_iou must be in 0..1, got {min_iou}")
    if priors.device != targets.device:
        raise ValueError(f"targets must be on {priors.device} like the priors, got {targets.device}")


def _grids(levels: Sequence[AnchorLevel]) -> tuple[Tensor, Tensor, Tensor]:
    """Make one regular grid per level and base size.

    Returns:
        float32 `[G, 2]` (width, height); float32 `[G, 4]` (stride x, stride y, offset x, offset y); int64 `[G, 4]`
        (columns, rows, index of the first anchor, step between the anchors of adjacent cells).
    """
    grids: list[tuple[float, ...]] = []
    cells: list[tuple[int, ...]] = []
    first = 0
    for level in levels:
        count = len(level.sizes)
        grids += [(*level.stride[::-1], *level.offset[::-1])] * count
        cells += [(level.width, level.height, first + a, count) for a in range(count)]
        first += level.height * level.width * count
    device = levels[0].sizes.device
    sizes = torch.cat([level.sizes for level in levels]).float().contiguous()
    steps = torch.tensor(grids, dtype=torch.float32, device=device).view(-1, 4)
    return sizes, steps, torch.tensor(cells, device=device).view(-1, 4)


def anchors_at(level: AnchorLevel, index: Tensor) -> Tensor:
    """Compute the boxes float32 `[..., 4]` of the anchors `index` int64 (row, column, anchor) of a level."""
    count = len(level.sizes)
    cell, size = index // count, level.sizes[index % count]
    x = (cell % level.width).to(size) * level.stride[1] + level.offset[1]
    y = (cell // level.width).to(size) * level.stride[0] + level.offset[0]
    center = torch.stack([x, y], dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def all_anchors(levels: Sequence[AnchorLevel]) -> Tensor:
    """Compute all anchors of a pyramid, float32 `[P, 4]`, in the order level, row, column, anchor."""
    return reference.all_anchors(*_grids(levels))


def covered(priors: Tensor, regions: Tensor, min_fraction: float = 0.5) -> Tensor:
    """Return whether at least `min_fraction` of each prior `[P, 4]` is inside one of `regions [R, 4]`, bool `[P]`."""
    check_boxes(priors=priors, regions=regions)
    return reference.covered(priors, regions, min_fraction)
