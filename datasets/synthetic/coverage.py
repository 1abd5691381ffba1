"""Coverage of pixels by shapes, stored as levels in windows."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INSIDE = 128  # minimum level of a pixel that belongs to its object


@dataclass(frozen=True)
class ShapeCoverage:
    """Coverage levels of N shapes, each in its own window, stored as in `CroppedMasks`.

    Attributes:
        windows: int32 [N, 4] (x1, y1, x2, y2, exclusive end), clipped to the canvas; empty windows are zero.
        offsets: int64 [N + 1], offsets into `data`.
        data: uint8 [sum of window areas], row-major, 0..255; a pixel is inside if its level is at least 128.
        areas: float64 [N] in px, including parts beyond the canvas.
    """

    windows: NDArray[np.int32]
    offsets: Ints
    data: NDArray[np.uint8]
    areas: Floats

    @functools.cached_property
    def pixels(self) -> tuple[Ints, Ints, Ints]:
        """Shape, column, and row of every level in `data`, int64 [P] each."""
        return window_pixels(self.windows)[:3]

    def window(self, index: int) -> tuple[slice, slice, NDArray[np.uint8]]:
        """Return rows, columns, and levels [h, w] of one shape."""
        x1, y1, x2, y2 = self.windows[index].tolist()
        levels = self.data[self.offsets[index] : self.offsets[index + 1]].reshape(y2 - y1, x2 - x1)
        return slice(y1, y2), slice(x1, x2), levels


def window_pixels(windows: NDArray[np.int32]) -> tuple[Ints, Ints, Ints, Ints]:
    """List the pixels of all windows, one window after the other, row-major.

    Returns:
        Window, column, and row of each pixel (int64 [P] each), and offsets int64 [N + 1].
    """
    widths = (windows[:, 2] - windows[:, 0]).astype(np.int64)
    areas = widths * (windows[:, 3] - windows[:, 1])
    owner, inside, offsets = expand_ragged(areas)
    row = inside // widths[owner]
    return owner, windows[owner, 0] + inside - row * widths[owner], windows[owner, 1] + row, offsets


def expand_ragged(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """List the elements of N rows with `counts` elements: row and index within it, and the rows' offsets [N + 1]."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(offsets[-1]) - offsets[owner], offsets
