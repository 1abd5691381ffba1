"""What came of every object: the factors of difficulty, measured on the rendered pixels."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # comes with scikit-image

from datasets.synthetic.drawing import Coverage, window_pixels
from datasets.synthetic.painting import INSIDE, Rendering
from datasets.synthetic.scene import Scene

_RING = 2  # pixels around an object's window that count as its surroundings
_SPREAD = 1 / 12  # variance that a pixel's own width adds to moments, and rounding to brightness

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Factors:
    """Arrays of length N, object i has number i + 1.

    ``size`` sqrt of the area on the canvas in px; ``aspect`` length : breadth and ``angle`` of the length in degrees
    [0, 180), of the ellipse with the same second moments; ``visible_pixels``; ``visible_fraction`` of the pixels on the
    canvas; ``truncation`` share of the area that lies beyond it; ``overlap`` share of the pixels that something else
    covers, too; ``distance`` in px from its centroid to that of the nearest other object (nan: there is none);
    ``contrast`` mean brightness of the visible pixels minus that of the surroundings (its window grown by 2 px), over
    255; ``snr`` the difference from the uncovered surroundings over their standard deviation (nan: all are covered).
    """

    size: Floats
    aspect: Floats
    angle: Floats
    visible_pixels: Ints
    visible_fraction: Floats
    truncation: Floats
    overlap: Floats
    distance: Floats
    contrast: Floats
    snr: Floats

    @staticmethod
    def names() -> tuple[str, ...]:
        return tuple(each.name for each in fields(Factors))


def measure(scene: Scene, rendering: Rendering) -> Factors:
    """Measure every object of a rendering."""
    which = np.flatnonzero(scene.numbers)
    which = which[np.argsort(scene.numbers[which])]
    coverage = rendering.coverage
    owner, x, y = coverage.pixels
    count, pixel = len(coverage.windows), y * scene.width + x
    weight = coverage.data.astype(np.float64) / 255
    inside = coverage.data >= INSIDE
    area = _sum(owner, weight, count)
    pixels = np.bincount(owner[inside], minlength=count)
    covered = np.bincount(pixel[inside], minlength=scene.width * scene.height)
    shared = _sum(owner[inside], covered[pixel[inside]] > 1, count)
    centroid, aspect, angle = _shape_of(owner, x, y, weight, area)
    visible, contrast, snr = _measure_visible(scene, rendering, which, pixel[coverage.data > 0])
    return Factors(
        size=np.sqrt(area[which]),
        aspect=aspect[which],
        angle=angle[which],
        visible_pixels=visible,
        visible_fraction=visible / np.maximum(pixels[which], 1),
        truncation=_truncation(scene, coverage, area)[which],
        overlap=shared[which] / np.maximum(pixels[which], 1),
        distance=_nearest(centroid[which], area[which] > 0),
        contrast=contrast,
        snr=snr,
    )


def _truncation(scene: Scene, coverage: Coverage, area: Floats) -> Floats:
    """The share of each thing's area that lies beyond the canvas; rounded levels make no truncation of their own."""
    x1, y1, x2, y2 = coverage.windows.T
    at_the_edge = (x1 == 0) | (y1 == 0) | (x2 == scene.width) | (y2 == scene.height)
    return np.where(at_the_edge, np.clip(1 - area / np.maximum(coverage.areas, 1e-9), 0, 1), 0.0)


def _shape_of(owner: Ints, column: Ints, row: Ints, weight: Floats, area: Floats) -> tuple[Floats, Floats, Floats]:
    """Centroid [M, 2], aspect [M] and angle [M] by the levels' moments."""

    def mean(values: Floats) -> Floats:
        return _sum(owner, values * weight, len(area)) / np.maximum(area, 1e-9)

    x, y = column.astype(np.float64) + 0.5, row.astype(np.float64) + 0.5
    centroid = np.stack([mean(x), mean(y)], axis=1)
    dx, dy = x - centroid[owner, 0], y - centroid[owner, 1]
    xx, yy, xy = mean(dx * dx) - _SPREAD, mean(dy * dy) - _SPREAD, mean(dx * dy)
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    aspect = np.sqrt(np.maximum(middle + half, 0.0) / np.maximum(middle - half, _SPREAD / 10))
    return centroid, np.maximum(aspect, 1.0), np.degrees(np.arctan2(2 * xy, xx - yy) / 2) % 180


def _nearest(points: Floats, present: NDArray[np.bool_]) -> Floats:
    distance = np.full(len(points), np.nan)
    if present.sum() > 1:
        distance[present] = cKDTree(points[present]).query(points[present], k=2)[0][:, 1]
    return distance


def _measure_visible(scene: Scene, rendering: Rendering, which: Ints, touched: Ints) -> tuple[Ints, Floats, Floats]:
    """Visible pixels, contrast and signal to noise of each object, from its window and the ring around it."""
    height, width = rendering.labels.shape
    red, green, blue = (rendering.image[:, :, channel].astype(np.uint16) for channel in range(3))
    brightness = (red + green + blue).ravel()
    bare = np.ones(height * width, bool)
    bare[touched] = False
    grown = rendering.coverage.windows[which] + np.array([-_RING, -_RING, _RING, _RING], np.int32)
    grown = np.clip(grown, 0, np.array([width, height, width, height], np.int32))
    owner, x, y, offsets = window_pixels(grown)
    pixel, count = y * width + x, len(grown)
    light, own, is_bare = (
        brightness[pixel].astype(np.float64),
        rendering.labels.ravel()[pixel] == owner + 1,
        bare[pixel],
    )
    visible, own_sum, _ = _sums(owner[own], light[own], count)
    bare_pixels, bare_sum, bare_squares = _sums(owner[is_bare], light[is_bare], count)
    around = np.diff(offsets) - visible
    mean_own, mean_bare = own_sum / np.maximum(visible, 1), bare_sum / np.maximum(bare_pixels, 1)
    mean_around = (_sum(owner, light, count) - own_sum) / np.maximum(around, 1)
    variance = np.maximum(bare_squares / np.maximum(bare_pixels, 1) - mean_bare**2, 0.0)
    snr = np.abs(mean_own - mean_bare) / np.sqrt(variance + 9 * _SPREAD)
    snr[(bare_pixels == 0) | (visible == 0)] = np.nan
    return visible, (mean_own - mean_around) / (3 * 255), snr


def _sums(owner: Ints, light: Floats, count: int) -> tuple[Ints, Floats, Floats]:
    """Number, sum and sum of squares of the pixels of each of ``count`` owners."""
    return np.bincount(owner, minlength=count), _sum(owner, light, count), _sum(owner, light * light, count)


def _sum(owner: Ints, values: NDArray[Any], count: int) -> Floats:
    """Sums of the values of each of ``count`` owners, float64 [count]."""
    return np.bincount(owner, weights=values, minlength=count).astype(np.float64, copy=False)


def whole_runs(coverage: Coverage, which: Ints, height: int) -> tuple[Ints, Ints, Ints]:
    """Runs of the whole masks of some things, as ``encode_runs`` takes them: owner in 0..K-1, start and end, the canvas
    read down its columns."""
    place = np.full(len(coverage.windows), -1, np.int64)
    place[which] = np.arange(len(which))
    owner, x, y = coverage.pixels
    inside = (coverage.data >= INSIDE) & (place[owner] >= 0)
    owner, position = place[owner[inside]], x[inside] * height + y[inside]
    order = np.lexsort((position, owner))
    owner, position = owner[order], position[order]
    starts = np.append(True, (owner[1:] != owner[:-1]) | (position[1:] != position[:-1] + 1))[: len(owner)]
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(owner)) - 1
    return owner[first], position[first], position[last] + 1
