"""Masks as windows, in plain PyTorch: which pixels they have, and the levels there.

N masks are `windows` int32 `[N, 4]` (x1 y1 x2 y2, exclusive end), `offsets` int64 `[N + 1]` and `data` uint8, as in
`masks.py`. x counts columns, y rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from maskrcnn.ops.types import Windows

CHUNK_PIXELS = 1 << 19  # pixels computed at a time; each takes about a hundred bytes of temporaries


def window_offsets(windows: Tensor) -> Tensor:
    """Where each mask's pixels begin: int64 `[N + 1]`."""
    size = (windows[:, 2:] - windows[:, :2]).long()
    return torch.nn.functional.pad((size[:, 0] * size[:, 1]).cumsum(0), (1, 0))


def window_pixels(windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pixel of every window, row-major: `(owner, x, y)`, int64 `[sum of areas]`."""
    offsets = window_offsets(windows)
    owner = torch.repeat_interleave(offsets.diff())
    position = torch.arange(len(owner), device=windows.device) - offsets[owner]
    x1, y1, x2, _ = windows.long()[owner].unbind(dim=1)
    width = x2 - x1
    return owner, x1 + position % width, y1 + position // width


def split_windows(offsets: Tensor) -> tuple[Tensor, ...]:
    """int64 indices of windows in runs of about CHUNK_PIXELS pixels, one window at least."""
    all_windows = torch.arange(len(offsets) - 1, device=offsets.device)
    counts: list[int] = torch.unique_consecutive(offsets[:-1] // CHUNK_PIXELS, return_counts=True)[1].tolist()
    return torch.split(all_windows, counts)


def draw_levels(windows: Tensor, offsets: Tensor, level: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Data of masks in `windows` whose levels 0..255 are `level(owner, x, y)`, asked for part by part."""
    data = torch.empty(int(offsets[-1]), dtype=torch.uint8, device=windows.device)
    for part in split_windows(offsets):
        owner, x, y = window_pixels(windows[part])
        values = level(part[owner], x, y)
        values = values.round().clamp(0, 255) if values.is_floating_point() else values
        data[offsets[part[0]] : offsets[part[-1] + 1]] = values.to(torch.uint8)
    return data


def levels_at(masks: Windows, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Levels of masks `owner` at integer pixels, uint8; 0 outside the window."""
    windows, offsets, data = masks
    if len(data) == 0:
        return torch.zeros_like(owner, dtype=torch.uint8)
    x1, y1, x2, y2 = windows.long()[owner].unbind(dim=1)
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    position = offsets[owner] + (y - y1) * (x2 - x1) + (x - x1)
    return data[torch.where(inside, position, 0)] * inside


def bilinear_levels(masks: Windows, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Levels at continuous coordinates where pixel j has its centre at j; float32."""
    left, top = x.floor(), y.floor()
    fx, fy = x - left, y - top
    left, top = left.long(), top.long()
    upper = levels_at(masks, owner, left, top) * (1 - fx) + levels_at(masks, owner, left + 1, top) * fx
    lower = levels_at(masks, owner, left, top + 1) * (1 - fx) + levels_at(masks, owner, left + 1, top + 1) * fx
    return upper * (1 - fy) + lower * fy


def pixel_bounds(owner: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
    """Bounding windows (exclusive end) of pixels that belong to `owner`, int64 `[count, 4]`; zeros where none."""
    low = torch.full((count, 2), torch.iinfo(torch.int64).max, device=x.device)
    high = torch.full((count, 2), torch.iinfo(torch.int64).min, device=x.device)
    points, to = torch.stack([x, y], dim=1), owner[:, None].expand(-1, 2)
    low.scatter_reduce_(0, to, points, "amin")
    high.scatter_reduce_(0, to, points + 1, "amax")
    return torch.cat([low, high], dim=1) * (high > low).all(dim=1, keepdim=True)
