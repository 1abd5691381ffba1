"""COCO's text form of run lengths, in NumPy only: worker processes that only draw need not import PyTorch."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def encode_runs(owner: Ints, start: Ints, end: Ints, count: int, total: int) -> list[str]:
    """Encode `count` masks as compressed COCO counts, given their runs of inside pixels in any order.

    Args:
        owner: `[R]`, mask of each run, in 0..count-1; runs of one mask do not touch.
        start: `[R]`, first pixel in column-major order.
        end: `[R]`, last pixel (exclusive).
        count: number of masks.
        total: number of pixels of the canvas.

    Returns:
        The counts per mask.
    """
    if count == 0:
        return []
    owners = np.concatenate([owner, owner, np.arange(count)])
    ends = np.concatenate([start, end, np.full(count, total)])
    order = np.lexsort((ends, owners))
    owners, ends = owners[order], ends[order]
    # A mask that reaches the last pixel has no run of background after it.
    once = np.append(True, (owners[1:] != owners[:-1]) | (ends[1:] != ends[:-1]))
    owners, ends = owners[once], ends[once]
    is_first = np.append(True, owners[1:] != owners[:-1])
    counts = np.where(is_first, ends, np.diff(ends, prepend=0))
    place = np.arange(len(counts)) - np.flatnonzero(is_first)[owners]
    delta = counts.copy()
    from_third = place > 2
    delta[from_third] -= counts[np.flatnonzero(from_third) - 2]
    text, length = _to_text(delta)
    last = np.cumsum(np.bincount(owners, weights=length, minlength=count).astype(np.int64))
    return [text[a:b].decode("ascii") for a, b in zip(np.append(0, last[:-1]), last, strict=True)]


def counts_to_text(counts: Ints) -> bytes:
    """Compress the plain run lengths of one mask."""
    delta = counts.copy()
    delta[3:] -= counts[1:-2]
    return _to_text(delta)[0]


def _to_text(values: Ints) -> tuple[bytes, Ints]:
    """Encode values by COCO's variable-length code, five bits per character, low bits first; also return lengths."""
    characters, active = [], []
    rest, alive = values.copy(), np.ones(len(values), dtype=bool)
    while alive.any():
        bits = rest & 0x1F
        rest >>= 5
        more = np.where(bits & 0x10, rest != -1, rest != 0)
        characters.append(bits + np.where(more, 0x20, 0) + 48)
        active.append(alive)
        alive = alive & more
    if not characters:
        return b"", np.zeros(0, dtype=np.int64)
    used = np.stack(active, axis=1)
    return np.stack(characters, axis=1)[used].astype(np.uint8).tobytes(), used.sum(axis=1)
