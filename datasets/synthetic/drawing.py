"""Anti-aliased shapes by supersampled coverage.

The level of a pixel is the share of SAMPLES x SAMPLES points on a regular grid in it that lie inside the shape. Every
row of samples is crossed by the outline at a few places; what lies between them is counted, not looked at. Only IEEE's
exactly rounded operations touch the parameters, one NumPy call each, so no compiler may fuse them: the same parameters
give the same levels on every machine. Cost follows the outlines and the windows, not objects x image area.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.outlines import Outline

SAMPLES = 16
WHOLE = SAMPLES * SAMPLES
_ROWS = 6500  # of samples that are drawn at once: arrays that stay in the cache, and memory that does not grow
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shapes:
    """N shapes in pixels; pixel (row i, column j) covers [j, j+1) x [i, i+1).

    ``centres`` float64 [N, 2] (x, y); ``semi_axes`` float64 [N, 2] along and across ``directions`` float64 [N, 2]
    (cosine, sine of the angle from x towards y), all rounded by the caller (``streams.round_parameter``).
    ``outlines``: N of them for semi-axes of 1, None for ellipses; () if all are ellipses. Each has the area pi a b.
    """

    centres: Floats
    semi_axes: Floats
    directions: Floats
    outlines: tuple[Outline | None, ...] = ()

    def __len__(self) -> int:
        return len(self.centres)

    def half_extents(self) -> Floats:
        """Half width and half height of a box about the centre that holds the shape, float64 [N, 2]; tight for
        ellipses."""
        along, across = self.semi_axes[:, 0] ** 2, self.semi_axes[:, 1] ** 2
        cosine, sine = self.directions[:, 0] ** 2, self.directions[:, 1] ** 2
        extents = np.sqrt(np.stack([along * cosine + across * sine, along * sine + across * cosine], axis=1))
        for index, outline in enumerate(self.outlines):
            if outline is not None:
                points = self._placed(index, outline)[:, :2] - self.centres[index]
                extents[index] = np.abs(points).max(axis=0)
        return extents

    def _placed(self, index: int, outline: Outline) -> Floats:
        """Edges of one outline on the canvas, float64 [E, 4]."""
        cosine, sine = self.directions[index]
        x, y = (outline.edges[:, 0::2] * self.semi_axes[index, 0], outline.edges[:, 1::2] * self.semi_axes[index, 1])
        across, down = x * cosine - y * sine, x * sine + y * cosine
        placed = np.stack([across[:, 0], down[:, 0], across[:, 1], down[:, 1]], axis=1)
        return placed + np.tile(self.centres[index], 2)

    def edges(self) -> tuple[Floats, Ints]:
        """Edges of all outlines on the canvas, float64 [E, 4], and whose they are, int64 [E]."""
        placed = [(i, self._placed(i, each)) for i, each in enumerate(self.outlines) if each is not None]
        owner = np.repeat(np.array([i for i, _ in placed], np.int64), [len(edges) for _, edges in placed])
        return np.concatenate([edges for _, edges in placed]) if placed else np.zeros((0, 4)), owner

    def take(self, index: Ints) -> "Shapes":
        """The shapes that ``index`` names, in its order."""
        outlines = tuple(self.outlines[i] for i in index.tolist()) if self.outlines else ()
        return Shapes(self.centres[index], self.semi_axes[index], self.directions[index], outlines)

    @staticmethod
    def cat(parts: "list[Shapes]") -> "Shapes":
        outlined = any(part.outlines for part in parts)
        outlines = tuple(each for part in parts for each in part.outlines or (None,) * len(part)) if outlined else ()
        return Shapes(
            np.concatenate([part.centres for part in parts]),
            np.concatenate([part.semi_axes for part in parts]),
            np.concatenate([part.directions for part in parts]),
            outlines,
        )


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


def rasterise(shapes: Shapes, width: int, height: int) -> Coverage:
    """Draw N shapes on a canvas of ``width`` x ``height`` pixels, each by itself (nothing hides anything)."""
    rows = np.cumsum(shapes.half_extents()[:, 1] * 2 * SAMPLES)
    parts = [_rasterise(part, width, height) for part in _split(shapes, rows // _ROWS)]
    windows, data, areas = (np.concatenate(each) for each in zip(*parts, strict=True))
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.int64)
    return Coverage(windows, np.concatenate([np.zeros(1, np.int64), np.cumsum(sides.prod(axis=1))]), data, areas)


def _split(shapes: Shapes, group: Floats) -> "list[Shapes]":
    """Runs of shapes of the same, rising, group; one run without shapes if there are none."""
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(shapes))
    starts = np.concatenate([[0], ends[:-1]])
    return [shapes.take(np.arange(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _rasterise(shapes: Shapes, width: int, height: int) -> tuple[NDArray[np.int32], NDArray[np.uint8], Floats]:
    """Windows, levels and areas."""
    windows = _clip_windows(shapes, width, height)
    crossings = _Crossings.cat([_cross_ellipses(shapes), _cross_edges(*shapes.edges())])
    areas = np.bincount(crossings.owner, weights=-crossings.sign * crossings.sample, minlength=len(shapes)) / WHOLE
    counts = _count_samples(crossings, windows)
    return windows, ((counts * 255 + WHOLE // 2) // WHOLE).astype(np.uint8), areas


def window_pixels(windows: NDArray[np.int32]) -> tuple[Ints, Ints, Ints, Ints]:
    """Every pixel of every window, one after the other, row-major.

    Returns the window's number, the column and the row of each pixel (int64 [P] each) and the offsets int64 [N + 1].
    """
    widths = (windows[:, 2] - windows[:, 0]).astype(np.int64)
    areas = widths * (windows[:, 3] - windows[:, 1])
    owner, inside, offsets = _ragged(areas)
    row = inside // widths[owner]
    return owner, windows[owner, 0] + inside - row * widths[owner], windows[owner, 1] + row, offsets


def _ragged(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """For N rows of ``counts`` elements: each element's row, its place in it, and the offsets int64 [N + 1]."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(offsets[-1]) - offsets[owner], offsets


def _clip_windows(shapes: Shapes, width: int, height: int) -> NDArray[np.int32]:
    extents = shapes.half_extents()
    canvas = np.array([width, height])
    low = np.clip(np.floor(shapes.centres - extents), 0, canvas)
    high = np.clip(np.ceil(shapes.centres + extents), 0, canvas)
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    windows[(high <= low).any(axis=1)] = 0
    return windows


@dataclass(frozen=True)
class _Crossings:
    """Where rows of samples cross outlines, int64 [C] each: the object, the row, the first sample to the right (both
    counted in samples) and what the winding number of that sample and all those after it gains."""

    owner: Ints
    row: Ints
    sample: Ints
    sign: Ints

    @staticmethod
    def cat(parts: "list[_Crossings]") -> "_Crossings":
        names = ("owner", "row", "sample", "sign")
        return _Crossings(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _first_sample(position: Floats) -> Ints:
    """The first sample at or after a position in pixels; samples lie at (k + 0.5) / SAMPLES."""
    return np.ceil(position * SAMPLES - 0.5).astype(np.int64)


def _cross_ellipses(shapes: Shapes) -> _Crossings:
    """In a row of samples, (u / a)^2 + (v / b)^2 <= 1 is a quadratic in x: bend x^2 + tilt x + level <= 0."""
    which = np.flatnonzero([each is None for each in shapes.outlines]) if shapes.outlines else np.arange(len(shapes))
    x, y = shapes.centres[which].T
    extent = shapes.half_extents()[which, 1]
    cosine, sine = shapes.directions[which].T
    along, across = shapes.semi_axes[which].T
    bend = (cosine * across) ** 2 + (sine * along) ** 2
    lean = cosine * sine * (across * across - along * along)
    rise = (sine * across) ** 2 + (cosine * along) ** 2
    limit = (along * across) ** 2
    first = _first_sample(y - extent) - 1
    rows = _first_sample(y + extent) + 1 - first
    owner, row = np.repeat(which, rows), np.repeat(first, rows) + _ragged(rows)[1]
    x, y, bend, lean, rise, limit = np.repeat(np.stack([x, y, bend, lean, rise, limit]), rows, axis=1)
    down = (row + 0.5) / SAMPLES - y
    half_tilt = lean * down
    inside = half_tilt * half_tilt - bend * (rise * (down * down) - limit)
    root = np.sqrt(np.maximum(inside, 0.0))
    enter = _first_sample(x - (half_tilt + root) / bend)
    leave = np.floor((x + (root - half_tilt) / bend) * SAMPLES + 0.5).astype(np.int64)
    leave = np.where(inside >= 0, leave, enter)
    ones = np.ones(len(owner), np.int64)
    return _Crossings(
        np.concatenate([owner, owner]),
        np.concatenate([row, row]),
        np.concatenate([enter, leave]),
        np.concatenate([ones, -ones]),
    )


def _cross_edges(edges: Floats, owner: Ints) -> _Crossings:
    x0, y0, x1, y1 = edges.T
    low, high = _first_sample(np.minimum(y0, y1)), _first_sample(np.maximum(y0, y1))
    at, place, _ = _ragged(high - low)
    row = low[at] + place
    slope = (x1[at] - x0[at]) / (y1[at] - y0[at])
    sample = _first_sample(x0[at] + ((row + 0.5) / SAMPLES - y0[at]) * slope)
    return _Crossings(owner[at], row, sample, np.where(y1[at] > y0[at], np.int64(-1), np.int64(1)))


def _count_samples(crossings: _Crossings, windows: NDArray[np.int32]) -> Ints:
    """How many samples of each window pixel lie inside, int64 [P].

    A crossing adds its sign to a part of its pixel's samples and to all of those after it in the row, so what it adds
    is written down as differences and summed along each window's rows.
    """
    box = windows.astype(np.int64)
    top, bottom = (box[:, 1::2] * SAMPLES).T
    seen = (crossings.row >= top[crossings.owner]) & (crossings.row < bottom[crossings.owner])
    owner, row, sample, sign = crossings.owner, crossings.row, crossings.sample, crossings.sign
    if not seen.all():
        owner, row, sample, sign = owner[seen], row[seen], sample[seen], sign[seen]
    left, right = (box[:, 0::2] * SAMPLES).T
    sample = np.clip(sample, left[owner], right[owner])
    column = sample // SAMPLES
    beyond = sample - column * SAMPLES
    width = box[:, 2] - box[:, 0]
    ends = np.cumsum(width * (box[:, 3] - box[:, 1]))
    corner = ends - width * box[:, 3] - box[:, 0]
    # A crossing at a window's end would fall on the next row, which it does not change: all its signs add up to 0.
    place = corner[owner] + (row // SAMPLES) * width[owner] + column
    total = int(ends[-1]) if len(ends) else 0
    changes = np.bincount(place, weights=sign * (SAMPLES - beyond), minlength=total + 2)
    changes += np.bincount(place + 1, weights=sign * beyond, minlength=total + 2)
    return np.clip(np.cumsum(changes[:total]).astype(np.int64), 0, WHOLE)
