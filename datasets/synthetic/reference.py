"""The kernels of the generator in NumPy: they define what csrc/scenes computes, and serve where that is not built.

Only IEEE's exactly rounded operations touch floats, one NumPy call each, so no compiler may fuse them, and sums of
floats are taken in the order of the pixels: results are equal to the last bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects  # comes with scikit-image

from datasets.synthetic.coverage import INSIDE, Coverage, Floats, Ints, ragged, window_pixels
from datasets.synthetic.shapes import Shapes
from maskrcnn.ops.runs import encode_runs

SAMPLES = 16  # along a side of a pixel
WHOLE = SAMPLES * SAMPLES
RING = 2  # pixels around an object's window that count as its surroundings
_ROWS = 6500  # of samples that are drawn at once: arrays that stay in the cache, and memory that does not grow


def fill_windows(shapes: Shapes, half_heights: Floats, windows: NDArray[np.int32]) -> tuple[NDArray[np.uint8], Floats]:
    """Levels uint8 [P] of N shapes in their windows, row-major, one after the other, and areas float64 [N] in px with
    what lies beyond the windows.

    Every row of samples is crossed by the outline at a few places; what lies between them is counted, not looked at.
    ``half_heights`` float64 [N]: beyond them about the centre is no row of an ellipse.
    """
    group = np.cumsum(half_heights * 2 * SAMPLES) // _ROWS
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(shapes)).tolist()
    levels, areas = [], []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        part, heights = shapes.take(np.arange(start, end)), half_heights[start:end]
        crossings = _Crossings.cat([_cross_ellipses(part, heights), _cross_edges(*part.edges())])
        weights = -crossings.sign * crossings.sample
        areas.append(np.bincount(crossings.owner, weights=weights, minlength=len(part)) / WHOLE)
        counts = _count_samples(crossings, windows[start:end])
        levels.append(((counts * 255 + WHOLE // 2) // WHOLE).astype(np.uint8))
    return np.concatenate(levels), np.concatenate(areas)


def paint(
    canvas: NDArray[Any],
    labels: NDArray[np.uint16],
    coverage: Coverage,
    colours: NDArray[Any],
    numbers: NDArray[np.uint16],
) -> None:
    """Blend M things by coverage in their order, in place; the last with a level of INSIDE owns a pixel.

    ``canvas`` [H, W, 3] and ``colours`` [M, 3]: uint16 values of at most 255, or uint32 of at most 255 x 256.
    ``labels`` [H, W] gets the owner's of ``numbers`` [M].
    """
    exact = canvas.dtype.type
    owner, x, y = coverage.pixels
    weight = coverage.data.astype(exact)[:, None]
    added, left = weight * colours[owner] + exact(127), 255 - weight
    for index, (x1, y1, x2, y2) in enumerate(coverage.windows.tolist()):
        under, pixels = canvas[y1:y2, x1:x2], slice(coverage.offsets[index], coverage.offsets[index + 1])
        under[:] = (under * left[pixels].reshape(y2 - y1, x2 - x1, 1) + added[pixels].reshape(under.shape)) // 255
    inside = coverage.data >= INSIDE
    labels[y[inside], x[inside]] = numbers[owner[inside]]  # of several at one pixel the last stays


def measure_levels(coverage: Coverage) -> Floats:
    """Area in px, mean x, mean y and the second moments xx, yy, xy about them, all by levels, float64 [M, 6]."""
    owner, column, row = coverage.pixels
    weight = coverage.data.astype(np.float64) / 255
    area = total(owner, weight, len(coverage.windows))

    def mean(values: Floats) -> Floats:
        return total(owner, values * weight, len(area)) / np.maximum(area, 1e-9)

    x, y = column.astype(np.float64) + 0.5, row.astype(np.float64) + 0.5
    mean_x, mean_y = mean(x), mean(y)
    dx, dy = x - mean_x[owner], y - mean_y[owner]
    return np.stack([area, mean_x, mean_y, mean(dx * dx), mean(dy * dy), mean(dx * dy)], axis=1)


def measure_pixels(image: NDArray[np.uint8], labels: NDArray[np.uint16], coverage: Coverage, which: Ints) -> Ints:
    """Sums over the pixels of N objects and around them, int64 [N, 9]; object k is thing ``which[k]``, number k + 1.

    Its pixels, those of them that another thing covers too; in its window grown by RING: its visible pixels and their
    light (red + green + blue), all others and their light, those that nothing touches, their light and its squares.
    """
    height, width = labels.shape
    owner, x, y = coverage.pixels
    inside, pixel, count = coverage.data >= INSIDE, y * width + x, len(coverage.windows)
    pixels = np.bincount(owner[inside], minlength=count)
    covered = np.bincount(pixel[inside], minlength=width * height)
    shared = total(owner[inside], covered[pixel[inside]] > 1, count)
    bare = np.ones(height * width, bool)
    bare[pixel[coverage.data > 0]] = False
    grown = coverage.windows[which] + np.array([-RING, -RING, RING, RING], np.int32)
    owner, x, y, offsets = window_pixels(np.clip(grown, 0, np.array([width, height, width, height], np.int32)))
    pixel, light = y * width + x, image.sum(axis=2, dtype=np.int64).ravel()
    own, is_bare, light = labels.ravel()[pixel] == owner + 1, bare[pixel], light[pixel]
    visible, own_light, _ = _light(owner[own], light[own], len(which))
    around, around_light = np.diff(offsets) - visible, total(owner, light, len(which)) - own_light
    columns = (pixels[which], shared[which], visible, own_light, around, around_light)
    return np.stack([*columns, *_light(owner[is_bare], light[is_bare], len(which))], axis=1).astype(np.int64)


def _light(owner: Ints, light: Ints, count: int) -> tuple[Ints, Floats, Floats]:
    """Number, light and squared light of the pixels of each of ``count`` owners."""
    return np.bincount(owner, minlength=count), total(owner, light, count), total(owner, light * light, count)


def describe_labels(labels: NDArray[np.uint16]) -> tuple[Ints, Ints, list[str]]:
    """The numbers in a label image [H, W], rising, int64 [N], their tight boxes int64 [N, 4] (x1, y1, x2, y2, exclusive
    end) and N strings of COCO's compressed run-length code."""
    flat = labels.T.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    start, end = edges[:-1], edges[1:]
    of_object = flat[start] > 0
    start, end = start[of_object], end[of_object]
    numbers, owner = np.unique(flat[start], return_inverse=True)
    found = find_objects(labels.astype(np.int32))
    slices = [found[number - 1] for number in numbers.tolist()]
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    counts = encode_runs(owner, start, end, len(numbers), flat.size)
    return numbers.astype(np.int64), np.array(boxes, np.int64).reshape(-1, 4), counts


def total(owner: Ints, values: NDArray[Any], count: int) -> Floats:
    """Sums of the values of each of ``count`` owners, float64 [count]."""
    return np.bincount(owner, weights=values, minlength=count).astype(np.float64, copy=False)


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


def _cross_ellipses(shapes: Shapes, half_heights: Floats) -> _Crossings:
    """In a row of samples, (u / a)^2 + (v / b)^2 <= 1 is a quadratic in x: bend x^2 + tilt x + level <= 0."""
    which = np.flatnonzero([each is None for each in shapes.outlines]) if shapes.outlines else np.arange(len(shapes))
    x, y = shapes.centres[which].T
    extent = half_heights[which]
    cosine, sine = shapes.directions[which].T
    along, across = shapes.semi_axes[which].T
    bend = (cosine * across) ** 2 + (sine * along) ** 2
    lean = cosine * sine * (across * across - along * along)
    rise = (sine * across) ** 2 + (cosine * along) ** 2
    limit = (along * across) ** 2
    first = _first_sample(y - extent) - 1
    rows = _first_sample(y + extent) + 1 - first
    owner, row = np.repeat(which, rows), np.repeat(first, rows) + ragged(rows)[1]
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
    at, place, _ = ragged(high - low)
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
