"""Small random masks and their dense levels, for tests."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from maskrcnn.structures.masks import CroppedMasks

SIZE = (23, 31)


def random_masks(count: int, size: tuple[int, int] = SIZE, seed: int = 0, soft: bool = False) -> CroppedMasks:
    """Blobs of 1 to 12 px anywhere, cut by the canvas, with holes; every seventh has an empty window."""
    generator = torch.Generator().manual_seed(seed)
    windows, levels = [], []
    for i in range(count):
        x, y = (int(torch.randint(-2, side, (), generator=generator)) for side in (size[1], size[0]))
        w, h = (int(torch.randint(1, 13, (), generator=generator)) for _ in range(2))
        x1, y1, x2, y2 = max(0, x), max(0, y), min(size[1], x + w), min(size[0], y + h)
        if i % 7 == 6 or x2 <= x1 or y2 <= y1:
            x1 = y1 = x2 = y2 = 0
        level = torch.randint(0, 256, (y2 - y1, x2 - x1), generator=generator)
        level = level if soft else (level > 60) * 255
        windows.append([x1, y1, x2, y2])
        levels.append(level.to(torch.uint8))
    return CroppedMasks.from_windows(torch.tensor(windows, dtype=torch.int32).reshape(-1, 4), levels, size)


def dense_levels(masks: CroppedMasks) -> Tensor:
    """uint8 `[N, H, W]`, written window by window."""
    dense = torch.zeros(len(masks), *masks.size, dtype=torch.uint8)
    for i, (x1, y1, x2, y2) in enumerate(masks.windows.tolist()):
        dense[i, y1:y2, x1:x2] = masks.window(i)
    return dense


def stacks(max_masks: int = 4, max_side: int = 9) -> st.SearchStrategy[np.ndarray]:
    """Dense bool `[N, H, W]` stacks, among them empty and full masks."""
    shapes = st.tuples(st.integers(0, max_masks), st.integers(1, max_side), st.integers(1, max_side))
    return shapes.flatmap(lambda shape: npst.arrays(np.bool_, shape, elements=st.booleans(), fill=st.booleans()))


def check_sound(masks: CroppedMasks) -> None:
    """What every CroppedMasks promises: windows inside the canvas, offsets that belong to them, dtypes."""
    windows = masks.windows.long()
    assert masks.windows.dtype == torch.int32 and masks.offsets.dtype == torch.int64 and masks.data.dtype == torch.uint8
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] >= windows[:, :2]).all()
    assert (windows[:, 2] <= masks.size[1]).all() and (windows[:, 3] <= masks.size[0]).all()
    areas = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
    assert masks.offsets.tolist() == [0, *areas.cumsum(0).tolist()] and len(masks.data) == int(areas.sum())
