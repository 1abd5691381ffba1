"""Groups of weighted box fusion, and the same for masks: each group grows around the fused shape of its members.

N detections are sorted by score in descending order. A grouping is int64 `[N]`; groups are numbered from 0 in the order
of their best members.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.inference.merging.fusion import Fuse
from maskrcnn.inference.merging.grouping import Neighbors
from maskrcnn.inference.merging.overlaps import mask_overlaps
from maskrcnn.structures.masks import CroppedMasks


def group_by_fused_boxes(boxes: Tensor, labels: Tensor, weights: Tensor, threshold: float) -> Tensor:
    """Add each detection, in order, to the group whose fused box it overlaps most, or start a new group.

    A detection joins a group if the IoU with the group's fused box is above `threshold`. The fused box is the weighted
    mean of the boxes in the group.

    Args:
        boxes: float `[N, 4]`, finite.
        labels: int64 `[N]`.
        weights: float `[N]`, above 0.
        threshold: IoU threshold.

    Returns:
        The grouping, int64 `[N]`.

    Source: Solovyev et al., arXiv 1910.13302, section 3, steps 1 to 6.
    """
    fused = _FusedBoxes(boxes, threshold)
    rows = zip(boxes.tolist(), labels.tolist(), weights.tolist(), strict=True)
    return torch.tensor([fused.add(box, label, weight) for box, label, weight in rows], dtype=torch.int64)


class _FusedBoxes:
    """Growing groups of boxes, indexed by the centers of their fused boxes in a grid of cells.

    A 2-D IoU above t needs 1-D IoUs above t. So the ratio of two widths w and v is above t, and the centers are closer
    than (w + v) / 2 · (1 − t) / (1 + t); with v < w / t, closer than w (1 − t) / 2t.
    """

    def __init__(self, boxes: Tensor, threshold: float) -> None:
        self.threshold = threshold
        sides = (boxes[:, 2:] - boxes[:, :2]).double()
        self.reach = (1 - threshold) / (2 * max(threshold, 1e-9))
        self.max_sides = sides.amax(dim=0).tolist() if len(boxes) else [0.0, 0.0]
        # A cell is as large as a typical search range, so that a search visits about four cells.
        self.cell = (2 * min(self.reach, 1.0) * float(sides.median()) if len(boxes) else 0.0) or 1.0
        self.cells: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        self.keys: list[tuple[int, int, int]] = []
        self.boxes: list[list[float]] = []
        self.sums: list[list[float]] = []  # x1 y1 x2 y2, each times the weight, and the weight

    def add(self, box: list[float], label: int, weight: float) -> int:
        """Add a box and return its group; ties go to the oldest group."""
        ious = ((_compute_iou(box, self.boxes[near]), -near) for near in self._find_nearby_groups(box, label))
        iou, negative = max(ious, default=(0.0, 0))
        group = -negative if iou > self.threshold else len(self.boxes)
        if group == len(self.boxes):
            self.boxes.append(box)
            self.sums.append([0.0] * 5)
            self.keys.append(self._compute_key(box, label))
            self.cells[self.keys[group]].append(group)
        self._fuse(group, box, label, weight)
        return group

    def _fuse(self, group: int, box: list[float], label: int, weight: float) -> None:
        sums = [total + weight * side for total, side in zip(self.sums[group], [*box, 1.0], strict=True)]
        self.sums[group], self.boxes[group] = sums, [total / sums[4] for total in sums[:4]]
        old, new = self.keys[group], self._compute_key(self.boxes[group], label)
        if new != old:
            self.cells[old].remove(group)
            self.cells[new].append(group)
            self.keys[group] = new

    def _compute_key(self, box: list[float], label: int) -> tuple[int, int, int]:
        return label, int((box[0] + box[2]) / 2 // self.cell), int((box[1] + box[3]) / 2 // self.cell)

    def _find_nearby_groups(self, box: list[float], label: int) -> list[int]:
        """Return the groups of a label that may overlap a box enough (a superset)."""
        columns, rows = (self._compute_cell_range(box[axis], box[axis + 2], self.max_sides[axis]) for axis in (0, 1))
        if (columns[1] - columns[0]) * (rows[1] - rows[0]) > len(self.cells):
            return [group for group, key in enumerate(self.keys) if key[0] == label]
        keys = ((label, column, row) for column in range(*columns) for row in range(*rows))
        return [group for key in keys if key in self.cells for group in self.cells[key]]

    def _compute_cell_range(self, low: float, high: float, max_sides: float) -> tuple[int, int]:
        """Return first and last (exclusive) cell, on one axis, of the centers of groups that may overlap low..high."""
        side, center = high - low, (low + high) / 2
        reach = min(side * self.reach, (side + max_sides) / 2) * (1 + 1e-9) + 1e-9  # tolerance for rounding
        return int((center - reach) // self.cell), int((center + reach) // self.cell) + 1


def _compute_iou(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (areas - width * height)


def group_by_fused_masks(masks: CroppedMasks, labels: Tensor, weights: Tensor, threshold: float, fuse: Fuse) -> Tensor:
    """Group as `group_by_fused_boxes`, by mask IoU; the fused mask of a group is `fuse_masks` of its masks.

    A pixel inside a fused mask is inside one of its members, so only groups with an overlapping member are candidates.

    Args:
        masks: N masks.
        labels: int64 `[N]`.
        weights: float `[N]`, above 0.
        threshold: IoU threshold.
        fuse: fusion of masks, see `fuse_masks`.

    Returns:
        The grouping, int64 `[N]`.
    """
    pairs = mask_overlaps(masks).select_same_label(labels)
    better = Neighbors(pairs.columns, pairs.rows, len(masks))
    groups: list[_FusedMask] = []
    group = np.zeros(len(masks), dtype=np.int64)
    for i, (window, weight) in enumerate(zip(masks.windows.tolist(), weights.tolist(), strict=True)):
        level = masks.window(i).numpy()
        inside = level >= 128
        area = int(np.count_nonzero(inside))
        candidates = set(group[better[i]].tolist())
        ious = ((groups[c].iou(window, inside, area, threshold), -c) for c in candidates)
        iou, negative = max(ious, default=(0, 0))
        group[i] = -negative if iou > threshold else len(groups)
        if group[i] == len(groups):
            groups.append(_FusedMask(window, inside, area))
        groups[group[i]].add(window, level, weight, fuse)
    return torch.from_numpy(group)


@dataclass
class _FusedMask:
    """Fused mask of a group: window, pixels inside, and area."""

    window: list[int]
    inside: NDArray[np.bool_]
    area: int
    sums: NDArray[np.float64] | None = None  # sums of weighted levels
    weight: float = 0.0

    def add(self, window: list[int], level: NDArray[np.uint8], weight: float, fuse: Fuse) -> None:
        if self.sums is None or not _contains(self.window, window):
            self._grow(window)
        assert self.sums is not None
        part = self.sums[_compute_slices(window, self.window)]
        if fuse == "union":
            np.maximum(part, level, out=part)
            self.weight = 1.0
        else:
            part += ((level >= 128) * 255.0 if fuse == "votes" else level) * weight
            self.weight += weight
        self.inside = self.sums >= 127.5 * self.weight  # means that round to at least 128
        self.area = int(np.count_nonzero(self.inside))

    def _grow(self, window: list[int]) -> None:
        """Enlarge the window so that it contains another."""
        old, sums = self.window, self.sums
        if sums is not None:
            self.window = [*map(min, old[:2], window[:2]), *map(max, old[2:], window[2:])]
        self.sums = np.zeros((self.window[3] - self.window[1], self.window[2] - self.window[0]))
        if sums is not None:
            self.sums[_compute_slices(old, self.window)] = sums

    def iou(self, window: list[int], inside: NDArray[np.bool_], area: int, threshold: float) -> float:
        """Compute the IoU with a mask; 0 if the areas alone rule out an IoU above `threshold`."""
        if min(area, self.area) <= threshold * max(area, self.area):
            return 0.0
        common = [*map(max, window[:2], self.window[:2]), *map(min, window[2:], self.window[2:])]
        if common[0] >= common[2] or common[1] >= common[3]:
            return 0.0
        both = inside[_compute_slices(common, window)] & self.inside[_compute_slices(common, self.window)]
        shared = int(np.count_nonzero(both))
        return shared / (area + self.area - shared)


def _contains(outer: list[int], inner: list[int]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _compute_slices(window: list[int], outer: list[int]) -> tuple[slice, slice]:
    """Return the rows and columns of a window in the array of a window that contains it."""
    x, y = outer[:2]
    return slice(window[1] - y, window[3] - y), slice(window[0] - x, window[2] - x)
