"""Overlapping pairs of boxes or masks as sparse lists; cost grows with the number of neighbors, not of all pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskrcnn.ops.boxes import box_area
from maskrcnn.ops.masks import mask_iou
from maskrcnn.ops.types import Windows
from maskrcnn.structures.masks import CroppedMasks

Metric = Literal["iou", "ios"]
_CHUNK_SIZE = 1 << 21  # candidates or pixels processed at a time: bounds the memory
_CHUNK_MASKS = 1 << 16  # masks compared with all others at a time


@dataclass(frozen=True, eq=False)
class Overlaps:
    """P overlapping pairs, sorted by row, then column, with their intersections and areas.

    Attributes:
        rows: int64 `[P]`, indices into the first set.
        columns: int64 `[P]`, indices into the second set. Within one set, row < column, and each pair is listed once.
        intersection: float64 `[P]`, in square pixels, above 0.
        areas1: float64 `[N]`, areas of the first set.
        areas2: float64 `[M]`, areas of the second set.
    """

    rows: Tensor
    columns: Tensor
    intersection: Tensor
    areas1: Tensor
    areas2: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "Overlaps":
        """Select pairs by a bool or int tensor."""
        return Overlaps(self.rows[index], self.columns[index], self.intersection[index], self.areas1, self.areas2)

    def select_same_label(self, labels: Tensor) -> "Overlaps":
        """Select the pairs within one set whose `labels`, int64 `[N]`, are equal."""
        return self[labels[self.rows] == labels[self.columns]]

    @property
    def iou(self) -> Tensor:
        """Intersection over union, float64 `[P]`."""
        return self.intersection / (self.areas1[self.rows] + self.areas2[self.columns] - self.intersection)

    @property
    def ios(self) -> Tensor:
        """Intersection over the smaller of the two areas, float64 `[P]`."""
        return self.intersection / torch.minimum(self.areas1[self.rows], self.areas2[self.columns])

    def filter(self, threshold: float, metric: Metric = "iou") -> "Overlaps":
        """Select the pairs whose `metric`, "iou" or "ios", is at least `threshold`."""
        if metric not in ("iou", "ios"):
            raise ValueError(f'unknown metric "{metric}": one of iou, ios')
        return self[(self.iou if metric == "iou" else self.ios) >= threshold] if threshold > 0 else self


def box_overlaps(
    boxes1: Tensor, boxes2: Tensor | None = None, threshold: float = 0.0, metric: Metric = "iou"
) -> Overlaps:
    """Find the pairs of boxes whose IoU or IoS is at least `threshold`.

    Pairs without a common area are never listed, nor are empty or non-finite boxes. Computed in float64.

    Args:
        boxes1: float `[N, 4]`.
        boxes2: float `[M, 4]`; without it, pairs within `boxes1`.
        threshold: minimum of the metric.
        metric: "iou" or "ios".

    Returns:
        The pairs.
    """
    boxes = (boxes1 if boxes2 is None else torch.cat([boxes1, boxes2])).double()
    count1 = len(boxes1)
    areas = box_area(boxes)
    areas1, areas2 = (areas, areas) if boxes2 is None else (areas[:count1], areas[count1:])
    parts = []
    for one, other in _iterate_intersecting_pairs(boxes):
        rows, columns = torch.minimum(one, other), torch.maximum(one, other)
        if boxes2 is not None:
            across = (rows < count1) & (columns >= count1)
            rows, columns = rows[across], columns[across] - count1
        second = boxes if boxes2 is None else boxes[count1:]
        low = torch.maximum(boxes[rows, :2], second[columns, :2])
        high = torch.minimum(boxes[rows, 2:], second[columns, 2:])
        shared = (high - low).prod(dim=1)
        parts.append(Overlaps(rows, columns, shared, areas1, areas2).filter(threshold, metric))
    return _concatenate(parts, areas1, areas2)


def _iterate_intersecting_pairs(boxes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate in chunks over the pairs `(i, j)` of boxes float64 `[N, 4]` that share an area, each pair once.

    Sweep by bands of rows; a box is listed in every band that it touches. Within a band, sorted by x1, the partners of
    a box that start at or after its x1 are those before its x2. A pair is owned by the band that contains the lower of
    the two tops.
    """
    valid = torch.nonzero(torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)).flatten()
    x1, y1, x2, y2 = boxes[valid].unbind(dim=1)
    top, bottom = _assign_bands(y1, y2)
    by_x1 = torch.argsort(x1)
    rank = torch.empty_like(by_x1).scatter_(0, by_x1, torch.arange(len(valid), device=boxes.device))
    num_started = torch.searchsorted(x1[by_x1], x2.contiguous())  # number of boxes whose x1 is below this box's x2

    owner, band = expand_ranges(top, bottom + 1)
    key, order = torch.sort(band * len(valid) + rank[owner])
    owner, band = owner[order], band[order]
    first = torch.arange(1, len(owner) + 1, device=boxes.device)
    last = torch.searchsorted(key, band * len(valid) + num_started[owner])
    for part in split_by_cost(last - first, _CHUNK_SIZE):
        entry, partner = expand_ranges(first[part], last[part])
        entry = part.index_select(0, entry)
        i, j = owner.index_select(0, entry), owner.index_select(0, partner)
        intersect = (y1.index_select(0, i) < y2.index_select(0, j)) & (y1.index_select(0, j) < y2.index_select(0, i))
        entry, partner = entry[intersect], partner[intersect]
        i, j = owner[entry], owner[partner]
        owned = torch.maximum(top[i], top[j]) == band[entry]
        yield valid[i[owned]], valid[j[owned]]


def _assign_bands(y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
    """Assign each box to bands of rows as high as the mean box: first and last band, int64 `[N]` each.

    On average a box touches at most three bands, whatever the sizes. Coordinates are clamped to the range of ordinary
    boxes, so a single huge box does not make huge bands.
    """
    if len(y1) == 0:
        return y1.long(), y2.long()
    ordinary = y2 - y1 <= 16 * (y2 - y1).median()
    low, high = y1[ordinary].min(), y2[ordinary].max()
    y1, y2 = (y.clamp(low, high) - low for y in (y1, y2))
    height = (y2 - y1).mean()
    return tuple((y / height).clamp(max=2**31).long() for y in (y1, y2))  # type: ignore[return-value]


def expand_ranges(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Expand ranges [first, last) into the index of the range and the number; int64 `[sum of lengths]` each."""
    lengths = last - first
    owner = torch.repeat_interleave(lengths, output_size=int(lengths.sum()))
    begin = lengths.cumsum(0) - lengths
    numbers = torch.arange(len(owner), device=owner.device)
    return owner, numbers.add_((first - begin).index_select(0, owner))


def split_by_cost(costs: Tensor, budget: int) -> tuple[Tensor, ...]:
    """Split items into consecutive chunks whose `costs`, int64 `[N]`, sum to about `budget`; at least one item each."""
    index = torch.arange(len(costs), device=costs.device)
    run = (costs.cumsum(0) - costs) // budget
    return torch.split(index, torch.unique_consecutive(run, return_counts=True)[1].tolist()) if len(costs) else ()


def mask_overlaps(masks: CroppedMasks, threshold: float = 0.0, metric: Metric = "iou") -> Overlaps:
    """Find the pairs of masks whose IoU or IoS is at least `threshold`, with exact intersections.

    Pairs without a common pixel are never listed.
    """
    areas = apply_in_chunks(masks, CroppedMasks.areas).double()
    parts = []
    for begin in range(0, len(masks), _CHUNK_MASKS):
        rows, columns, iou = mask_iou(
            _slice_masks(masks, begin, begin + _CHUNK_MASKS), _slice_masks(masks, begin, len(masks))
        )
        upper = rows < columns
        rows, columns, iou = rows[upper] + begin, columns[upper] + begin, iou[upper]
        shared = _recover_intersection(iou, areas[rows] + areas[columns])
        # A float32 IoU (2^-24) determines intersections below this number exactly; larger ones are counted.
        for p in torch.nonzero(shared >= 2**22).flatten().tolist():
            shared[p] = _count_shared_pixels(masks, int(rows[p]), int(columns[p]))
        parts.append(Overlaps(rows, columns, shared, areas, areas).filter(threshold, metric))
    return _concatenate(parts, areas, areas)


def apply_in_chunks(masks: CroppedMasks, measure: Callable[[CroppedMasks], Tensor]) -> Tensor:
    """Compute `measure(masks)`, a value or a row per mask, in chunks that bound the memory."""
    parts = [
        measure(CroppedMasks(*_slice_masks(masks, int(part[0]), int(part[-1]) + 1), masks.size))
        for part in split_by_cost(masks.offsets.diff(), _CHUNK_SIZE)
    ]
    return torch.cat(parts) if parts else measure(masks)


def _slice_masks(masks: CroppedMasks, begin: int, end: int) -> Windows:
    """Return masks begin..end - 1 as views of the same memory."""
    offsets = masks.offsets[begin : end + 1]
    return Windows(masks.windows[begin:end], offsets - offsets[0], masks.data[int(offsets[0]) : int(offsets[-1])])


def _recover_intersection(iou: Tensor, areas: Tensor) -> Tensor:
    """Compute the number of shared pixels from the IoU and the sum of the two areas."""
    iou = iou.double()
    return (iou * areas / (1 + iou)).round()


def _count_shared_pixels(masks: CroppedMasks, i: int, j: int) -> int:
    window1, window2 = masks.windows[i].tolist(), masks.windows[j].tolist()
    x1, y1 = (max(a, b) for a, b in zip(window1[:2], window2[:2], strict=True))
    x2, y2 = (min(a, b) for a, b in zip(window1[2:], window2[2:], strict=True))
    levels = [
        masks.window(k)[y1 - window[1] : y2 - window[1], x1 - window[0] : x2 - window[0]]
        for k, window in ((i, window1), (j, window2))
    ]
    return int(((levels[0] & levels[1]) >= 128).sum())


def _concatenate(parts: list[Overlaps], areas1: Tensor, areas2: Tensor) -> Overlaps:
    """Concatenate chunks of pairs and sort them by row, then column."""
    if not parts:
        empty = torch.zeros(0, dtype=torch.int64, device=areas1.device)
        return Overlaps(empty, empty, empty.double(), areas1, areas2)
    rows, columns, shared = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "columns", "intersection")
    )
    order = torch.argsort(rows * max(1, len(areas2)) + columns)
    return Overlaps(rows, columns, shared, areas1, areas2)[order]
