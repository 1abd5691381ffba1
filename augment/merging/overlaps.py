"""Pairs of boxes or masks that overlap, as sparse lists: cost follows the neighbours, never all pairs."""

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
_AT_ONCE = 1 << 21  # candidates or pixels looked at at a time: bounds the memory
_ROWS_AT_ONCE = 1 << 16  # masks compared with all others at a time


@dataclass(frozen=True, eq=False)
class Overlaps:
    """P pairs that overlap, by row, then column; with what their IoU and their IoS are made of.

    rows, columns: int64 `[P]`, indices into the first and the second set (the same set: row < column, each pair once).
    intersection: float64 `[P]`, in square pixels, above 0.
    areas1, areas2: float64 `[N]` and `[M]`, of all that were compared.
    """

    rows: Tensor
    columns: Tensor
    intersection: Tensor
    areas1: Tensor
    areas2: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "Overlaps":
        """The pairs that a bool or an int tensor picks."""
        return Overlaps(self.rows[index], self.columns[index], self.intersection[index], self.areas1, self.areas2)

    def of_one_label(self, labels: Tensor) -> "Overlaps":
        """The pairs within one set whose two have the same of `labels` int64 `[N]`."""
        return self[labels[self.rows] == labels[self.columns]]

    @property
    def iou(self) -> Tensor:
        """float64 `[P]`: intersection over union."""
        return self.intersection / (self.areas1[self.rows] + self.areas2[self.columns] - self.intersection)

    @property
    def ios(self) -> Tensor:
        """float64 `[P]`: intersection over the smaller of the two areas."""
        return self.intersection / torch.minimum(self.areas1[self.rows], self.areas2[self.columns])

    def at_least(self, threshold: float, metric: Metric = "iou") -> "Overlaps":
        """The pairs whose `metric` ("iou" or "ios") reaches `threshold`."""
        if metric not in ("iou", "ios"):
            raise ValueError(f'unknown metric "{metric}": one of iou, ios')
        return self[(self.iou if metric == "iou" else self.ios) >= threshold] if threshold > 0 else self


def box_overlaps(
    boxes1: Tensor, boxes2: Tensor | None = None, threshold: float = 0.0, metric: Metric = "iou"
) -> Overlaps:
    """The pairs of boxes float `[N, 4]` and `[M, 4]`, or of the first alone, whose IoU or IoS reaches `threshold`.

    Pairs that share no area never count; nor do boxes that are empty or not finite. Computed in float64.
    """
    boxes = (boxes1 if boxes2 is None else torch.cat([boxes1, boxes2])).double()
    count1 = len(boxes1)
    areas = box_area(boxes)
    areas1, areas2 = (areas, areas) if boxes2 is None else (areas[:count1], areas[count1:])
    parts = []
    for one, other in _meeting(boxes):
        rows, columns = torch.minimum(one, other), torch.maximum(one, other)
        if boxes2 is not None:
            across = (rows < count1) & (columns >= count1)
            rows, columns = rows[across], columns[across] - count1
        second = boxes if boxes2 is None else boxes[count1:]
        low = torch.maximum(boxes[rows, :2], second[columns, :2])
        high = torch.minimum(boxes[rows, 2:], second[columns, 2:])
        shared = (high - low).prod(dim=1)
        parts.append(Overlaps(rows, columns, shared, areas1, areas2).at_least(threshold, metric))
    return _joined(parts, areas1, areas2)


def _meeting(boxes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs `(i, j)` of boxes float64 `[N, 4]` that share an area, each once, in parts.

    A box lies in every band of rows that it touches. In a band, by x1, the partners of a box that begin no earlier
    than it are those before its x2. A pair is told by the band in which the later of the two tops lies.
    """
    sound = torch.nonzero(torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)).flatten()
    x1, y1, x2, y2 = boxes[sound].unbind(dim=1)
    top, bottom = _bands(y1, y2)
    by_x1 = torch.argsort(x1)
    rank = torch.empty_like(by_x1).scatter_(0, by_x1, torch.arange(len(sound), device=boxes.device))
    begun = torch.searchsorted(x1[by_x1], x2.contiguous())  # boxes whose x1 lies before this one's x2

    owner, band = ranges(top, bottom + 1)
    key, order = torch.sort(band * len(sound) + rank[owner])
    owner, band = owner[order], band[order]
    first = torch.arange(1, len(owner) + 1, device=boxes.device)
    last = torch.searchsorted(key, band * len(sound) + begun[owner])
    for part in split_by_cost(last - first, _AT_ONCE):
        entry, partner = ranges(first[part], last[part])
        entry = part.index_select(0, entry)
        i, j = owner.index_select(0, entry), owner.index_select(0, partner)
        met = (y1.index_select(0, i) < y2.index_select(0, j)) & (y1.index_select(0, j) < y2.index_select(0, i))
        entry, partner = entry[met], partner[met]
        i, j = owner[entry], owner[partner]
        told = torch.maximum(top[i], top[j]) == band[entry]
        yield sound[i[told]], sound[j[told]]


def _bands(y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
    """First and last band of rows that each box touches, int64 `[N]`; bands are as high as the mean box.

    So all boxes together touch at most three bands each on average, whatever their sizes. What reaches beyond all
    ordinary boxes counts as ending there: one huge box makes no huge bands.
    """
    if len(y1) == 0:
        return y1.long(), y2.long()
    ordinary = y2 - y1 <= 16 * (y2 - y1).median()
    low, high = y1[ordinary].min(), y2[ordinary].max()
    y1, y2 = (y.clamp(low, high) - low for y in (y1, y2))
    height = (y2 - y1).mean()
    return tuple((y / height).clamp(max=2**31).long() for y in (y1, y2))  # type: ignore[return-value]


def ranges(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Every number of every range [first, last), with the range's index: int64 `[sum of lengths]` each."""
    lengths = last - first
    owner = torch.repeat_interleave(lengths, output_size=int(lengths.sum()))
    begin = lengths.cumsum(0) - lengths
    numbers = torch.arange(len(owner), device=owner.device)
    return owner, numbers.add_((first - begin).index_select(0, owner))


def split_by_cost(costs: Tensor, budget: int) -> tuple[Tensor, ...]:
    """Indices of consecutive items whose `costs`, int64 `[N]`, add up to about `budget`, one item at least."""
    index = torch.arange(len(costs), device=costs.device)
    run = (costs.cumsum(0) - costs) // budget
    return torch.split(index, torch.unique_consecutive(run, return_counts=True)[1].tolist()) if len(costs) else ()


def mask_overlaps(masks: CroppedMasks, threshold: float = 0.0, metric: Metric = "iou") -> Overlaps:
    """The pairs of masks whose IoU or IoS reaches `threshold`; intersections exact.

    Pairs that share no pixel never count.
    """
    areas = by_parts(masks, CroppedMasks.areas).double()
    parts = []
    for begin in range(0, len(masks), _ROWS_AT_ONCE):
        rows, columns, iou = mask_iou(_cut(masks, begin, begin + _ROWS_AT_ONCE), _cut(masks, begin, len(masks)))
        upper = rows < columns
        rows, columns, iou = rows[upper] + begin, columns[upper] + begin, iou[upper]
        shared = _intersection(iou, areas[rows] + areas[columns])
        # float32 holds an IoU to 2^-24: enough to know this many pixels exactly. More are counted.
        for p in torch.nonzero(shared >= 2**22).flatten().tolist():
            shared[p] = _count_shared(masks, int(rows[p]), int(columns[p]))
        parts.append(Overlaps(rows, columns, shared, areas, areas).at_least(threshold, metric))
    return _joined(parts, areas, areas)


def by_parts(masks: CroppedMasks, measure: Callable[[CroppedMasks], Tensor]) -> Tensor:
    """`measure(masks)`, a value or a row for each mask, taken part by part: bounds the memory that it needs."""
    parts = [
        measure(CroppedMasks(*_cut(masks, int(part[0]), int(part[-1]) + 1), masks.size))
        for part in split_by_cost(masks.offsets.diff(), _AT_ONCE)
    ]
    return torch.cat(parts) if parts else measure(masks)


def _cut(masks: CroppedMasks, begin: int, end: int) -> Windows:
    """Masks begin..end - 1, views of the same memory."""
    offsets = masks.offsets[begin : end + 1]
    return Windows(masks.windows[begin:end], offsets - offsets[0], masks.data[int(offsets[0]) : int(offsets[-1])])


def _intersection(iou: Tensor, areas: Tensor) -> Tensor:
    """Pixels that two masks share, from their IoU and the sum of their areas."""
    iou = iou.double()
    return (iou * areas / (1 + iou)).round()


def _count_shared(masks: CroppedMasks, i: int, j: int) -> int:
    window1, window2 = masks.windows[i].tolist(), masks.windows[j].tolist()
    x1, y1 = (max(a, b) for a, b in zip(window1[:2], window2[:2], strict=True))
    x2, y2 = (min(a, b) for a, b in zip(window1[2:], window2[2:], strict=True))
    levels = [
        masks.window(k)[y1 - window[1] : y2 - window[1], x1 - window[0] : x2 - window[0]]
        for k, window in ((i, window1), (j, window2))
    ]
    return int(((levels[0] & levels[1]) >= 128).sum())


def _joined(parts: list[Overlaps], areas1: Tensor, areas2: Tensor) -> Overlaps:
    """All pairs, by row, then column."""
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64, device=areas1.device)
        return Overlaps(nothing, nothing, nothing.double(), areas1, areas2)
    rows, columns, shared = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "columns", "intersection")
    )
    order = torch.argsort(rows * max(1, len(areas2)) + columns)
    return Overlaps(rows, columns, shared, areas1, areas2)[order]
