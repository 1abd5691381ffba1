"""Anti-aliased ellipses by supersampled coverage.

The level of a pixel is the share of SAMPLES x SAMPLES points on a regular grid in it that lie inside the ellipse. Only
additions and multiplications touch the parameters, one NumPy call each, so no compiler may fuse them: the same
parameters give the same levels on every machine. Cost follows the pixels along the outlines, not objects x image area.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES = 16
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EllipseShapes:
    """N ellipses in pixels; pixel (row i, column j) covers [j, j+1) x [i, i+1).

    ``centres`` float64 [N, 2] (x, y); ``semi_axes`` float64 [N, 2] along and across ``directions`` float64 [N, 2]
    (cosine, sine of the angle from x towards y). All of them rounded by the caller (``streams.round_parameter``).
    """

    centres: Floats
    semi_axes: Floats
    directions: Floats

    def __len__(self) -> int:
        return len(self.centres)

    def half_extents(self) -> Floats:
        """Half width and half height of the tight box, float64 [N, 2]."""
        along, across = self.semi_axes[:, 0] ** 2, self.semi_axes[:, 1] ** 2
        cosine, sine = self.directions[:, 0] ** 2, self.directions[:, 1] ** 2
        return np.sqrt(np.stack([along * cosine + across * sine, along * sine + across * cosine], axis=1))


@dataclass(frozen=True)
class Coverage:
    """Levels of N objects, each in its own window, stored as ``CroppedMasks`` stores them.

    ``windows`` int32 [N, 4] (x1, y1, x2, y2, exclusive end, clipped to the canvas, empty ones all zero), ``offsets``
    int64 [N + 1] and ``data`` uint8 [sum of window areas], row-major, 0..255; inside where >= 128.
    """

    windows: NDArray[np.int32]
    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    def window(self, index: int) -> tuple[slice, slice, NDArray[np.uint8]]:
        """Rows, columns and levels [h, w] of one object."""
        x1, y1, x2, y2 = self.windows[index].tolist()
        levels = self.data[self.offsets[index] : self.offsets[index + 1]].reshape(y2 - y1, x2 - x1)
        return slice(y1, y2), slice(x1, x2), levels


def rasterise_ellipses(shapes: EllipseShapes, width: int, height: int) -> Coverage:
    """Draw N ellipses on a canvas of ``width`` x ``height`` pixels, each by itself (nothing hides anything)."""
    windows = _clip_windows(shapes, width, height)
    owner, x, y, offsets = window_pixels(windows)
    form = _forms_at(shapes, owner, x, y)
    # The form is convex: it never falls below its tangent and is largest at a corner of the pixel.
    tilt = (np.abs(form.by_x) + np.abs(form.by_y)) * 0.5
    bend = (form.by_xx + form.by_yy + np.abs(form.by_xy)) * 0.25
    data = np.where(form.value + tilt + bend <= 0, np.uint8(255), np.uint8(0))
    outline = np.flatnonzero((data == 0) & (form.value - tilt <= 0))
    whole = SAMPLES * SAMPLES
    data[outline] = (_count_samples(form.take(outline)) * 255 + whole // 2) // whole
    return Coverage(windows, offsets, data)


def window_pixels(
    windows: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Every pixel of every window, one after the other, row-major.

    Returns the window's number, the column and the row of each pixel (int64 [P] each) and the offsets int64 [N + 1].
    """
    widths = (windows[:, 2] - windows[:, 0]).astype(np.int64)
    areas = widths * (windows[:, 3] - windows[:, 1])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(areas)])
    owner = np.repeat(np.arange(len(windows)), areas)
    inside = np.arange(offsets[-1]) - offsets[owner]
    row = inside // widths[owner]
    return owner, windows[owner, 0] + inside - row * widths[owner], windows[owner, 1] + row, offsets


def _clip_windows(shapes: EllipseShapes, width: int, height: int) -> NDArray[np.int32]:
    extents = shapes.half_extents()
    canvas = np.array([width, height])
    low = np.clip(np.floor(shapes.centres - extents), 0, canvas)
    high = np.clip(np.ceil(shapes.centres + extents), 0, canvas)
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    windows[(high <= low).any(axis=1)] = 0
    return windows


@dataclass(frozen=True)
class _Forms:
    """For each of P pixels the quadratic form that is <= 0 inside its ellipse, expanded around the pixel's centre:
    value + by_x dx + by_y dy + by_xx dx^2 + by_xy dx dy + by_yy dy^2."""

    value: Floats
    by_x: Floats
    by_y: Floats
    by_xx: Floats
    by_xy: Floats
    by_yy: Floats

    def take(self, pixels: NDArray[np.int64]) -> "_Forms":
        parts = (self.value, self.by_x, self.by_y, self.by_xx, self.by_xy, self.by_yy)
        return _Forms(*(part[pixels] for part in parts))


def _forms_at(
    shapes: EllipseShapes, owner: NDArray[np.int64], columns: NDArray[np.int64], rows: NDArray[np.int64]
) -> _Forms:
    """(u / a)^2 + (v / b)^2 <= 1 without a division: (b u)^2 + (a v)^2 - (a b)^2 <= 0."""
    cosine, sine = shapes.directions.T
    along, across = shapes.semi_axes.T
    u_by_x, u_by_y, v_by_x, v_by_y = cosine * across, sine * across, sine * along * -1.0, cosine * along
    limit = along * across
    dx, dy = columns + 0.5 - shapes.centres[owner, 0], rows + 0.5 - shapes.centres[owner, 1]
    u, v = dx * u_by_x[owner] + dy * u_by_y[owner], dx * v_by_x[owner] + dy * v_by_y[owner]
    return _Forms(
        value=u * u + v * v - (limit * limit)[owner],
        by_x=(u * u_by_x[owner] + v * v_by_x[owner]) * 2.0,
        by_y=(u * u_by_y[owner] + v * v_by_y[owner]) * 2.0,
        by_xx=(u_by_x * u_by_x + v_by_x * v_by_x)[owner],
        by_xy=((u_by_x * u_by_y + v_by_x * v_by_y) * 2.0)[owner],
        by_yy=(u_by_y * u_by_y + v_by_y * v_by_y)[owner],
    )


def _count_samples(form: _Forms) -> NDArray[np.int64]:
    """How many of a pixel's samples lie inside, int64 [P]; one pass over all pixels for each sample's place."""
    places = (np.arange(SAMPLES) * 2 + 1 - SAMPLES) * (0.5 / SAMPLES)  # exact in binary
    bends = [form.by_xx * (dx * dx) for dx in places]
    counts = np.zeros(len(form.value), np.int64)
    here, inside, in_row = np.empty_like(form.value), np.empty(len(counts), bool), np.empty(len(counts), np.uint8)
    inside_as_number = inside.view(np.uint8)
    for dy in places:
        level, slope = form.value + form.by_y * dy + form.by_yy * (dy * dy), form.by_x + form.by_xy * dy
        in_row[:] = 0
        for dx, bend in zip(places, bends, strict=True):
            np.multiply(slope, dx, out=here)
            here += bend
            here += level
            np.less_equal(here, 0.0, out=inside)
            in_row += inside_as_number
        counts += in_row
    return counts
