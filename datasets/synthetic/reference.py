"""NumPy reference of the generator's kernels (csrc/scenes), also used if they are not built.

Floats are computed with IEEE's correctly rounded operations only, one NumPy call each, so no compiler may fuse them;
sums of floats are in the order of the pixels. So results are bit-identical.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects  # comes with scikit-image

from datasets.synthetic.shapes import INSIDE, Floats, Ints, ShapeCoverage, Shapes, expand_ragged, window_pixels
from maskrcnn.ops.runs import encode_runs

SAMPLES = 16  # per side of a pixel
SAMPLES_PER_PIXEL = SAMPLES * SAMPLES
RING = 2  # pixels around an object's window that count as its surroundings
_CHUNK_ROWS = 6500  # rows of samples processed at a time, so that arrays stay in the cache and memory is bounded


def fill_windows(shapes: Shapes, half_heights: Floats, windows: NDArray[np.int32]) -> tuple[NDArray[np.uint8], Floats]:
    """Compute the levels of N shapes in their windows, and their areas.

    Each row of samples crosses the outline at a few points; the samples between them are counted, not visited.

    Args:
        shapes: N shapes.
        half_heights: float64 [N], maximum distance of a row from the center of an ellipse.
        windows: int32 [N, 4].

    Returns:
        Levels uint8 [P], row-major, one window after the other, and areas float64 [N] in px, including parts outside.
    """
    group = np.cumsum(half_heights * 2 * SAMPLES) // _CHUNK_ROWS
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(shapes)).tolist()
    levels, areas = [], []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        part, heights = shapes.take(np.arange(start, end)), half_heights[start:end]
        crossings = _Crossings.cat([_cross_ellipses(part, heights), _cross_edges(*part.edges())])
        weights = -crossings.sign * crossings.sample
        areas.append(np.bincount(crossings.owner, weights=weights, minlength=len(part)) / SAMPLES_PER_PIXEL)
        counts = _count_samples(crossings, windows[start:end])
        levels.append(((counts * 255 + SAMPLES_PER_PIXEL // 2) // SAMPLES_PER_PIXEL).astype(np.uint8))
    return np.concatenate(levels), np.concatenate(areas)


def paint(
    canvas: NDArray[Any],
    labels: NDArray[np.uint16],
    coverage: ShapeCoverage,
    colors: NDArray[Any],
    numbers: NDArray[np.uint16],
) -> None:
    """Blend M shapes by coverage, in order and in place; a pixel belongs to the last shape with a level of INSIDE.

    Args:
        canvas: [H, W, 3], uint16 values of at most 255, or uint32 values of at most 255 × 256.
        labels: uint16 [H, W], set to the number of the owner.
        coverage: M shapes.
        colors: [M, 3], values like `canvas`.
        numbers: uint16 [M].
    """
    exact = canvas.dtype.type
    owner, x, y = coverage.pixels
    weight = coverage.data.astype(exact)[:, None]
    added, left = weight * colors[owner] + exact(127), 255 - weight
    for index, (x1, y1, x2, y2) in enumerate(coverage.windows.tolist()):
        under, pixels = canvas[y1:y2, x1:x2], slice(coverage.offsets[index], coverage.offsets[index + 1])
        under[:] = (under * left[pixels].reshape(y2 - y1, x2 - x1, 1) + added[pixels].reshape(under.shape)) // 255
    inside = coverage.data >= INSIDE
    labels[y[inside], x[inside]] = numbers[owner[inside]]  # the last assignment to a pixel wins


def measure_levels(coverage: ShapeCoverage) -> Floats:
    """Compute area in px, mean x, mean y, and the central second moments xx, yy, xy, by levels, float64 [M, 6]."""
    owner, column, row = coverage.pixels
    weight = coverage.data.astype(np.float64) / 255
    area = sum_by_owner(owner, weight, len(coverage.windows))

    def mean(values: Floats) -> Floats:
        return sum_by_owner(owner, values * weight, len(area)) / np.maximum(area, 1e-9)

    x, y = column.astype(np.float64) + 0.5, row.astype(np.float64) + 0.5
    mean_x, mean_y = mean(x), mean(y)
    dx, dy = x - mean_x[owner], y - mean_y[owner]
    return np.stack([area, mean_x, mean_y, mean(dx * dx), mean(dy * dy), mean(dx * dy)], axis=1)


def measure_pixels(image: NDArray[Any], labels: NDArray[np.uint16], coverage: ShapeCoverage, which: Ints) -> Ints:
    """Compute sums over the pixels of N objects and their surroundings, int64 [N, 9]; object k is shape `which[k]`.

    The columns are: its pixels; those that other shapes also cover; in its window expanded by RING, its visible pixels
    and their light (the sum of the channels), all other pixels and their light, and the uncovered pixels, their light,
    and its squares. The number of object k is k + 1.
    """
    height, width = labels.shape
    owner, x, y = coverage.pixels
    inside, pixel, count = coverage.data >= INSIDE, y * width + x, len(coverage.windows)
    pixels = np.bincount(owner[inside], minlength=count)
    covered = np.bincount(pixel[inside], minlength=width * height)
    shared = sum_by_owner(owner[inside], covered[pixel[inside]] > 1, count)
    uncovered_pixels = np.ones(height * width, bool)
    uncovered_pixels[pixel[coverage.data > 0]] = False
    expanded = coverage.windows[which] + np.array([-RING, -RING, RING, RING], np.int32)
    owner, x, y, offsets = window_pixels(np.clip(expanded, 0, np.array([width, height, width, height], np.int32)))
    pixel, light = y * width + x, image.sum(axis=2, dtype=np.int64).ravel()
    own, is_bare, light = labels.ravel()[pixel] == owner + 1, uncovered_pixels[pixel], light[pixel]
    visible, own_light, _ = _sum_light(owner[own], light[own], len(which))
    around, around_light = np.diff(offsets) - visible, sum_by_owner(owner, light, len(which)) - own_light
    columns = (pixels[which], shared[which], visible, own_light, around, around_light)
    return np.stack([*columns, *_sum_light(owner[is_bare], light[is_bare], len(which))], axis=1).astype(np.int64)


def _sum_light(owner: Ints, light: Ints, count: int) -> tuple[Ints, Floats, Floats]:
    """Sum number, light, and squared light of the pixels of each of `count` owners."""
    return (
        np.bincount(owner, minlength=count),
        sum_by_owner(owner, light, count),
        sum_by_owner(owner, light * light, count),
    )


def describe_labels(labels: NDArray[np.uint16]) -> tuple[Ints, Ints, list[str]]:
    """Describe the objects of a label image [H, W].

    Returns:
        Their numbers in ascending order, int64 [N], tight boxes int64 [N, 4] (x1, y1, x2, y2, exclusive end), and N
        strings of COCO's compressed RLE.
    """
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


def sum_by_owner(owner: Ints, values: NDArray[Any], count: int) -> Floats:
    """Sum the values of each of `count` owners, float64 [count]."""
    return np.bincount(owner, weights=values, minlength=count).astype(np.float64, copy=False)


@dataclass(frozen=True)
class _Crossings:
    """Crossings of rows of samples with outlines, int64 [C] each.

    Attributes:
        owner: shape.
        row: row, in samples.
        sample: first sample to the right, in samples.
        sign: increment of the winding number from this sample on.
    """

    owner: Ints
    row: Ints
    sample: Ints
    sign: Ints

    @staticmethod
    def cat(parts: "list[_Crossings]") -> "_Crossings":
        names = ("owner", "row", "sample", "sign")
        return _Crossings(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _find_first_sample(position: Floats) -> Ints:
    """Return the first sample at or after a position in pixels; samples are at (k + 0.5) / SAMPLES."""
    return np.ceil(position * SAMPLES - 0.5).astype(np.int64)


def _cross_ellipses(shapes: Shapes, half_heights: Floats) -> _Crossings:
    """Solve (u / a)^2 + (v / b)^2 <= 1 for each row of samples, a quadratic in x: bend x^2 + tilt x + level <= 0."""
    which = np.flatnonzero([each is None for each in shapes.outlines]) if shapes.outlines else np.arange(len(shapes))
    x, y = shapes.centers[which].T
    extent = half_heights[which]
    cosine, sine = shapes.directions[which].T
    along, across = shapes.semi_axes[which].T
    bend = (cosine * across) ** 2 + (sine * along) ** 2
    lean = cosine * sine * (across * across - along * along)
    rise = (sine * across) ** 2 + (cosine * along) ** 2
    limit = (along * across) ** 2
    first = _find_first_sample(y - extent) - 1
    rows = _find_first_sample(y + extent) + 1 - first
    owner, row = np.repeat(which, rows), np.repeat(first, rows) + expand_ragged(rows)[1]
    x, y, bend, lean, rise, limit = np.repeat(np.stack([x, y, bend, lean, rise, limit]), rows, axis=1)
    down = (row + 0.5) / SAMPLES - y
    half_tilt = lean * down
    inside = half_tilt * half_tilt - bend * (rise * (down * down) - limit)
    root = np.sqrt(np.maximum(inside, 0.0))
    enter = _find_first_sample(x - (half_tilt + root) / bend)
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
    low, high = _find_first_sample(np.minimum(y0, y1)), _find_first_sample(np.maximum(y0, y1))
    at, place, _ = expand_ragged(high - low)
    row = low[at] + place
    slope = (x1[at] - x0[at]) / (y1[at] - y0[at])
    sample = _find_first_sample(x0[at] + ((row + 0.5) / SAMPLES - y0[at]) * slope)
    return _Crossings(owner[at], row, sample, np.where(y1[at] > y0[at], np.int64(-1), np.int64(1)))


def _count_samples(crossings: _Crossings, windows: NDArray[np.int32]) -> Ints:
    """Count the samples of each window pixel that are inside, int64 [P].

    A crossing adds its sign to some samples of its pixel and to all following samples of the row; these increments are
    stored as differences and accumulated along the rows of the window.
    """
    box = windows.astype(np.int64)
    top, bottom = (box[:, 1::2] * SAMPLES).T
    visible = (crossings.row >= top[crossings.owner]) & (crossings.row < bottom[crossings.owner])
    owner, row, sample, sign = crossings.owner, crossings.row, crossings.sample, crossings.sign
    if not visible.all():
        owner, row, sample, sign = owner[visible], row[visible], sample[visible], sign[visible]
    left, right = (box[:, 0::2] * SAMPLES).T
    sample = np.clip(sample, left[owner], right[owner])
    column = sample // SAMPLES
    beyond = sample - column * SAMPLES
    width = box[:, 2] - box[:, 0]
    ends = np.cumsum(width * (box[:, 3] - box[:, 1]))
    corner = ends - width * box[:, 3] - box[:, 0]
    # Crossings at the end of a row carry over to the next row without changing it, as all signs of a row sum to 0.
    place = corner[owner] + (row // SAMPLES) * width[owner] + column
    sum_by_owner = int(ends[-1]) if len(ends) else 0
    changes = np.bincount(place, weights=sign * (SAMPLES - beyond), minlength=sum_by_owner + 2)
    changes += np.bincount(place + 1, weights=sign * beyond, minlength=sum_by_owner + 2)
    return np.clip(np.cumsum(changes[:sum_by_owner]).astype(np.int64), 0, SAMPLES_PER_PIXEL)
