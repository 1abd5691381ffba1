"""COCO annotations and difficulty factors of a rendered scene.

NumPy only, because the processes that write images start without PyTorch.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # comes with scikit-image

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.rendering import Rendering
from datasets.synthetic.scene import Scene
from datasets.synthetic.shapes import INSIDE, ShapeCoverage
from maskrcnn.ops.runs import encode_runs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IDS_PER_IMAGE = 65_536
_DIGITS = {"size": 3, "aspect": 3, "angle": 2, "distance": 2, "snr": 2}  # the others: 4


# ---- difficulty factors, measured on the rendered pixels

_UNIFORM_VARIANCE = 1 / 12  # added to moments by the width of a pixel, and to brightness by rounding


@dataclass(frozen=True)
class Factors:
    """Arrays of length N; object i has number i + 1.

    Attributes:
        size: square root of the area on the canvas, px.
        aspect: length : width of the ellipse with the same second moments.
        angle: angle of its major axis in degrees, [0, 180).
        visible_pixels: number of visible pixels.
        visible_fraction: visible fraction of the pixels on the canvas.
        truncation: fraction of the area beyond the canvas.
        overlap: fraction of the pixels that other shapes also cover.
        distance: distance in px from the centroid to that of the nearest other object; NaN if there is none.
        contrast: mean brightness of the visible pixels minus that of the surroundings (window grown by 2 px), over 255.
        snr: the difference from the uncovered surroundings over their standard deviation; NaN if all are covered.
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
        """Return the names of all factors."""
        return tuple(each.name for each in fields(Factors))


def measure_factors(scene: Scene, rendering: Rendering) -> Factors:
    """Measure the factors of all objects of a rendering."""
    which = np.flatnonzero(scene.numbers)
    which = which[np.argsort(scene.numbers[which])]
    coverage = rendering.coverage
    area, centroid, aspect, angle = _compute_shapes(native(reference.measure_levels)(coverage))
    image = rendering.image
    # The native function takes 8-bit RGB.
    measure = native(reference.measure_pixels) if scene.config.is_rgb else reference.measure_pixels
    sums = measure(image, rendering.labels, coverage, which)
    pixels, shared, visible = sums[:, :3].T
    contrast, snr = _compute_contrast(sums[:, 2:], scene.config.channels, 2**scene.config.bit_depth - 1)
    return Factors(
        size=np.sqrt(area[which]),
        aspect=aspect[which],
        angle=angle[which],
        visible_pixels=visible,
        visible_fraction=visible / np.maximum(pixels, 1),
        truncation=_compute_truncation(scene, coverage, area)[which],
        overlap=shared / np.maximum(pixels, 1),
        distance=_compute_nearest_distances(centroid[which], area[which] > 0),
        contrast=contrast,
        snr=snr,
    )


def _compute_truncation(scene: Scene, coverage: ShapeCoverage, area: Floats) -> Floats:
    """Compute the fraction of each shape's area beyond the canvas; rounded levels alone give no truncation."""
    x1, y1, x2, y2 = coverage.windows.T
    at_the_edge = (x1 == 0) | (y1 == 0) | (x2 == scene.width) | (y2 == scene.height)
    return np.where(at_the_edge, np.clip(1 - area / np.maximum(coverage.areas, 1e-9), 0, 1), 0.0)


def _compute_shapes(moments: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Compute area [M], centroid [M, 2], aspect [M], and angle [M] from the moments of the levels."""
    xx, yy, xy = moments[:, 3] - _UNIFORM_VARIANCE, moments[:, 4] - _UNIFORM_VARIANCE, moments[:, 5]
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    aspect = np.sqrt(np.maximum(middle + half, 0.0) / np.maximum(middle - half, _UNIFORM_VARIANCE / 10))
    angle = np.degrees(np.arctan2(2 * xy, xx - yy) / 2) % 180
    return moments[:, 0], moments[:, 1:3], np.maximum(aspect, 1.0), angle


def _compute_nearest_distances(points: Floats, present: NDArray[np.bool_]) -> Floats:
    distance = np.full(len(points), np.nan)
    if present.sum() > 1:
        distance[present] = cKDTree(points[present]).query(points[present], k=2)[0][:, 1]
    return distance


def _compute_contrast(sums: Ints, channels: int, full: int) -> tuple[Floats, Floats]:
    """Compute contrast and SNR of each object from sums int64 [N, 7].

    The columns are the number and light of visible pixels, the same for the other pixels around them, and the number,
    light, and squared light of the uncovered ones among these. Light is the sum of `channels` values of up to `full`.
    """
    visible, own, around, others, bare, uncovered, squares = sums.T.astype(np.float64)
    mean_own, mean_bare = own / np.maximum(visible, 1), uncovered / np.maximum(bare, 1)
    variance = np.maximum(squares / np.maximum(bare, 1) - mean_bare**2, 0.0)
    snr = np.abs(mean_own - mean_bare) / np.sqrt(variance + channels**2 * _UNIFORM_VARIANCE)
    snr[(bare == 0) | (visible == 0)] = np.nan
    return (mean_own - others / np.maximum(around, 1)) / (channels * full), snr


def find_full_mask_runs(coverage: ShapeCoverage, which: Ints, height: int) -> tuple[Ints, Ints, Ints]:
    """Find the runs of the full masks of some shapes, as `encode_runs` takes them.

    Returns:
        Owner in 0..K-1, start, and end of each run, int64, in column-major order of the canvas.
    """
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


# ---- annotations


def annotate(scene: Scene, rendering: Rendering, image_id: int) -> list[dict[str, Any]]:
    """Make one COCO annotation per visible object of a rendering.

    Hidden objects have none. Objects with fewer than `min_visible_pixels` visible pixels get `iscrowd` 1, because
    pycocotools overwrites `ignore`. The id of an annotation depends only on its image and object number.

    Args:
        scene: the scene.
        rendering: its rendering.
        image_id: id of the image.

    Returns:
        The annotations, with the measured `factors`.
    """
    factors, labels, size = (
        _to_rows(measure_factors(scene, rendering)),
        scene.labels.tolist(),
        list(rendering.labels.shape),
    )
    numbers, boxes, counts = native(reference.describe_labels)(rendering.labels)
    annotations: list[dict[str, Any]] = []
    for number, text, (x1, y1, x2, y2) in zip(numbers.tolist(), counts, boxes.tolist(), strict=True):
        visible = factors[number - 1]["visible_pixels"]
        annotations.append(
            {
                "id": image_id * IDS_PER_IMAGE + number,
                "image_id": image_id,
                "category_id": labels[number - 1],
                "instance": number,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": visible,
                "iscrowd": int(visible < scene.config.min_visible_pixels),
                "segmentation": {"size": size, "counts": text},
                "factors": factors[number - 1],
            }
        )
    if scene.config.whole_masks:
        for annotation, text in zip(annotations, _encode_full_masks(scene, rendering, numbers), strict=True):
            annotation["whole_segmentation"] = {"size": size, "counts": text}
    return annotations


def _to_rows(factors: Factors) -> list[dict[str, Any]]:
    """Convert factors to one dict of rounded values per object; None if not measurable."""
    names, columns = Factors.names(), []
    for name in names:
        values = getattr(factors, name)
        column = np.round(values, _DIGITS.get(name, 4)).tolist()
        columns.append([None if value != value else value for value in column] if np.isnan(values).any() else column)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _encode_full_masks(scene: Scene, rendering: Rendering, numbers: Ints) -> list[str]:
    """Encode the full masks of some objects, including hidden parts, as COCO's compressed RLE."""
    place = np.zeros(len(scene.labels) + 1, np.int64)
    place[scene.numbers] = np.arange(len(scene.numbers))
    runs = find_full_mask_runs(rendering.coverage, place[numbers], scene.height)
    return encode_runs(*runs, len(numbers), scene.width * scene.height)
