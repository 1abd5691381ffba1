"""Detections of one object made one: masks and boxes of each group averaged, counted or united.

Memory and time follow the windows of the masks and of the groups, never groups × image. Levels are summed as integers,
so that neither the order of the members nor the device changes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from augment.merging.overlaps import ranges, split_by_cost
from maskrcnn.ops.reference_masks import offsets_of
from maskrcnn.structures.masks import CroppedMasks

Fuse = Literal["average", "votes", "union"]
FUSES: tuple[Fuse, ...] = ("average", "votes", "union")
_AT_ONCE = 1 << 20  # pixels summed at a time: each needs some fifty bytes
_ONE = 1 << 30  # the largest weight of a group: 255 times it, for 2^24 members, fits an int64
_CUT = 1.0  # a side of a box this close (px) to the end of what was seen may have been cut there

Layout = tuple[Tensor, Tensor]  # int64 windows `[K, 4]` and where each one's first pixel lies, `[K]`


def fuse_masks(
    masks: CroppedMasks,
    group: Tensor,
    num_groups: int,
    weights: Tensor | None = None,
    fuse: Fuse = "average",
    seen: Tensor | None = None,
) -> CroppedMasks:
    """One mask for each group, in the smallest window that holds its members' windows.

    A level is the weighted mean of the members' levels ("average"; 0 outside a member's window), the weighted share of
    the members that have the pixel inside ("votes", as 0..255), or the highest level ("union", where weights do not
    count). Means are rounded, a half up: a pixel that exactly half of the members hold is inside.

    Args:
        group: int64 `[N]` in 0..num_groups - 1, the group of each mask, or -1: in none. A group without members gets an
            empty mask.
        weights: float `[N]`, not negative; where a group has none above 0, all its members count the same. Default: 1.
        seen: int `[N, 4]` (x1 y1 x2 y2, exclusive end), the window of the canvas that the view of member n could see (a
            tile). At each pixel only the members that see it count. Default: all see all.

    Raises:
        ValueError: arguments that do not belong together, a group out of range, a weight negative or not finite.
    """
    _check(len(masks), group, num_groups, weights, fuse, seen)
    parts = _Members.of(masks, group, num_groups, weights, seen)
    windows = _hulls(parts.rectangles, parts.group, num_groups)
    offsets = offsets_of(windows)
    data = torch.empty(int(offsets[-1]), dtype=torch.uint8, device=windows.device)
    first = torch.searchsorted(parts.group, torch.arange(num_groups + 1, device=group.device))
    costs = offsets.diff().index_add(0, parts.group, _areas(parts.rectangles))
    for some in split_by_cost(costs, _AT_ONCE):
        begin, end = int(some[0]), int(some[-1]) + 1
        members = parts[int(first[begin]) : int(first[end])]
        place = (windows[members.group], offsets[members.group] - offsets[begin])
        size = int(offsets[end] - offsets[begin])
        data[offsets[begin] : offsets[end]] = _fused_levels(masks, members, place, size, fuse)
    return CroppedMasks(windows.int(), offsets, data, masks.size)


@dataclass(frozen=True)
class _Members:
    """The masks that are in a group, by group: their index, group, what is seen of them, and their weights."""

    index: Tensor
    group: Tensor
    rectangles: Tensor
    weight: Tensor
    seen: Tensor | None

    @staticmethod
    def of(
        masks: CroppedMasks, group: Tensor, num_groups: int, weights: Tensor | None, seen: Tensor | None
    ) -> "_Members":
        index = torch.argsort(group, stable=True)
        index = index[group[index] >= 0]
        windows = masks.windows.long()[index]
        seen = None if seen is None else seen.long()[index]
        weights = None if weights is None else weights[index]
        return _Members(
            index,
            group[index],
            windows if seen is None else _intersect(windows, seen),
            _whole_weights(weights, group[index], num_groups),
            seen,
        )

    def __getitem__(self, part: slice) -> "_Members":
        seen = None if self.seen is None else self.seen[part]
        return _Members(self.index[part], self.group[part], self.rectangles[part], self.weight[part], seen)


def _fused_levels(masks: CroppedMasks, members: _Members, place: Layout, size: int, fuse: Fuse) -> Tensor:
    """uint8 `[size]`: the levels of all groups of some members, whose windows lie where `place` says."""
    levels = torch.zeros(size, dtype=torch.int64, device=masks.data.device)
    source = (masks.windows[members.index].long(), masks.offsets[members.index])
    for owner, (into, out_of) in _pixels(members.rectangles, place, source):
        level = masks.data.index_select(0, out_of).long()
        if fuse == "union":
            levels.scatter_reduce_(0, into, level, "amax")
        else:
            level = (level >> 7) * 255 if fuse == "votes" else level
            levels.scatter_add_(0, into, level.mul_(members.weight.index_select(0, owner)))
    if fuse != "union":
        total = _total_weights(members, place, size)
        levels = (2 * levels + total) // (2 * total.clamp(min=1))
    return levels.to(torch.uint8)


def _total_weights(members: _Members, place: Layout, size: int) -> Tensor:
    """int64 `[size]`: the weight of all members of the pixel's group that see it."""
    if members.seen is None:
        _, groups, counts = torch.unique_consecutive(members.group, return_inverse=True, return_counts=True)
        total = torch.zeros_like(counts).index_add_(0, groups, members.weight)
        return torch.repeat_interleave(total, _areas(place[0][counts.cumsum(0) - counts]))
    total = torch.zeros(size, dtype=torch.int64, device=members.weight.device)
    for owner, (into,) in _pixels(_intersect(members.seen, place[0]), place):
        total.scatter_add_(0, into, members.weight.index_select(0, owner))
    return total


def _pixels(rectangles: Tensor, *layouts: Layout) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The pixels of rectangles int64 `[K, 4]`, in parts: the rectangle of each, and where it lies in each layout.

    A rectangle lies in its window of every layout. Rows are listed first: all pixels of one are one step apart.
    """
    owner, y = ranges(rectangles[:, 1], rectangles[:, 3])
    lengths = (rectangles[:, 2] - rectangles[:, 0]).index_select(0, owner)
    starts = []
    for window, start in layouts:
        step = window[:, 2] - window[:, 0]
        corner = start + rectangles[:, 0] - window[:, 0] - window[:, 1] * step
        starts.append(corner.index_select(0, owner) + y * step.index_select(0, owner))
    for rows in split_by_cost(lengths, _AT_ONCE):
        length = lengths[rows]
        begin = length.cumsum(0) - length
        row = torch.repeat_interleave(length, output_size=int(length.sum()))
        at = torch.arange(len(row), device=row.device)
        places = [(start[rows] - begin).index_select(0, row) + at for start in starts]
        yield owner[rows].index_select(0, row), places


def fuse_boxes(
    boxes: Tensor,
    group: Tensor,
    num_groups: int,
    weights: Tensor | None = None,
    fuse: Fuse = "average",
    seen: Tensor | None = None,
) -> Tensor:
    """One box for each group, float32 `[G, 4]`: the weighted mean of its members, or with "union" what holds them all.

    Arguments and errors are those of `fuse_masks`; "votes" is the same as "average", and a group without members gets
    zeros. Of boxes float `[N, 4]` with `seen`, a side counts only where its view could see beyond it, by more than a
    pixel; where no member's could, the outermost counts.
    """
    _check(len(boxes), group, num_groups, weights, fuse, seen)
    chosen = group >= 0
    boxes, group = boxes[chosen], group[chosen]
    weights, seen = (None if given is None else given[chosen] for given in (weights, seen))
    outermost = _outermost(boxes, group, num_groups)
    if fuse == "union":
        return outermost.float()
    weight = _whole_weights(weights, group, num_groups).double()[:, None].expand(-1, 4)
    if seen is not None:
        weight = weight * torch.cat([boxes[:, :2] > seen[:, :2] + _CUT, boxes[:, 2:] < seen[:, 2:] - _CUT], dim=1)
    zeros = boxes.new_zeros(num_groups, 4, dtype=torch.float64)
    total = zeros.index_add(0, group, weight)
    mean = zeros.index_add(0, group, weight * boxes.double()) / total
    return torch.where(total > 0, mean, outermost).float()


def _outermost(boxes: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """The smallest boxes `[G, 4]` that hold all boxes `[N, 4]` of each group; zeros where there are none."""
    to = group[:, None].expand(-1, 2)
    low, high = boxes.new_zeros(2, num_groups, 2).unbind(0)
    low = low.scatter_reduce(0, to, boxes[:, :2], "amin", include_self=False)
    return torch.cat([low, high.scatter_reduce(0, to, boxes[:, 2:], "amax", include_self=False)], dim=1)


def _hulls(windows: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """The smallest windows int64 `[G, 4]` that hold those of each group that are not empty."""
    some = _areas(windows) > 0
    return _outermost(windows[some], group[some], num_groups)


def _intersect(windows1: Tensor, windows2: Tensor) -> Tensor:
    """What each window `[K, 4]` shares with its partner; a window without pixels where that is nothing."""
    low = torch.maximum(windows1[:, :2], windows2[:, :2])
    return torch.cat([low, torch.maximum(torch.minimum(windows1[:, 2:], windows2[:, 2:]), low)], dim=1)


def _areas(windows: Tensor) -> Tensor:
    return (windows[:, 2:] - windows[:, :2]).prod(dim=1)


def _whole_weights(weights: Tensor | None, group: Tensor, num_groups: int) -> Tensor:
    """int64 `[N]`: weights in steps of 2^-30 of the largest in the group."""
    if weights is None:
        return torch.ones_like(group)
    weights = weights.double()
    largest = weights.new_zeros(num_groups).scatter_reduce(0, group, weights, "amax")[group]
    return torch.where(largest > 0, weights / largest * _ONE, 1.0).round().long()


def check_fuse(fuse: str) -> None:
    """Raises ValueError unless `fuse` is one of `FUSES`."""
    if fuse not in FUSES:
        raise ValueError(f'unknown fuse "{fuse}": one of {", ".join(FUSES)}')


def _check(count: int, group: Tensor, num_groups: int, weights: Tensor | None, fuse: Fuse, seen: Tensor | None) -> None:
    check_fuse(fuse)
    if group.shape != (count,) or group.dtype != torch.int64:
        raise ValueError(f"group must be int64 [{count}], got {group.dtype} {list(group.shape)}")
    if count and not -1 <= int(group.min()) <= int(group.max()) < num_groups:
        raise ValueError(f"group must be in -1..{num_groups - 1}, got {int(group.min())}..{int(group.max())}")
    if weights is not None:
        if weights.shape != (count,):
            raise ValueError(f"weights must be [{count}] like group, got {list(weights.shape)}")
        if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise ValueError("weights must be finite and not negative")
    if seen is not None and seen.shape != (count, 4):
        raise ValueError(f"seen must be [{count}, 4] like group, got {list(seen.shape)}")
