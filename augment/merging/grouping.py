"""Which detections are one object: the groups that `merges.py` makes one of; `weighted.py` has those of box fusion.

N detections come from the best to the worst, and a grouping is int64 `[N]`, groups numbered from 0 by their best
members.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.merging.fusion import Fuse, fuse_boxes, fuse_masks
from augment.merging.overlaps import Overlaps, box_overlaps, mask_overlaps
from maskrcnn.structures.masks import CroppedMasks

Shapes = TypeVar("Shapes", Tensor, CroppedMasks)
Indices = NDArray[np.int64]
Pairs = tuple[Indices, Indices, NDArray[np.float64]]  # one, other, IoU


class Neighbours:
    """The partners of each of N detections in a list of pairs, int64; `values`, given for the pairs, as theirs."""

    def __init__(self, one: Tensor, other: Tensor, count: int, values: Tensor | None = None) -> None:
        order = torch.argsort(one, stable=True)
        self._partners = other[order].numpy()
        self._values = None if values is None else values[order].numpy()
        self._starts = torch.searchsorted(one[order], torch.arange(count + 1)).tolist()

    def __getitem__(self, i: int) -> Indices:
        return self._partners[self._starts[i] : self._starts[i + 1]]

    def values(self, i: int) -> NDArray[np.float64]:
        assert self._values is not None
        return self._values[self._starts[i] : self._starts[i + 1]]


def absorb(pairs: Overlaps, count: int) -> Tensor:
    """By rank, every detection that is still free takes all free ones that it is paired with."""
    worse = Neighbours(pairs.rows, pairs.columns, count)
    group = np.full(count, -1)
    groups = 0
    for i in range(count):
        if group[i] < 0:
            rivals = worse[i]
            group[rivals[group[rivals] < 0]] = groups
            group[i] = groups
            groups += 1
    return torch.from_numpy(group)


def group_by_clusters(shapes: Shapes, labels: Tensor, view: Tensor, threshold: float, fuse: Fuse) -> Tensor:
    """Join, in rounds, the clusters that are each other's most similar partner, until none is left.

    Clusters begin as single detections. Partners have the same label, no view in common, and mean masks, or mean boxes,
    whose IoU is at least `threshold`. A round joins at least the most similar pair of all, and looks again only at what
    has changed.

    Args:
        shapes: masks, or boxes float `[N, 4]`.
        view: int64 `[N]` from 0, the view that each was found in.
    """
    group = np.arange(len(labels))
    clusters = _Clusters(shapes, labels.numpy(), _bits_of(view.numpy()), np.zeros(len(labels), dtype=np.bool_))
    one, other, iou = clusters.partners(shapes, threshold)
    while len(one):
        first, second = _mutually_best(one, other, iou, len(clusters.label))
        before, into = len(clusters.label), np.arange(len(clusters.label) + len(first))
        into[first] = into[second] = into[before:]
        group = into[group]
        members = torch.from_numpy(np.where(group < before, -1, group - before))
        fused = _fuse(shapes, members, len(first), fuse)
        clusters.add(fused, first, second)
        unchanged = ~(clusters.joined[one] | clusters.joined[other])
        found = clusters.partners(fused, threshold)
        one, other, iou = (
            np.concatenate([old[unchanged], new]) for old, new in zip((one, other, iou), found, strict=True)
        )
    _, best, group = np.unique(group, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(best))[group])


@dataclass
class _Clusters(Generic[Shapes]):
    """All clusters that ever were: mean shapes, labels, views as bits, and whether they have been joined since."""

    shapes: Shapes
    label: Indices
    views: NDArray[np.uint8]
    joined: NDArray[np.bool_]

    def add(self, shapes: Shapes, first: Indices, second: Indices) -> None:
        """Append clusters that are `first` and `second` joined."""
        self.joined[first] = self.joined[second] = True
        self.joined = np.append(self.joined, np.zeros(len(first), dtype=np.bool_))
        self.shapes = _cat(_forget(self.shapes, np.concatenate([first, second])), shapes)
        self.label = np.concatenate([self.label, self.label[first]])
        self.views = np.concatenate([self.views, self.views[first] | self.views[second]])

    def partners(self, last: Shapes, threshold: float) -> Pairs:
        """Pairs of each of the `last` clusters with an earlier one that may join it."""
        first = len(self.label) - len(last)
        other, one, iou = (values.numpy() for values in _similar(self.shapes, None if first == 0 else last, threshold))
        one = one + first
        allowed = (other < one) & ~self.joined[other] & (self.label[one] == self.label[other])
        allowed[allowed] = ~(self.views[one[allowed]] & self.views[other[allowed]]).any(axis=1)
        return one[allowed], other[allowed], iou[allowed]


def _mutually_best(one: Indices, other: Indices, iou: NDArray[np.float64], count: int) -> tuple[Indices, Indices]:
    """The pairs of which each half has no better pair.

    Of equal IoUs the pair of the smaller exclusive or is better: equal duplicates then pair up side by side, where by
    the smaller number all would want the first.
    """
    order = np.lexsort((one, one ^ other, -iou))
    one, other, place = one[order], other[order], np.arange(len(order))
    best = np.full(count, len(order))
    np.minimum.at(best, one, place)
    np.minimum.at(best, other, place)
    mutual = (best[one] == place) & (best[other] == place)
    return one[mutual], other[mutual]


def _bits_of(view: Indices) -> NDArray[np.uint8]:
    """uint8 `[N, B]`: one bit set, the view's."""
    bits = np.zeros((len(view), int(view.max(initial=0)) // 8 + 1), dtype=np.uint8)
    bits[np.arange(len(view)), view // 8] = 1 << (view % 8)
    return bits


def _similar(one: Shapes, other: Shapes | None, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and IoU of the pairs whose IoU is at least `threshold`."""
    if not isinstance(one, CroppedMasks):
        pairs = box_overlaps(one, other, threshold)
    elif other is None:
        pairs = mask_overlaps(one, threshold)
    else:  # not `mask_overlaps`, which would count the areas of all masks again in every round
        rows, columns, iou = one.iou(other)
        kept = iou >= torch.tensor(threshold)  # float32 like the IoU: .7 reaches .7
        return rows[kept], columns[kept], iou[kept].double()
    return pairs.rows, pairs.columns, pairs.iou


def _forget(shapes: Shapes, index: Indices) -> Shapes:
    """The shapes, where those of joined clusters cost nothing more: boxes become none; masks do not cost much."""
    if isinstance(shapes, CroppedMasks):
        return shapes
    return shapes.index_fill(0, torch.from_numpy(index), torch.nan)


def _fuse(shapes: Shapes, group: Tensor, count: int, fuse: Fuse) -> Shapes:
    if isinstance(shapes, CroppedMasks):
        return fuse_masks(shapes, group, count, fuse=fuse)
    return fuse_boxes(shapes, group, count)


def _cat(one: Shapes, other: Shapes) -> Shapes:
    if isinstance(one, CroppedMasks):
        return CroppedMasks.cat([one, other])
    return torch.cat([one, other])
