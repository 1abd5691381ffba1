"""What drawn shapes cover: levels in windows."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INSIDE = 128  # the level from which on a pixel belongs to its object


@dataclass(frozen=True)
class Coverage:
    """Levels of N objects, each in its own window, stored as ``CroppedMasks`` stores them.

    ``windows`` int32 [N, 4] (x1, y1, x2, y2, exclusive end, clipped to the canvas, empty ones all zero), ``offsets``
    int64 [N + 1] and ``data`` uint8 [sum of window areas], row-major, 0..255; inside where >= 128. ``areas`` float64
    [N] in px, with what lies beyond the canvas.
    """

    windows: NDArray[np.int32]
    offsets: Ints
    data: NDArray[np.uint8]
    areas: Floats

    @functools.cached_property
    def pixels(self) -> tuple[Ints, Ints, Ints]:
        """The object, the column and the row of every level in ``data``, int64 [P] each."""
        return window_pixels(self.windows)[:3]

    def window(self, index: int) -> tuple[slice, slice, NDArray[np.uint8]]:
        """Rows, columns and levels [h, w] of one object."""
        x1, y1, x2, y2 = self.windows[index].tolist()
        levels = self.data[self.offsets[index] : self.offsets[index + 1]].reshape(y2 - y1, x2 - x1)
        return slice(y1, y2), slice(x1, x2), levels


def window_pixels(windows: NDArray[np.int32]) -> tuple[Ints, Ints, Ints, Ints]:
    """Every pixel of every window, one after the other, row-major.

    Returns the window's number, the column and the row of each pixel (int64 [P] each) and the offsets int64 [N + 1].
    """
    widths = (windows[:, 2] - windows[:, 0]).astype(np.int64)
    areas = widths * (windows[:, 3] - windows[:, 1])
    owner, inside, offsets = ragged(areas)
    row = inside // widths[owner]
    return owner, windows[owner, 0] + inside - row * widths[owner], windows[owner, 1] + row, offsets


def ragged(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """For N rows of ``counts`` elements: each element's row, its place in it, and the offsets int64 [N + 1]."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(offsets[-1]) - offsets[owner], offsets
