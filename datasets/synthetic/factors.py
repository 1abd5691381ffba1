"""What came of every object: the factors of difficulty, measured on the rendered pixels."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # comes with scikit-image

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.coverage import INSIDE, Coverage
from datasets.synthetic.painting import Rendering
from datasets.synthetic.scene import Scene

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
    area, centroid, aspect, angle = _shape_of(native(reference.measure_levels)(coverage))
    sums = native(reference.measure_pixels)(rendering.image, rendering.labels, coverage, which)
    pixels, shared, visible = sums[:, :3].T
    contrast, snr = _contrast(sums[:, 2:])
    return Factors(
        size=np.sqrt(area[which]),
        aspect=aspect[which],
        angle=angle[which],
        visible_pixels=visible,
        visible_fraction=visible / np.maximum(pixels, 1),
        truncation=_truncation(scene, coverage, area)[which],
        overlap=shared / np.maximum(pixels, 1),
        distance=_nearest(centroid[which], area[which] > 0),
        contrast=contrast,
        snr=snr,
    )


def _truncation(scene: Scene, coverage: Coverage, area: Floats) -> Floats:
    """The share of each thing's area that lies beyond the canvas; rounded levels make no truncation of their own."""
    x1, y1, x2, y2 = coverage.windows.T
    at_the_edge = (x1 == 0) | (y1 == 0) | (x2 == scene.width) | (y2 == scene.height)
    return np.where(at_the_edge, np.clip(1 - area / np.maximum(coverage.areas, 1e-9), 0, 1), 0.0)


def _shape_of(moments: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Area [M], centroid [M, 2], aspect [M] and angle [M] by the levels' moments."""
    xx, yy, xy = moments[:, 3] - _SPREAD, moments[:, 4] - _SPREAD, moments[:, 5]
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    aspect = np.sqrt(np.maximum(middle + half, 0.0) / np.maximum(middle - half, _SPREAD / 10))
    angle = np.degrees(np.arctan2(2 * xy, xx - yy) / 2) % 180
    return moments[:, 0], moments[:, 1:3], np.maximum(aspect, 1.0), angle


def _nearest(points: Floats, present: NDArray[np.bool_]) -> Floats:
    distance = np.full(len(points), np.nan)
    if present.sum() > 1:
        distance[present] = cKDTree(points[present]).query(points[present], k=2)[0][:, 1]
    return distance


def _contrast(sums: Ints) -> tuple[Floats, Floats]:
    """Contrast and signal to noise of each object, by number and light of its visible pixels, of those around and of
    the uncovered ones of these, with the squares of their light, int64 [N, 7]."""
    visible, own, around, others, bare, uncovered, squares = sums.T.astype(np.float64)
    mean_own, mean_bare = own / np.maximum(visible, 1), uncovered / np.maximum(bare, 1)
    variance = np.maximum(squares / np.maximum(bare, 1) - mean_bare**2, 0.0)
    snr = np.abs(mean_own - mean_bare) / np.sqrt(variance + 9 * _SPREAD)
    snr[(bare == 0) | (visible == 0)] = np.nan
    return (mean_own - others / np.maximum(around, 1)) / (3 * 255), snr


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
