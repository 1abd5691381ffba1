"""Fusion of grouped detections: the masks and boxes of each group are averaged, counted, or united.

Memory and time are proportional to the windows of the masks and of the groups, never to groups × image. Levels are
summed as integers, so the result depends neither on the order of the members nor on the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskrcnn.inference.merging.overlaps import expand_ranges, split_by_cost
from maskrcnn.ops.windows import window_offsets
from maskrcnn.structures.masks import CroppedMasks

Fuse = Literal["average", "votes", "union"]
FUSES: tuple[Fuse, ...] = ("average", "votes", "union")
_CHUNK_PIXELS = 1 << 20  # pixels summed at a time, about fifty bytes each
_MAX_WEIGHT = 1 << 30  # integer weight of a group's heaviest member: 255 times it, for 2^24 members, fits an int64
_CUT_MARGIN = 1.0  # a side of a box this close (px) to the border of its visible window may have been cut there

Layout = tuple[Tensor, Tensor]  # int64 windows `[K, 4]` and the offset of the first pixel of each, `[K]`


def fuse_masks(
    masks: CroppedMasks,
    group: Tensor,
    num_groups: int,
    weights: Tensor | None = None,
    fuse: Fuse = "average",
    visible: Tensor | None = None,
) -> CroppedMasks:
    """Fuse the masks of each group into one mask, in the smallest window that contains the members' windows.

    A level is the weighted mean of the members' levels ("average"; a member is 0 outside its window), the weighted
    fraction of the members that contain the pixel ("votes", as 0..255), or the maximum level ("union", which ignores
    the weights). Means are rounded half up: a pixel that exactly half of the members contain is inside.

    Args:
        masks: N masks.
        group: int64 `[N]` in 0..num_groups - 1, the group of each mask, or -1 for none. A group without members gets an
            empty mask.
        num_groups: number of groups G.
        weights: float `[N]`, nonnegative. If all weights of a group are 0, its members count equally. Default: 1.
        fuse: "average", "votes", or "union".
        visible: int `[N, 4]` (x1 y1 x2 y2, exclusive end), the window of the canvas that the view (tile) of each member
            showed. At each pixel only the members whose view showed it count. Default: the whole canvas.

    Returns:
        G masks.

    Raises:
        ValueError: If shapes do not match, a group is out of range, or a weight is negative or not finite.
    """
    _check(len(masks), group, num_groups, weights, fuse, visible)
    parts = _Members.of(masks, group, num_groups, weights, visible)
    windows = _compute_hulls(parts.rectangles, parts.group, num_groups)
    offsets = window_offsets(windows)
    data = torch.empty(int(offsets[-1]), dtype=torch.uint8, device=windows.device)
    first = torch.searchsorted(parts.group, torch.arange(num_groups + 1, device=group.device))
    costs = offsets.diff().index_add(0, parts.group, _compute_areas(parts.rectangles))
    for some in split_by_cost(costs, _CHUNK_PIXELS):
        begin, end = int(some[0]), int(some[-1]) + 1
        members = parts[int(first[begin]) : int(first[end])]
        place = (windows[members.group], offsets[members.group] - offsets[begin])
        size = int(offsets[end] - offsets[begin])
        data[offsets[begin] : offsets[end]] = _compute_levels(masks, members, place, size, fuse)
    return CroppedMasks(windows.int(), offsets, data, masks.size)


@dataclass(frozen=True)
class _Members:
    """Masks that belong to a group, sorted by group: index, group, visible rectangle, and weight."""

    index: Tensor
    group: Tensor
    rectangles: Tensor
    weight: Tensor
    visible: Tensor | None

    @staticmethod
    def of(
        masks: CroppedMasks, group: Tensor, num_groups: int, weights: Tensor | None, visible: Tensor | None
    ) -> "_Members":
        index = torch.argsort(group, stable=True)
        index = index[group[index] >= 0]
        windows = masks.windows.long()[index]
        visible = None if visible is None else visible.long()[index]
        weights = None if weights is None else weights[index]
        return _Members(
            index,
            group[index],
            windows if visible is None else _intersect(windows, visible),
            _quantize_weights(weights, group[index], num_groups),
            visible,
        )

    def __getitem__(self, part: slice) -> "_Members":
        visible = None if self.visible is None else self.visible[part]
        return _Members(self.index[part], self.group[part], self.rectangles[part], self.weight[part], visible)


def _compute_levels(masks: CroppedMasks, members: _Members, place: Layout, size: int, fuse: Fuse) -> Tensor:
    """Compute the fused levels of some groups, uint8 `[size]`; `place` is the layout of the members' groups."""
    levels = torch.zeros(size, dtype=torch.int64, device=masks.data.device)
    source = (masks.windows[members.index].long(), masks.offsets[members.index])
    for owner, (target, source_index) in _iterate_pixels(members.rectangles, place, source):
        level = masks.data.index_select(0, source_index).long()
        if fuse == "union":
            levels.scatter_reduce_(0, target, level, "amax")
        else:
            level = (level >> 7) * 255 if fuse == "votes" else level
            levels.scatter_add_(0, target, level.mul_(members.weight.index_select(0, owner)))
    if fuse != "union":
        total = _sum_weights(members, place, size)
        levels = (2 * levels + total) // (2 * total.clamp(min=1))
    return levels.to(torch.uint8)


def _sum_weights(members: _Members, place: Layout, size: int) -> Tensor:
    """Sum, for each pixel, the weights of the group's members that see it; int64 `[size]`."""
    if members.visible is None:
        _, groups, counts = torch.unique_consecutive(members.group, return_inverse=True, return_counts=True)
        total = torch.zeros_like(counts).index_add_(0, groups, members.weight)
        return torch.repeat_interleave(total, _compute_areas(place[0][counts.cumsum(0) - counts]))
    total = torch.zeros(size, dtype=torch.int64, device=members.weight.device)
    for owner, (target,) in _iterate_pixels(_intersect(members.visible, place[0]), place):
        total.scatter_add_(0, target, members.weight.index_select(0, owner))
    return total


def _iterate_pixels(rectangles: Tensor, *layouts: Layout) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Iterate in chunks over the pixels of rectangles int64 `[K, 4]`: their owners and their offsets in each layout.

    A rectangle is inside its window in every layout. Rows are expanded first, as the pixels of a row are contiguous.
    """
    owner, y = expand_ranges(rectangles[:, 1], rectangles[:, 3])
    lengths = (rectangles[:, 2] - rectangles[:, 0]).index_select(0, owner)
    starts = []
    for window, start in layouts:
        step = window[:, 2] - window[:, 0]
        corner = start + rectangles[:, 0] - window[:, 0] - window[:, 1] * step
        starts.append(corner.index_select(0, owner) + y * step.index_select(0, owner))
    for rows in split_by_cost(lengths, _CHUNK_PIXELS):
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
    visible: Tensor | None = None,
) -> Tensor:
    """Fuse the boxes of each group into one: their weighted mean, or, for "union", the box that contains them all.

    For arguments and errors see `fuse_masks`. "votes" equals "average", and a group without members gets zeros. With
    `visible`, a side counts only if it is more than a pixel away from the border of the member's view; if no member's
    is, the outermost side is taken.

    Args:
        boxes: float `[N, 4]`.
        group: int64 `[N]`.
        num_groups: number of groups G.
        weights: float `[N]`, nonnegative.
        fuse: "average", "votes", or "union".
        visible: int `[N, 4]`.

    Returns:
        float32 `[G, 4]`.
    """
    _check(len(boxes), group, num_groups, weights, fuse, visible)
    chosen = group >= 0
    boxes, group = boxes[chosen], group[chosen]
    weights, visible = (None if given is None else given[chosen] for given in (weights, visible))
    enclosing = _enclose_boxes(boxes, group, num_groups)
    if fuse == "union":
        return enclosing.float()
    weight = _quantize_weights(weights, group, num_groups).double()[:, None].expand(-1, 4)
    if visible is not None:
        weight = weight * torch.cat(
            [boxes[:, :2] > visible[:, :2] + _CUT_MARGIN, boxes[:, 2:] < visible[:, 2:] - _CUT_MARGIN], dim=1
        )
    zeros = boxes.new_zeros(num_groups, 4, dtype=torch.float64)
    total = zeros.index_add(0, group, weight)
    mean = zeros.index_add(0, group, weight * boxes.double()) / total
    return torch.where(total > 0, mean, enclosing).float()


def _enclose_boxes(boxes: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Compute the smallest boxes `[G, 4]` that contain all boxes `[N, 4]` of each group; zeros for empty groups."""
    to = group[:, None].expand(-1, 2)
    low, high = boxes.new_zeros(2, num_groups, 2).unbind(0)
    low = low.scatter_reduce(0, to, boxes[:, :2], "amin", include_self=False)
    return torch.cat([low, high.scatter_reduce(0, to, boxes[:, 2:], "amax", include_self=False)], dim=1)


def _compute_hulls(windows: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Compute the smallest windows int64 `[G, 4]` that contain all nonempty windows of each group."""
    nonempty = _compute_areas(windows) > 0
    return _enclose_boxes(windows[nonempty], group[nonempty], num_groups)


def _intersect(windows1: Tensor, windows2: Tensor) -> Tensor:
    """Intersect windows `[K, 4]` pairwise; disjoint windows give a window without pixels."""
    low = torch.maximum(windows1[:, :2], windows2[:, :2])
    return torch.cat([low, torch.maximum(torch.minimum(windows1[:, 2:], windows2[:, 2:]), low)], dim=1)


def _compute_areas(windows: Tensor) -> Tensor:
    return (windows[:, 2:] - windows[:, :2]).prod(dim=1)


def _quantize_weights(weights: Tensor | None, group: Tensor, num_groups: int) -> Tensor:
    """Convert weights to integers int64 `[N]`, in steps of 2^-30 of the group's maximum."""
    if weights is None:
        return torch.ones_like(group)
    weights = weights.double()
    max_weight = weights.new_zeros(num_groups).scatter_reduce(0, group, weights, "amax")[group]
    return torch.where(max_weight > 0, weights / max_weight * _MAX_WEIGHT, 1.0).round().long()


def check_fuse(fuse: str) -> None:
    """Check that `fuse` is one of `FUSES`.

    Raises:
        ValueError: If it is not.
    """
    if fuse not in FUSES:
        raise ValueError(f'unknown fuse "{fuse}": one of {", ".join(FUSES)}')


def _check(
    count: int, group: Tensor, num_groups: int, weights: Tensor | None, fuse: Fuse, visible: Tensor | None
) -> None:
    check_fuse(fuse)
    if group.shape != (count,) or group.dtype != torch.int64:
        raise ValueError(f"group must be int64 [{count}], got {group.dtype} {list(group.shape)}")
    if count and not -1 <= int(group.min()) <= int(group.max()) < num_groups:
        raise ValueError(f"group must be in -1..{num_groups - 1}, got {int(group.min())}..{int(group.max())}")
    if weights is not None:
        if weights.shape != (count,):
            raise ValueError(f"weights must be [{count}] like group, got {list(weights.shape)}")
        if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise ValueError("weights must be finite and nonnegative")
    if visible is not None and visible.shape != (count, 4):
        raise ValueError(f"visible must be [{count}, 4] like group, got {list(visible.shape)}")
