"""Matching of gridded anchors that visits, for each truth, only the anchors near it.

2-D IoU is at most 1-D IoU, so IoU ≥ t needs side ratios ≥ t and centres closer than ½ (w₁ + w₂) (1 - t) / (1 + t),
along x and along y. The best anchor of a truth on one grid is the one with the nearest centre. Cost follows the
truths, not the anchors times the truths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.boxes import box_area
from maskrcnn.ops.types import AnchorLevel, Ties

TIE = 1e-5  # IoUs closer than this, relative, tie: exact ties on unrounded anchors are chaotic
MARGIN = 1e-3  # pixels by which windows are wider than the bound, so that rounding loses no anchor


class _Grids(NamedTuple):
    """One regular grid of equal anchors for each level and base size; all tensors `[G]` or `[G, 2]` (x, y)."""

    stride: Tensor
    offset: Tensor
    size: Tensor
    cells: Tensor
    first: Tensor
    step: Tensor


class _Pairs(NamedTuple):
    """Truths and anchors that may overlap, all `[C]`."""

    truth: Tensor
    anchor: Tensor
    iou: Tensor
    distance: Tensor


def match_anchors(
    levels: Sequence[AnchorLevel], truths: Tensor, min_iou: float, forced: Ties | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What `reference.match_anchors` computes."""
    count = sum(level.height * level.width * len(level.sizes) for level in levels)
    index = torch.full((count,), -1, dtype=torch.int64, device=truths.device)
    iou = torch.zeros(count, device=truths.device)
    is_forced = torch.zeros(count, dtype=torch.bool, device=truths.device)
    sound = torch.nonzero(torch.isfinite(truths).all(dim=1) & (box_area(truths) > 0)).flatten()
    if count == 0 or len(sound) == 0:
        return index, iou, is_forced
    grids = _grids(levels, truths.device)
    boxes = truths[sound].float()
    nearest = _nearest_iou(grids, boxes)
    best = nearest.max(dim=1).values
    pairs = _near(grids, boxes, *_windows(grids, boxes, min_iou, nearest >= best[:, None] * (1 - TIE)))
    iou.scatter_reduce_(0, pairs.anchor, pairs.iou, "amax")
    hit = (pairs.iou == iou[pairs.anchor]) & (pairs.iou > 0)
    large = torch.full_like(index, len(truths))
    large.scatter_reduce_(0, pairs.anchor[hit], sound[pairs.truth[hit]], "amin")
    index = torch.where(large < len(truths), large, -1)
    if forced is not None:
        is_forced[_forced(pairs, best, forced)] = True
        # Below min_iou the windows need not have held the best truth of a forced anchor.
        weak = torch.nonzero(is_forced & (iou < min_iou)).flatten()
        if len(weak):
            index[weak], iou[weak], _ = reference.match_boxes(reference.all_anchors(levels)[weak], truths, 0.0, None)
    unmatched = (iou < min_iou) & ~is_forced
    return index.masked_fill(unmatched, -1), iou.masked_fill(unmatched, 0.0), is_forced


def _grids(levels: Sequence[AnchorLevel], device: torch.device) -> _Grids:
    rows, first = [], 0
    for level in levels:
        count = len(level.sizes)
        for a, size in enumerate(level.sizes.tolist()):
            rows.append((level.stride[::-1], level.offset[::-1], size, (level.width, level.height), first + a, count))
        first += level.height * level.width * count
    stride, offset, size, cells, start, step = zip(*rows, strict=True)
    floats = (torch.tensor(part, dtype=torch.float32, device=device) for part in (stride, offset, size))
    return _Grids(*floats, *(torch.tensor(part, device=device) for part in (cells, start, step)))


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _nearest_iou(grids: _Grids, boxes: Tensor) -> Tensor:
    """IoU of each truth with the anchor of each grid whose centre is nearest: the best of the grid, `[T, G]`."""
    cell = ((_centres(boxes)[:, None] - grids.offset) / grids.stride).round()
    cell = torch.minimum(cell.clamp(min=0), grids.cells - 1)
    return _iou(boxes[:, None], cell * grids.stride + grids.offset, grids.size)


def _iou(boxes: Tensor, centre: Tensor, size: Tensor) -> Tensor:
    """IoU of boxes with the anchors there, step by step as `box_iou` computes it: to the last bit the same."""
    low, high = centre - size / 2, centre + size / 2
    shared = (torch.minimum(boxes[..., 2:], high) - torch.maximum(boxes[..., :2], low)).clamp(min=0)
    intersection = shared[..., 0] * shared[..., 1]
    return intersection / (box_area(boxes) + box_area(torch.cat([low, high], dim=-1)) - intersection)


def _windows(grids: _Grids, boxes: Tensor, min_iou: float, has_best: Tensor) -> tuple[Tensor, Tensor]:
    """First and last cell (x, y) that a truth looks at on each grid, int64 `[T, G, 2]`; last < first: none."""
    side = (boxes[:, 2:] - boxes[:, :2])[:, None]
    reach = (side + grids.size) / 2 * (1 - min_iou) / (1 + min_iou)
    ratio = torch.minimum(side / grids.size, grids.size / side)
    reach = torch.where((ratio >= min_iou * (1 - TIE)).all(dim=-1, keepdim=True), reach, -torch.inf)
    at = (_centres(boxes)[:, None] - grids.offset) / grids.stride
    nearest = torch.minimum(at.round().clamp(min=0), grids.cells - 1)
    # Where one box holds the other, IoU does not change with the distance: all these anchors tie for the best.
    tied = torch.maximum((side - grids.size).abs() / 2, (at - nearest).abs() * grids.stride)
    reach = torch.maximum(reach, torch.where(has_best[..., None], tied, -torch.inf)) + MARGIN
    first = (at - reach / grids.stride).ceil().clamp(min=0)
    last = torch.minimum((at + reach / grids.stride).floor(), grids.cells - 1)
    empty = ~torch.isfinite(reach)
    return torch.where(empty, 0, first).long(), torch.where(empty, -1, last).long()


def _near(grids: _Grids, boxes: Tensor, first: Tensor, last: Tensor) -> _Pairs:
    """All anchors in the windows."""
    extent = (last - first + 1).clamp(min=0)
    counts = extent.prod(dim=-1).flatten()
    window = torch.repeat_interleave(counts)
    position = torch.arange(len(window), device=boxes.device) - (counts.cumsum(0) - counts)[window]
    truth, grid = window // len(grids.first), window % len(grids.first)
    width = extent.view(-1, 2)[window, 0]
    cell = first.view(-1, 2)[window] + torch.stack([position % width, position // width], dim=1)
    centre = cell * grids.stride[grid] + grids.offset[grid]
    anchor = grids.first[grid] + (cell[:, 1] * grids.cells[grid, 0] + cell[:, 0]) * grids.step[grid]
    distance = (centre - _centres(boxes)[truth]).square().sum(dim=1)
    return _Pairs(truth, anchor, _iou(boxes[truth], centre, grids.size[grid]), distance)


def _forced(pairs: _Pairs, best: Tensor, forced: Ties) -> Tensor:
    """The anchors that a truth overlaps best, int64: all ties, or the nearest, of these the first."""
    ties = torch.nonzero((pairs.iou >= best[pairs.truth] * (1 - TIE)) & (pairs.iou > 0)).flatten()
    if forced == "all":
        return pairs.anchor[ties]
    truth, anchor, distance = pairs.truth[ties], pairs.anchor[ties], pairs.distance[ties]
    closest = torch.full_like(best, torch.inf).scatter_reduce_(0, truth, distance, "amin")
    near = distance == closest[truth]
    first = torch.full_like(best, torch.iinfo(torch.int64).max, dtype=torch.int64)
    first.scatter_reduce_(0, truth[near], anchor[near], "amin")
    return first[best > 0]
