"""Grouping of detections of the same object, for `merges.py`; `weighted.py` has the groups of weighted box fusion.

N detections are sorted by score in descending order. A grouping is int64 `[N]`; groups are numbered from 0 in the order
of their best members.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.inference.merging.fusion import Fuse, fuse_boxes, fuse_masks
from maskrcnn.inference.merging.overlaps import Overlaps, box_overlaps, mask_overlaps
from maskrcnn.structures.masks import CroppedMasks

MasksOrBoxes = TypeVar("MasksOrBoxes", Tensor, CroppedMasks)
Indices = NDArray[np.int64]
Pairs = tuple[Indices, Indices, NDArray[np.float64]]  # first index, second index, IoU


class Neighbors:
    """Neighbors of each of N detections in a list of pairs, with an optional value per pair.

    Args:
        one: int64 `[P]`, first index of each pair.
        other: int64 `[P]`, second index of each pair.
        count: number of detections N.
        values: float64 `[P]`.
    """

    def __init__(self, one: Tensor, other: Tensor, count: int, values: Tensor | None = None) -> None:
        order = torch.argsort(one, stable=True)
        self._partners = other[order].numpy()
        self._values = None if values is None else values[order].numpy()
        self._starts = torch.searchsorted(one[order], torch.arange(count + 1)).tolist()

    def __getitem__(self, i: int) -> Indices:
        """Return the neighbors of detection `i`."""
        return self._partners[self._starts[i] : self._starts[i + 1]]

    def values(self, i: int) -> NDArray[np.float64]:
        """Return the values of the pairs of detection `i`, in the order of its neighbors."""
        assert self._values is not None
        return self._values[self._starts[i] : self._starts[i + 1]]


def group_greedily(pairs: Overlaps, count: int) -> Tensor:
    """Group detections greedily: in descending order of score, each free one takes all free ones it is paired with."""
    worse = Neighbors(pairs.rows, pairs.columns, count)
    group = np.full(count, -1)
    groups = 0
    for i in range(count):
        if group[i] < 0:
            rivals = worse[i]
            group[rivals[group[rivals] < 0]] = groups
            group[i] = groups
            groups += 1
    return torch.from_numpy(group)


def group_by_clustering(shapes: MasksOrBoxes, labels: Tensor, view: Tensor, threshold: float, fuse: Fuse) -> Tensor:
    """Merge, in rounds, the clusters that are each other's most similar partner, until no pair is left.

    Clusters start as single detections. Partners have the same label, no view in common, and mean masks (or mean boxes)
    whose IoU is at least `threshold`. A round merges at least the most similar pair of all, and recomputes only what
    has changed.

    Args:
        shapes: masks, or boxes float `[N, 4]`.
        labels: int64 `[N]`.
        view: int64 `[N]` from 0, the view of each detection.
        threshold: minimum IoU.
        fuse: fusion of masks, see `fuse_masks`.

    Returns:
        The grouping, int64 `[N]`.
    """
    group = np.arange(len(labels))
    clusters = _Clusters(shapes, labels.numpy(), _encode_view_bits(view.numpy()), np.zeros(len(labels), dtype=np.bool_))
    one, other, iou = clusters.find_partners(shapes, threshold)
    while len(one):
        first, second = _select_mutual_best(one, other, iou, len(clusters.label))
        before, into = len(clusters.label), np.arange(len(clusters.label) + len(first))
        into[first] = into[second] = into[before:]
        group = into[group]
        members = torch.from_numpy(np.where(group < before, -1, group - before))
        fused = _fuse(shapes, members, len(first), fuse)
        clusters.add(fused, first, second)
        unchanged = ~(clusters.joined[one] | clusters.joined[other])
        new_pairs = clusters.find_partners(fused, threshold)
        one, other, iou = (
            np.concatenate([old[unchanged], new]) for old, new in zip((one, other, iou), new_pairs, strict=True)
        )
    _, best, group = np.unique(group, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(best))[group])


@dataclass
class _Clusters(Generic[MasksOrBoxes]):
    """All clusters so far: mean shapes, labels, views as bit sets, and whether each has been merged into another."""

    shapes: MasksOrBoxes
    label: Indices
    views: NDArray[np.uint8]
    joined: NDArray[np.bool_]

    def add(self, shapes: MasksOrBoxes, first: Indices, second: Indices) -> None:
        """Append the clusters that result from merging `first` with `second`."""
        self.joined[first] = self.joined[second] = True
        self.joined = np.append(self.joined, np.zeros(len(first), dtype=np.bool_))
        self.shapes = _cat(_invalidate(self.shapes, np.concatenate([first, second])), shapes)
        self.label = np.concatenate([self.label, self.label[first]])
        self.views = np.concatenate([self.views, self.views[first] | self.views[second]])

    def find_partners(self, last: MasksOrBoxes, threshold: float) -> Pairs:
        """Find the pairs of each of the `last` clusters with an earlier cluster that it may be merged with."""
        first = len(self.label) - len(last)
        other, one, iou = (
            values.numpy() for values in _find_similar_pairs(self.shapes, None if first == 0 else last, threshold)
        )
        one = one + first
        allowed = (other < one) & ~self.joined[other] & (self.label[one] == self.label[other])
        allowed[allowed] = ~(self.views[one[allowed]] & self.views[other[allowed]]).any(axis=1)
        return one[allowed], other[allowed], iou[allowed]


def _select_mutual_best(one: Indices, other: Indices, iou: NDArray[np.float64], count: int) -> tuple[Indices, Indices]:
    """Select the pairs in which each is the other's best partner.

    Ties in IoU go to the pair with the smaller exclusive or of its indices: identical duplicates then pair up side by
    side, whereas with the smaller index they would all choose the first.
    """
    order = np.lexsort((one, one ^ other, -iou))
    one, other, place = one[order], other[order], np.arange(len(order))
    best = np.full(count, len(order))
    np.minimum.at(best, one, place)
    np.minimum.at(best, other, place)
    mutual = (best[one] == place) & (best[other] == place)
    return one[mutual], other[mutual]


def _encode_view_bits(view: Indices) -> NDArray[np.uint8]:
    """Encode views as bit sets with one bit set, uint8 `[N, B]`."""
    bits = np.zeros((len(view), int(view.max(initial=0)) // 8 + 1), dtype=np.uint8)
    bits[np.arange(len(view)), view // 8] = 1 << (view % 8)
    return bits


def _find_similar_pairs(
    one: MasksOrBoxes, other: MasksOrBoxes | None, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, columns, and IoU of the pairs whose IoU is at least `threshold`."""
    if not isinstance(one, CroppedMasks):
        pairs = box_overlaps(one, other, threshold)
    elif other is None:
        pairs = mask_overlaps(one, threshold)
    else:  # `mask_overlaps` would recompute the areas of all masks in every round
        rows, columns, iou = one.iou(other)
        kept = iou >= torch.tensor(threshold, dtype=torch.float32)  # float32 like the IoU, so that .7 >= .7
        return rows[kept], columns[kept], iou[kept].double()
    return pairs.rows, pairs.columns, pairs.iou


def _invalidate(shapes: MasksOrBoxes, index: Indices) -> MasksOrBoxes:
    """Make merged clusters free to compare: their boxes become NaN; masks are cheap enough to stay."""
    if isinstance(shapes, CroppedMasks):
        return shapes
    return shapes.index_fill(0, torch.from_numpy(index), torch.nan)


def _fuse(shapes: MasksOrBoxes, group: Tensor, count: int, fuse: Fuse) -> MasksOrBoxes:
    if isinstance(shapes, CroppedMasks):
        return fuse_masks(shapes, group, count, fuse=fuse)
    return fuse_boxes(shapes, group, count)


def _cat(one: MasksOrBoxes, other: MasksOrBoxes) -> MasksOrBoxes:
    if isinstance(one, CroppedMasks):
        return CroppedMasks.cat([one, other])
    return torch.cat([one, other])
