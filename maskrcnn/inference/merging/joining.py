"""Joining of the detections of a grid of tiles: objects cut by tile borders are reassembled, duplicates are removed.

Two detections belong to one object if they agree in the area that both of their tiles show: the IoU is computed within
the intersection of the two tiles. There an object and its truncated copy are the same, and so are two halves, however
long the object is: the overlap of the tiles need not contain it. (The IoU over everything, or the intersection over the
smaller area, fails at one of these or merges neighbors.)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.inference.merging.fusion import fuse_boxes, fuse_masks
from maskrcnn.inference.merging.overlaps import apply_in_chunks, box_overlaps, mask_overlaps, split_by_cost
from maskrcnn.inference.merging.pool import fill_empty_masks, unify_fields
from maskrcnn.ops.boxes import box_area
from maskrcnn.ops.windows import window_pixels
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

_CHUNK_PIXELS = 1 << 19
_WIDENING = 2**-6  # px, added to each side of boxes without an area so that they are counted
_MAX_SLIVER_WIDTH = 2.0  # px: a resampled view shows too little of a narrower part for a comparison


class _Pairs(NamedTuple):
    """P pairs of detections, row < column, int64 `[P]`, and their intersections, float64 `[P]`."""

    rows: Tensor
    columns: Tensor
    intersection: Tensor


def join_tiles(
    detections: Sequence[Instances],
    windows: Tensor,
    threshold: float = 0.5,
    min_inside: float = 0.7,
    margin: float = 1.0,
) -> Instances:
    """Merge the detections of overlapping tiles into detections of the image.

    If a tile shows the whole object, its detection with the highest score is kept. Otherwise the parts are assembled:
    each pixel is the mean over the tiles that show it.

    The score is the mean over the tiles that show the whole object, where a tile without a detection counts as 0 (false
    positives are rarely repeated in other tiles); for assembled parts it is the maximum.

    Args:
        detections: detections per tile, on the canvas of the image, with scores; all with masks or all without. A tile
            without detections needs neither. If a mask has no pixel inside, its box is compared.
        windows: int `[T, 4]`, x1 y1 x2 y2, the pixels of the image that each tile shows.
        threshold: minimum IoU, within the intersection of both tiles, of detections of one object. A detection gets at
            most one partner per tile, and two complete detections of one tile are never merged.
        min_inside: an incomplete detection is dropped if this fraction of what another tile shows of it is inside a
            detection of that tile, or this fraction of its mask is inside a larger, complete object.
        margin: a box this close (px) to a border of its tile inside the image counts as cut.

    Returns:
        Detections in descending order of score, on the CPU, without ids, nothing ignored.

    Raises:
        ValueError: If the tiles do not match (see `pool_views`), or a fraction is outside [0, 1].
    """
    for name, value in (("threshold", threshold), ("min_inside", min_inside)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if windows.shape != (len(detections), 4):
        raise ValueError(f"windows must be [{len(detections)}, 4] like the tiles, got {list(windows.shape)}")
    pool, windows = Instances.cat(unify_fields(detections)), windows.cpu()
    tile = torch.repeat_interleave(torch.tensor([len(each) for each in detections]))
    pool, tile = _crop_to_tiles(pool, tile, windows)
    cut = _find_cut_boxes(pool, windows[tile], margin)
    touched, holding = _count_tiles(pool.boxes, windows)
    shapes = replace(pool, masks=fill_empty_masks(pool))
    pairs = _find_pairs_across_tiles(shapes, tile, touched > 1)
    shares = _measure_shared_areas(shapes, pairs, tile, windows)
    group = _connect_pairs(tile, cut, _match_pairs(pairs, shares, tile, threshold))
    group = _remove_strays(pool, pairs, shares, group, cut, holding, min_inside)
    return _merge_groups(
        pool, group, cut | _find_continued_boxes(pool.boxes, group, windows[tile], margin), tile, windows, min_inside
    )


def _crop_to_tiles(pool: Instances, tile: Tensor, windows: Tensor) -> tuple[Instances, Tensor]:
    """Crop detections to their tiles (a rescaled view may blur them beyond); return the rest and their tiles."""
    visible = windows[tile]
    extent, hollow = pool.boxes, torch.ones(len(pool), dtype=torch.bool)
    if pool.masks is not None:
        hollow = apply_in_chunks(pool.masks, CroppedMasks.areas) == 0
        extent = torch.where(hollow[:, None], extent, pool.masks.windows)
    beyond = ((extent[:, :2] < visible[:, :2]) | (extent[:, 2:] > visible[:, 2:])).any(dim=1)
    if not beyond.any():
        return pool, tile
    boxes = torch.maximum(torch.minimum(pool.boxes, visible[:, [2, 3, 2, 3]].float()), visible[:, [0, 1, 0, 1]].float())
    masks, left = pool.masks, (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if masks is not None:
        at = torch.nonzero(beyond).flatten()
        cut = fuse_masks(masks[at], torch.arange(len(at)), len(at), visible=visible[at])
        masks = masks.replace_at(at, cut)
        left[at] &= (cut.areas() > 0) | hollow[at]
    return replace(pool, boxes=boxes, masks=masks)[left], tile[left]


def _find_cut_boxes(pool: Instances, windows: Tensor, margin: float) -> Tensor:
    """Return whether each box may be cut by a border of its tile inside the image, bool `[N]`."""
    height, width = pool.size
    low = (pool.boxes[:, :2] <= windows[:, :2] + margin) & (windows[:, :2] > 0)
    high = (pool.boxes[:, 2:] >= windows[:, 2:] - margin) & (windows[:, 2:] < torch.tensor([width, height]))
    return (low | high).any(dim=1)


def _find_continued_boxes(boxes: Tensor, group: Tensor, windows: Tensor, margin: float) -> Tensor:
    """Return whether the group of each detection extends beyond its tile, bool `[N]`."""
    to = group.clamp(min=0)[:, None].expand(-1, 2)
    low = torch.full((len(boxes), 2), torch.inf, dtype=boxes.dtype).scatter_reduce(0, to, boxes[:, :2], "amin")
    high = torch.full((len(boxes), 2), -torch.inf, dtype=boxes.dtype).scatter_reduce(0, to, boxes[:, 2:], "amax")
    at = group.clamp(min=0)
    return ((low[at] < windows[:, :2] - margin) | (high[at] > windows[:, 2:] + margin)).any(dim=1) & (group >= 0)


def _find_pairs_across_tiles(pool: Instances, tile: Tensor, twice: Tensor) -> _Pairs:
    """Find overlapping detections of one label in different tiles, among those that touch several tiles (`twice`)."""
    index = torch.nonzero(twice).flatten()
    part = pool[index]
    pairs = mask_overlaps(part.masks) if part.masks is not None else box_overlaps(part.boxes)
    rows, columns = index[pairs.rows], index[pairs.columns]
    across = (tile[rows] != tile[columns]) & (pool.labels[rows] == pool.labels[columns])
    return _Pairs(rows[across], columns[across], pairs.intersection[across])


def _count_tiles(boxes: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Count the tiles that each box touches, and the tiles that contain it; int64 `[N]` each."""
    pairs = box_overlaps(_widen_flat_boxes(boxes), windows.double())
    held = pairs.intersection == pairs.areas1[pairs.rows]
    return torch.bincount(pairs.rows, minlength=len(boxes)), torch.bincount(pairs.rows[held], minlength=len(boxes))


def _measure_shared_areas(pool: Instances, pairs: _Pairs, tile: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Measure, for each pair, the area of the first in the second's tile, and vice versa; float64 `[P]` each."""
    asked = torch.cat([pairs.rows, pairs.columns]) * len(windows) + tile[torch.cat([pairs.columns, pairs.rows])]
    once, back = torch.unique(asked, return_inverse=True)  # several pairs need the same area
    index, by = once // len(windows), once % len(windows)
    one, other = _measure_areas(pool, index, windows[by])[back].view(2, -1)
    return one, other


def _measure_areas(pool: Instances, index: Tensor, windows: Tensor) -> Tensor:
    """Measure the area of detection `index[p]` within window p, float64 `[P]`."""
    if pool.masks is not None:
        own = pool.masks.windows[index]
        part = torch.nonzero(((own[:, :2] < windows[:, :2]) | (own[:, 2:] > windows[:, 2:])).any(dim=1)).flatten()
        areas = apply_in_chunks(pool.masks, CroppedMasks.areas).double()[index]
        areas[part] = _measure_mask_areas(pool.masks, index[part], windows[part])
        return areas
    low = torch.maximum(pool.boxes[index, :2], windows[:, :2])
    high = torch.minimum(pool.boxes[index, 2:], windows[:, 2:])
    return (high - low).clamp(min=0).double().prod(dim=1)


def _measure_mask_areas(masks: CroppedMasks, index: Tensor, windows: Tensor) -> Tensor:
    """Count the pixels of mask `index[p]` within window p, float64 `[P]`."""
    areas = torch.zeros(len(index), dtype=torch.float64)
    for part in split_by_cost(masks.offsets.diff()[index], _CHUNK_PIXELS):
        some = masks[index[part]]
        owner, x, y = window_pixels(some.windows)
        x1, y1, x2, y2 = windows[part].unbind(dim=1)
        inside = (some.data >= 128) & (x >= x1[owner]) & (x < x2[owner]) & (y >= y1[owner]) & (y < y2[owner])
        areas[part] = torch.bincount(owner[inside], minlength=len(part)).double()
    return areas


def _match_pairs(pairs: _Pairs, shares: tuple[Tensor, Tensor], tile: Tensor, threshold: float) -> list[tuple[int, int]]:
    """Match pairs in descending order of IoU, each detection with at most one partner per tile."""
    iou = pairs.intersection / (shares[0] + shares[1] - pairs.intersection)
    order = torch.argsort(iou, descending=True, stable=True)
    order = order[iou[order] >= threshold]
    taken: set[tuple[int, int]] = set()
    one, other, tiles = pairs.rows[order].tolist(), pairs.columns[order].tolist(), tile.tolist()
    kept = []
    for i, j in zip(one, other, strict=True):
        ways = {(i, tiles[j]), (j, tiles[i])}
        if not ways & taken:
            taken |= ways
            kept.append((i, j))
    return kept


def _connect_pairs(tile: Tensor, cut: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Compute the connected components of the pairs; int64 `[N]`, numbered from 0 in order of their first members.

    A pair that would put two complete detections of one tile into one group is skipped, as a chain may lead from one
    object to the next.
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
    group: Tensor = torch.unique(roots, return_inverse=True)[1]
    return group


def _remove_strays(
    pool: Instances,
    pairs: _Pairs,
    shares: tuple[Tensor, Tensor],
    group: Tensor,
    cut: Tensor,
    holding: Tensor,
    min_inside: float,
) -> Tensor:
    """Set the group of incomplete detections to −1 if a part of them is inside a detection of another tile.

    Such parts belong to the box of a slanted object, or to an object that was poorly visible at the border.
    """
    nowhere_whole = torch.ones(len(group), dtype=torch.bool)
    nowhere_whole[group[~cut]] = False
    is_sliver = (pool.boxes[:, 2:] - pool.boxes[:, :2]).amin(dim=1) <= _MAX_SLIVER_WIDTH
    parts = torch.bincount(group, minlength=len(group))
    more = torch.bincount(group[~is_sliver], minlength=len(group)) > 0
    stray = torch.zeros_like(nowhere_whole)
    stray[group[holding > parts[group]]] = True  # another tile sees it, and detections nothing
    stray &= ~more
    if pool.masks is not None:  # parts wider than a sliver would have overlapped the object that they belong to
        nowhere_whole &= (parts == 1) | ~more
    for one, other, share in ((pairs.rows, pairs.columns, shares[0]), (pairs.columns, pairs.rows, shares[1])):
        inside = (pairs.intersection >= min_inside * share) & (share > 0)
        # Of two groups that are inside each other, one must stay.
        better = ~nowhere_whole[group[other]] | (group[one] > group[other])
        stray[group[one[inside & better & (group[one] != group[other])]]] = True
    return torch.where((stray & nowhere_whole)[group], -1, group)


def _merge_groups(
    pool: Instances, group: Tensor, cut: Tensor, tile: Tensor, windows: Tensor, min_inside: float
) -> Instances:
    """Merge each group into its best complete detection or its assembled parts, scored by `_average_scores`."""
    assert pool.scores is not None
    index = torch.nonzero(group >= 0).flatten()
    if len(index) == 0:
        return pool[index]
    order = index[torch.argsort(pool.scores[index], descending=True, stable=True)]
    order = order[torch.argsort(cut[order].int(), stable=True)]  # complete ones first, then by score
    first = torch.full((int(group.max()) + 1,), len(order)).scatter_reduce(
        0, group[order], torch.arange(len(order)), "amin"
    )
    chosen = order[first[first < len(order)]]
    number = torch.full((len(first),), -1)
    number[group[chosen]] = torch.arange(len(chosen))
    group = torch.where(group >= 0, number[group], -1)
    result = pool[chosen]
    assert result.scores is not None
    best = pool.scores.new_zeros(len(chosen)).scatter_reduce(0, group[index], pool.scores[index], "amax")
    apart = (cut[chosen]) & (torch.bincount(group[index], minlength=len(chosen)) > 1)
    parts = torch.nonzero((group >= 0) & apart[group]).flatten()
    if len(parts):
        result = _assemble_parts(
            result, pool[parts], group[parts], torch.nonzero(apart).flatten(), windows[tile[parts]]
        )
    whole = torch.nonzero(~cut[chosen]).flatten()
    best[whole] = _average_scores(
        pool.boxes[chosen[whole]], whole, pool.scores[index], group[index], tile[index], windows
    )
    result.scores, result.ids = best, None
    result = result[_find_uncontained(result, cut[chosen], min_inside) & ~_find_vanished(pool, index, group, result)]
    return result.sorted_by_score()


def _find_vanished(pool: Instances, index: Tensor, group: Tensor, result: Instances) -> Tensor:
    """Return whether each result lost all its pixels because no pixel is in most of its members, bool `[K]`."""
    if pool.masks is None or result.masks is None:
        return torch.zeros(len(result), dtype=torch.bool)
    before, after = (apply_in_chunks(masks, CroppedMasks.areas) for masks in (pool.masks, result.masks))
    return (after == 0) & (torch.bincount(group[index], before[index].double(), len(result)) > 0)


def _find_uncontained(result: Instances, in_parts: Tensor, min_inside: float) -> Tensor:
    """Return False for incomplete detections inside a larger, complete detection of the same label, bool `[K]`.

    A detector takes the part of an object that a border leaves for a small object.
    """
    masks, kept = fill_empty_masks(result), torch.ones(len(result), dtype=torch.bool)
    if masks is None:
        return kept
    pairs = mask_overlaps(masks).select_same_label(result.labels)
    area = pairs.areas1
    for one, other in ((pairs.rows, pairs.columns), (pairs.columns, pairs.rows)):
        inside = (area[other] > area[one]) & (pairs.intersection >= min_inside * area[one])
        kept[one[inside & in_parts[one] & ~in_parts[other]]] = False
    return kept


def _average_scores(
    boxes: Tensor, number: Tensor, scores: Tensor, group: Tensor, tile: Tensor, windows: Tensor
) -> Tensor:
    """Average the scores of the groups `number` over the tiles that contain their `boxes`, float32 `[K]`.

    Each box is contained in at least one tile. `scores`, `group`, and `tile` are those of all N detections.
    """
    pairs = box_overlaps(_widen_flat_boxes(boxes), windows.double())
    held = pairs.intersection == pairs.areas1[pairs.rows]
    rows, columns = pairs.rows[held], pairs.columns[held]
    places, back = torch.unique(group * len(windows) + tile, return_inverse=True)
    highest = scores.new_zeros(len(places)).scatter_reduce(0, back, scores, "amax")
    asked = number[rows] * len(windows) + columns
    at = torch.searchsorted(places, asked).clamp(max=len(places) - 1)
    given = torch.where(places[at] == asked, highest[at], 0.0)
    votes = torch.bincount(rows, minlength=len(boxes))
    return (torch.bincount(rows, given.double(), len(boxes)) / votes).float()


def _widen_flat_boxes(boxes: Tensor) -> Tensor:
    """Enlarge boxes without an area slightly, so that they are counted; float64 `[N, 4]`."""
    boxes = boxes.double()
    flat = (box_area(boxes) == 0)[:, None]
    return torch.where(flat, boxes + boxes.new_tensor([-_WIDENING, -_WIDENING, _WIDENING, _WIDENING]), boxes)


def _assemble_parts(result: Instances, parts: Instances, group: Tensor, at: Tensor, visible: Tensor) -> Instances:
    """Replace the objects `at` of `result` by the objects assembled from their parts."""
    local = torch.searchsorted(at, group)
    boxes = fuse_boxes(parts.boxes, local, len(at), visible=visible)
    masks = result.masks
    if masks is not None and parts.masks is not None:
        whole = fuse_masks(parts.masks, local, len(at), visible=visible)
        boxes = torch.where((whole.areas() > 0)[:, None], whole.boxes(), boxes)
        masks = masks.replace_at(at, whole)
    all_boxes = result.boxes.clone()
    all_boxes[at] = boxes
    return Instances(result.size, all_boxes, result.labels, result.scores, masks)
