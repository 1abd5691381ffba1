"""COCO's run-length code of masks kept as windows: runs down the columns of the canvas, counts in COCO's text form."""

from collections.abc import Sequence

import numpy as np
import torch

from maskrcnn.ops import reference_masks as reference
from maskrcnn.ops.runs import Ints, encode_runs
from maskrcnn.ops.types import Windows


def encode_rle(masks: Windows, size: tuple[int, int]) -> list[str]:
    """Compressed COCO counts of each mask on a canvas of `size` (H, W)."""
    # Walking the transposed windows row by row walks the canvas column by column.
    transposed = Windows(*reference.transpose_masks(masks))
    owner, y, x = (part.cpu().numpy() for part in reference.window_pixels(transposed.windows))
    inside = (transposed.data >= 128).cpu().numpy()
    owner, position = owner[inside], (x * size[0] + y)[inside]
    breaks = (owner[1:] != owner[:-1]) | (position[1:] != position[:-1] + 1)
    first, last = np.append(True, breaks)[: len(owner)], np.append(breaks, True)[: len(owner)]
    return encode_runs(owner[first], position[first], position[last] + 1, len(masks.windows), size[0] * size[1])


def decode_rle(counts: Sequence[str | bytes | Sequence[int]], size: tuple[int, int]) -> Windows:
    """Masks of COCO counts, compressed or plain, on a canvas of `size` (H, W).

    Raises:
        ValueError: counts that are no numbers, negative, or do not add up to the canvas; names the mask.
    """
    windows = np.zeros((len(counts), 4), dtype=np.int32)
    data = []
    for i, code in enumerate(counts):
        ends = _ends_of_runs(code, size[0] * size[1])
        if ends is None:
            raise ValueError(f"run-length code {i} does not fill an image of {size[0]} x {size[1]} pixels")
        starts, stops = ends[:-1:2], ends[1::2]
        length = stops - starts[: len(stops)]
        position = np.repeat(stops - np.cumsum(length), length) + np.arange(length.sum())
        x, y = np.divmod(position, size[0])
        if len(position) == 0:
            continue
        windows[i] = x.min(), y.min(), x.max() + 1, y.max() + 1
        level = np.zeros((windows[i, 3] - windows[i, 1], windows[i, 2] - windows[i, 0]), dtype=np.uint8)
        level[y - windows[i, 1], x - windows[i, 0]] = 255
        data.append(level.ravel())
    tensor = torch.from_numpy(windows)
    levels = torch.from_numpy(np.concatenate(data)) if data else torch.zeros(0, dtype=torch.uint8)
    return Windows(tensor, reference.offsets_of(tensor), levels)


def _ends_of_runs(code: object, total: int) -> Ints | None:
    """None where the code is broken."""
    text = code.encode("ascii", "replace") if isinstance(code, str) else code
    try:
        counts = _from_text(text) if isinstance(text, bytes) else np.asarray(text, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    # Single counts first: a sum of larger ones could wrap around to the right total.
    if counts.ndim != 1 or (counts < 0).any() or (counts > total).any() or counts.sum() != total:
        return None
    return np.cumsum(counts) if len(counts) else None


def _from_text(text: bytes) -> Ints:
    code = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
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
