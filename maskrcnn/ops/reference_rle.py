"""What coding and decoding run lengths computes, in NumPy; as `reference.py`."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.ops.runs import Ints, encode_runs
from maskrcnn.ops.types import Windows
from maskrcnn.ops.windows import levels_at, window_offsets, window_pixels


def encode_rle(windows: Tensor, offsets: Tensor, data: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Text uint8 `[sum of lengths]` of all masks and where each begins, int64 `[N + 1]`."""
    # Walking the transposed windows row by row walks the canvas column by column.
    masks, transposed = Windows(windows, offsets, data), windows[:, [1, 0, 3, 2]]
    owner, y, x = window_pixels(transposed)
    inside = (levels_at(masks, owner, x, y) >= 128).cpu().numpy()
    owners, position = owner.cpu().numpy()[inside], (x * height + y).cpu().numpy()[inside]
    breaks = (owners[1:] != owners[:-1]) | (position[1:] != position[:-1] + 1)
    first, last = np.append(True, breaks)[: len(owners)], np.append(breaks, True)[: len(owners)]
    codes = encode_runs(owners[first], position[first], position[last] + 1, len(windows), height * width)
    ends = torch.tensor([0, *(len(code) for code in codes)], dtype=torch.int64).cumsum(0)
    text = np.frombuffer("".join(codes).encode("ascii"), dtype=np.uint8)
    return torch.from_numpy(text.copy()).to(data.device), ends.to(data.device)


def decode_rle(text: Tensor, text_offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows, offsets and data of the coded masks, and the number of the first broken code, int64 `[]`.

    Without a broken one it is -1; with one, all masks are empty.
    """
    codes, ends = text.cpu().numpy(), text_offsets.tolist()
    windows = np.zeros((len(ends) - 1, 4), dtype=np.int32)
    data: list[NDArray[np.uint8]] = []
    broken = -1
    for i, (begin, end) in enumerate(itertools.pairwise(ends)):
        counts = _counts(codes[begin:end].astype(np.int64) - 48)
        # Single counts first: a sum of larger ones could wrap around to the right total.
        total = height * width
        if len(counts) == 0 or (counts < 0).any() or (counts > total).any() or counts.sum() != total:
            windows, data, broken = np.zeros_like(windows), [], i
            break
        stops = np.cumsum(counts)[1::2]
        length = counts[1::2]
        position = np.repeat(stops - np.cumsum(length), length) + np.arange(length.sum())
        x, y = np.divmod(position, height)
        if len(position) == 0:
            continue
        windows[i] = x.min(), y.min(), x.max() + 1, y.max() + 1
        level = np.zeros((windows[i, 3] - windows[i, 1], windows[i, 2] - windows[i, 0]), dtype=np.uint8)
        level[y - windows[i, 1], x - windows[i, 0]] = 255
        data.append(level.ravel())
    tensor = torch.from_numpy(windows).to(text.device)
    levels = torch.from_numpy(np.concatenate(data) if data else np.zeros(0, dtype=np.uint8))
    offsets = window_offsets(tensor)
    return tensor, offsets, levels.to(text.device), torch.tensor(broken, device=text.device)


def _counts(code: Ints) -> Ints:
    """Run lengths; none where the text is broken."""
    last = (code & 0x20) == 0
    if len(code) == 0 or not last[-1] or (code < 0).any() or (code > 63).any():
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    digit = np.arange(len(code)) - np.repeat(starts, ends - starts + 1)
    if digit.max() > 11:
        return np.zeros(0, dtype=np.int64)
    values = np.add.reduceat((code & 0x1F) << (5 * digit), starts)
    negative = (code[ends] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * (digit[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
