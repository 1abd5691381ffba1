"""What the tiles of a grid found, as one: objects cut by tile borders made whole, those seen twice counted once.

Two detections are of one object if they agree where both of their tiles look: the IoU is taken within what the tiles
share. There a whole object and its cut half are the same, and so are two halves, however long the object is: the
overlap of tiles need not hold it. (IoU over all, or over the smaller area, fails at one of these or merges neighbours.)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from augment.merging.fusion import fuse_boxes, fuse_masks
from augment.merging.overlaps import box_overlaps, by_parts, mask_overlaps, split_by_cost
from augment.merging.pool import alike, comparable_masks
from maskrcnn.ops.boxes import box_area
from maskrcnn.ops.reference_masks import window_pixels
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

_PIXELS_AT_ONCE = 1 << 19
_FLAT = 2**-6  # px: boxes without an area are widened by this to be counted
_SLIVER = 2.0  # px: of what is no wider, a view that resamples shows too little to compare


class _Pairs(NamedTuple):
    """P pairs of detections, rows before columns, int64 `[P]`, and what they share, float64 `[P]`."""

    rows: Tensor
    columns: Tensor
    intersection: Tensor


def join_tiles(
    found: Sequence[Instances], windows: Tensor, threshold: float = 0.5, least_inside: float = 0.7, margin: float = 1.0
) -> Instances:
    """Detections of overlapping tiles as detections of their image, by falling score, on the CPU, without ids and
    with nothing ignored.

    Where a tile saw an object whole, its detection with the best score stands; where none did, the parts are put
    together: each pixel is the mean of the tiles that see it.

    The score is the mean over the tiles that hold the object whole, 0 of those that found nothing there (many tiles
    find much that is not there; each alone); of parts it is the best.

    Args:
        found: what each tile found, on the canvas of the image, with scores; all with masks or all without. A tile
            without detections needs neither. Where a mask has no pixel inside, the box is compared.
        windows: int `[T, 4]`, x1 y1 x2 y2, the pixels of the image that each tile shows.
        threshold: least IoU, within what both tiles see, of detections of one object; no detection gets two partners in
            one tile, and two that one tile saw whole stay two.
        least_inside: what no tile saw whole is dropped if this much of what another tile sees of it lies in a detection
            of that tile, or this much of its mask in a larger object that a tile saw whole.
        margin: a box this close (px) to a border of its tile inside the image counts as cut.

    Raises ValueError for tiles that do not belong together (see `augment.merging.pool.pool_views`), and for shares
    outside [0, 1].
    """
    for name, value in (("threshold", threshold), ("least_inside", least_inside)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if windows.shape != (len(found), 4):
        raise ValueError(f"windows must be [{len(found)}, 4] like the tiles, got {list(windows.shape)}")
    pool, windows = Instances.cat(alike(found)), windows.cpu()
    tile = torch.repeat_interleave(torch.tensor([len(each) for each in found]))
    pool, tile = _as_seen(pool, tile, windows)
    cut = _are_cut(pool, windows[tile], margin)
    touched, holding = _count_tiles(pool.boxes, windows)
    shapes = replace(pool, masks=comparable_masks(pool))
    pairs = _pairs_across(shapes, tile, touched > 1)
    shares = _shares(shapes, pairs, tile, windows)
    group = _groups(tile, cut, _partners(pairs, shares, tile, threshold))
    group = _without_strays(pool, pairs, shares, group, cut, holding, least_inside)
    return _joined(pool, group, cut | _go_on(pool.boxes, group, windows[tile], margin), tile, windows, least_inside)


def _as_seen(pool: Instances, tile: Tensor, windows: Tensor) -> tuple[Instances, Tensor]:
    """The detections, and their tiles, cut to what their tiles show; a view that was scaled may smear them beyond."""
    seen = windows[tile]
    extent, hollow = pool.boxes, torch.ones(len(pool), dtype=torch.bool)
    if pool.masks is not None:
        hollow = by_parts(pool.masks, CroppedMasks.areas) == 0
        extent = torch.where(hollow[:, None], extent, pool.masks.windows)
    beyond = ((extent[:, :2] < seen[:, :2]) | (extent[:, 2:] > seen[:, 2:])).any(dim=1)
    if not beyond.any():
        return pool, tile
    boxes = torch.maximum(torch.minimum(pool.boxes, seen[:, [2, 3, 2, 3]].float()), seen[:, [0, 1, 0, 1]].float())
    masks, left = pool.masks, (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if masks is not None:
        at = torch.nonzero(beyond).flatten()
        cut = fuse_masks(masks[at], torch.arange(len(at)), len(at), seen=seen[at])
        masks = masks.exchanged(at, cut)
        left[at] &= (cut.areas() > 0) | hollow[at]
    return replace(pool, boxes=boxes, masks=masks)[left], tile[left]


def _are_cut(pool: Instances, windows: Tensor, margin: float) -> Tensor:
    """bool `[N]`: whether each box may go on beyond its tile, where the image does."""
    height, width = pool.size
    low = (pool.boxes[:, :2] <= windows[:, :2] + margin) & (windows[:, :2] > 0)
    high = (pool.boxes[:, 2:] >= windows[:, 2:] - margin) & (windows[:, 2:] < torch.tensor([width, height]))
    return (low | high).any(dim=1)


def _go_on(boxes: Tensor, group: Tensor, windows: Tensor, margin: float) -> Tensor:
    """bool `[N]`: whether others of a detection's group reach beyond its tile (an object may be in several pieces)."""
    to = group.clamp(min=0)[:, None].expand(-1, 2)
    low = torch.full((len(boxes), 2), torch.inf).scatter_reduce(0, to, boxes[:, :2], "amin")
    high = torch.full((len(boxes), 2), -torch.inf).scatter_reduce(0, to, boxes[:, 2:], "amax")
    at = group.clamp(min=0)
    return ((low[at] < windows[:, :2] - margin) | (high[at] > windows[:, 2:] + margin)).any(dim=1) & (group >= 0)


def _pairs_across(pool: Instances, tile: Tensor, twice: Tensor) -> _Pairs:
    """Detections of one label in different tiles that overlap; only what lies where two tiles look is compared."""
    index = torch.nonzero(twice).flatten()
    part = pool[index]
    pairs = mask_overlaps(part.masks) if part.masks is not None else box_overlaps(part.boxes)
    rows, columns = index[pairs.rows], index[pairs.columns]
    across = (tile[rows] != tile[columns]) & (pool.labels[rows] == pool.labels[columns])
    return _Pairs(rows[across], columns[across], pairs.intersection[across])


def _count_tiles(boxes: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """int64 `[N]` each: how many tiles every box touches, and how many hold it whole."""
    pairs = box_overlaps(_widened(boxes), windows.double())
    held = pairs.intersection == pairs.areas1[pairs.rows]
    return torch.bincount(pairs.rows, minlength=len(boxes)), torch.bincount(pairs.rows[held], minlength=len(boxes))


def _shares(pool: Instances, pairs: _Pairs, tile: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """float64 `[P]` each: how much of the first, and of the second, the other's tile sees."""
    asked = torch.cat([pairs.rows, pairs.columns]) * len(windows) + tile[torch.cat([pairs.columns, pairs.rows])]
    once, back = torch.unique(asked, return_inverse=True)  # neighbours ask the same of a tile
    index, by = once // len(windows), once % len(windows)
    one, other = _seen_areas(pool, index, windows[by])[back].view(2, -1)
    return one, other


def _seen_areas(pool: Instances, index: Tensor, windows: Tensor) -> Tensor:
    """float64 `[P]`: the area of detection `index[p]` in window p."""
    if pool.masks is not None:
        own = pool.masks.windows[index]
        part = torch.nonzero(((own[:, :2] < windows[:, :2]) | (own[:, 2:] > windows[:, 2:])).any(dim=1)).flatten()
        areas = by_parts(pool.masks, CroppedMasks.areas).double()[index]
        areas[part] = _areas_within(pool.masks, index[part], windows[part])
        return areas
    low = torch.maximum(pool.boxes[index, :2], windows[:, :2])
    high = torch.minimum(pool.boxes[index, 2:], windows[:, 2:])
    return (high - low).clamp(min=0).double().prod(dim=1)


def _areas_within(masks: CroppedMasks, index: Tensor, windows: Tensor) -> Tensor:
    """float64 `[P]`: the pixels of mask `index[p]` that lie in window p."""
    areas = torch.zeros(len(index), dtype=torch.float64)
    for part in split_by_cost(masks.offsets.diff()[index], _PIXELS_AT_ONCE):
        some = masks[index[part]]
        owner, x, y = window_pixels(some.windows)
        x1, y1, x2, y2 = windows[part].unbind(dim=1)
        inside = (some.data >= 128) & (x >= x1[owner]) & (x < x2[owner]) & (y >= y1[owner]) & (y < y2[owner])
        areas[part] = torch.bincount(owner[inside], minlength=len(part)).double()
    return areas


def _partners(pairs: _Pairs, shares: tuple[Tensor, Tensor], tile: Tensor, threshold: float) -> list[tuple[int, int]]:
    """The most alike first, each with at most one partner in a tile."""
    alike = pairs.intersection / (shares[0] + shares[1] - pairs.intersection)
    order = torch.argsort(alike, descending=True, stable=True)
    order = order[alike[order] >= threshold]
    taken: set[tuple[int, int]] = set()
    one, other, tiles = pairs.rows[order].tolist(), pairs.columns[order].tolist(), tile.tolist()
    kept = []
    for i, j in zip(one, other, strict=True):
        ways = {(i, tiles[j]), (j, tiles[i])}
        if not ways & taken:
            taken |= ways
            kept.append((i, j))
    return kept


def _groups(tile: Tensor, cut: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """int64 `[N]`: numbers from 0 that are equal for what pairs connect, the first first.

    What would make one of two detections that one tile saw whole is left out: a chain may lead from one to the next.
    """
    parent = list(range(len(tile)))
    whole_in = [set() if is_cut else {number} for number, is_cut in zip(tile.tolist(), cut.tolist(), strict=True)]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        i, j = root(i), root(j)
        if i != j and whole_in[i].isdisjoint(whole_in[j]):
            parent[i] = j
            whole_in[j] |= whole_in[i]
    roots = torch.tensor([root(i) for i in range(len(tile))], dtype=torch.int64)
    return torch.unique(roots, return_inverse=True)[1]


def _without_strays(
    pool: Instances,
    pairs: _Pairs,
    shares: tuple[Tensor, Tensor],
    group: Tensor,
    cut: Tensor,
    holding: Tensor,
    least_inside: float,
) -> Tensor:
    """Groups, −1 for those that no tile saw whole and of which a part lies in what another tile found.

    Such parts are of a box whose object is slanted, or of an object that was not seen well at the border.
    """
    nowhere_whole = torch.ones(len(group), dtype=torch.bool)
    nowhere_whole[group[~cut]] = False
    is_sliver = (pool.boxes[:, 2:] - pool.boxes[:, :2]).amin(dim=1) <= _SLIVER
    parts = torch.bincount(group, minlength=len(group))
    more = torch.bincount(group[~is_sliver], minlength=len(group)) > 0
    stray = torch.zeros_like(nowhere_whole)
    stray[group[holding > parts[group]]] = True  # another tile sees it, and found nothing
    stray &= ~more
    if pool.masks is not None:  # parts of more than a sliver would have met what they belong to
        nowhere_whole &= (parts == 1) | ~more
    for one, other, share in ((pairs.rows, pairs.columns, shares[0]), (pairs.columns, pairs.rows, shares[1])):
        inside = (pairs.intersection >= least_inside * share) & (share > 0)
        # Of two such groups, which lie in each other, one must stay.
        better = ~nowhere_whole[group[other]] | (group[one] > group[other])
        stray[group[one[inside & better & (group[one] != group[other])]]] = True
    return torch.where((stray & nowhere_whole)[group], -1, group)


def _joined(
    pool: Instances, group: Tensor, cut: Tensor, tile: Tensor, windows: Tensor, least_inside: float
) -> Instances:
    """One detection a group: the best whole one, or the parts put together, with the score of `_agreed`."""
    assert pool.scores is not None
    index = torch.nonzero(group >= 0).flatten()
    if len(index) == 0:
        return pool[index]
    order = index[torch.argsort(pool.scores[index], descending=True, stable=True)]
    order = order[torch.argsort(cut[order].int(), stable=True)]  # whole ones first, each kind by falling score
    first = torch.full((int(group.max()) + 1,), len(order)).scatter_reduce(
        0, group[order], torch.arange(len(order)), "amin"
    )
    chosen = order[first[first < len(order)]]
    number = torch.full((len(first),), -1)
    number[group[chosen]] = torch.arange(len(chosen))
    group = torch.where(group >= 0, number[group], -1)
    result = pool[chosen]
    assert result.scores is not None
    best = torch.zeros(len(chosen)).scatter_reduce(0, group[index], pool.scores[index], "amax")
    apart = (cut[chosen]) & (torch.bincount(group[index], minlength=len(chosen)) > 1)
    parts = torch.nonzero((group >= 0) & apart[group]).flatten()
    if len(parts):
        result = _with_parts(result, pool[parts], group[parts], torch.nonzero(apart).flatten(), windows[tile[parts]])
    whole = torch.nonzero(~cut[chosen]).flatten()
    best[whole] = _agreed(pool.boxes[chosen[whole]], whole, pool.scores[index], group[index], tile[index], windows)
    result.scores, result.ids = best, None
    result = result[_outside(result, cut[chosen], least_inside) & ~_vanished(pool, index, group, result)]
    assert result.scores is not None
    return result[torch.argsort(result.scores, descending=True, stable=True)]


def _vanished(pool: Instances, index: Tensor, group: Tensor, result: Instances) -> Tensor:
    """bool `[K]`: whether detections `index` that have pixels were put together, and no pixel is in most of them."""
    if pool.masks is None or result.masks is None:
        return torch.zeros(len(result), dtype=torch.bool)
    before, after = (by_parts(masks, CroppedMasks.areas) for masks in (pool.masks, result.masks))
    return (after == 0) & (torch.bincount(group[index], before[index].double(), len(result)) > 0)


def _outside(result: Instances, in_parts: Tensor, least_inside: float) -> Tensor:
    """bool `[K]`: all but what no tile saw whole and lies in something larger of its label that one did.

    A detector takes what a border leaves of an object for a small one.
    """
    masks, kept = comparable_masks(result), torch.ones(len(result), dtype=torch.bool)
    if masks is None:
        return kept
    pairs = mask_overlaps(masks).of_one_label(result.labels)
    area = pairs.areas1
    for one, other in ((pairs.rows, pairs.columns), (pairs.columns, pairs.rows)):
        inside = (area[other] > area[one]) & (pairs.intersection >= least_inside * area[one])
        kept[one[inside & in_parts[one] & ~in_parts[other]]] = False
    return kept


def _agreed(boxes: Tensor, number: Tensor, scores: Tensor, group: Tensor, tile: Tensor, windows: Tensor) -> Tensor:
    """float32 `[K]`: the mean score of the groups `number` over the tiles that hold their `boxes`, at least one each.

    scores, group, tile: of all detections, `[N]`.
    """
    pairs = box_overlaps(_widened(boxes), windows.double())
    held = pairs.intersection == pairs.areas1[pairs.rows]
    rows, columns = pairs.rows[held], pairs.columns[held]
    places, back = torch.unique(group * len(windows) + tile, return_inverse=True)
    highest = torch.zeros(len(places)).scatter_reduce(0, back, scores, "amax")
    asked = number[rows] * len(windows) + columns
    at = torch.searchsorted(places, asked).clamp(max=len(places) - 1)
    given = torch.where(places[at] == asked, highest[at], 0.0)
    votes = torch.bincount(rows, minlength=len(boxes))
    return (torch.bincount(rows, given.double(), len(boxes)) / votes).float()


def _widened(boxes: Tensor) -> Tensor:
    """float64 `[N, 4]`: boxes without an area a little larger, so that they count."""
    boxes = boxes.double()
    flat = (box_area(boxes) == 0)[:, None]
    return torch.where(flat, boxes + boxes.new_tensor([-_FLAT, -_FLAT, _FLAT, _FLAT]), boxes)


def _with_parts(result: Instances, parts: Instances, group: Tensor, at: Tensor, seen: Tensor) -> Instances:
    """`result` with the objects `at` put together from their parts."""
    local = torch.searchsorted(at, group)
    boxes = fuse_boxes(parts.boxes, local, len(at), seen=seen)
    masks = result.masks
    if masks is not None and parts.masks is not None:
        whole = fuse_masks(parts.masks, local, len(at), seen=seen)
        boxes = torch.where((whole.areas() > 0)[:, None], whole.boxes(), boxes)
        masks = masks.exchanged(at, whole)
    all_boxes = result.boxes.clone()
    all_boxes[at] = boxes
    return Instances(result.size, all_boxes, result.labels, result.scores, masks)
