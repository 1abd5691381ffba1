"""AP of resampled images: detections are matched once, and sums of sorted matches are re-weighted.

A replicate of the bootstrap gives each image a weight, how often it was drawn. With the detections in descending order
of score, precision and recall at a rank are sums of weights up to that rank. As AP takes the best precision at each
recall or above, only the ranks at the end of a run of true positives matter: between two of them the detections of an
image are one number. The sums over images are then one product of matrices for all replicates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.coco import RECALL_THRESHOLDS
from maskrcnn.evaluation.matching import match_overlaps
from maskrcnn.evaluation.overlaps import Overlaps

_RECALLS = np.asarray(RECALL_THRESHOLDS)
_CHUNK_SIZE = 250  # replicates at a time, which bounds the memory
MAX_BLOCKS = 2048  # ranks of a class at which precision is computed; with more, neighbors are joined


def draw_image_weights(num_images: int, num_replicates: int = 1000, seed: int = 0) -> NDArray[np.float32]:
    """Draw the images of each replicate with replacement; return how often each was drawn, `[R, I]`."""
    draws = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), num_replicates)
    return draws.astype(np.float32)


def resample_average_precision(
    overlaps: Overlaps,
    weights: NDArray[np.float32],
    ious: tuple[float, ...],
    area_range: tuple[float, float] | None = None,
    max_blocks: int = MAX_BLOCKS,
) -> NDArray[np.float64]:
    """Compute AP, mean over IoU thresholds and classes with objects, for each replicate.

    Exact where a class has at most `max_blocks` runs of true positives, else slightly too low, which hardly changes a
    variance.

    Args:
        overlaps: overlapping pairs.
        weights: float32 `[R, I]`, weights of the images by replicate; ones give the AP of the data.
        ious: IoU thresholds.
        area_range: see `match_overlaps`.
        max_blocks: maximum number of ranks.

    Returns:
        float64 `[R]`, NaN for replicates without objects.
    """
    num_images, num_classes = len(overlaps.image_ids), len(overlaps.class_names)
    totals, counts = np.zeros(len(weights)), np.zeros(len(weights))
    for iou in ious:
        matches = match_overlaps(overlaps, iou, area_range)
        kept, counted = ~matches.ignored, ~matches.object_ignored
        image, label, positive = overlaps.image[kept], overlaps.label[kept], matches.true_positive[kept]
        for k in range(1, num_classes + 1):
            owners = overlaps.object_image[counted & (overlaps.object_label == k)]
            if not len(owners):
                continue
            objects = np.bincount(owners, minlength=num_images)
            own = label == k if num_classes > 1 else slice(None)
            values = resample_curve(positive[own], image[own], objects, weights, max_blocks)
            known = ~np.isnan(values)
            totals[known] += values[known]
            counts += known
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def resample_curve(
    positive: NDArray[np.bool_],
    image: NDArray[np.int64],
    objects: NDArray[np.int64],
    weights: NDArray[np.float32],
    max_blocks: int = MAX_BLOCKS,
) -> NDArray[np.float64]:
    """Compute AP of one class at one IoU threshold for each replicate.

    Args:
        positive: bool `[D]`, true positives among the detections in descending order of score.
        image: int64 `[D]`, index of the image of each detection.
        objects: int64 `[I]`, number of objects of each image.
        weights: float32 `[R, I]`.
        max_blocks: see `resample_average_precision`.

    Returns:
        float64 `[R]`, NaN for replicates without objects.
    """
    block, num_blocks = _assign_blocks(positive, max_blocks)
    place = image[: len(block)] * num_blocks + block
    size, shape = len(objects) * num_blocks, (len(objects), num_blocks)
    detections = np.bincount(place, minlength=size).reshape(shape).astype(np.float32)
    hits = np.bincount(place[positive[: len(block)]], minlength=size).reshape(shape).astype(np.float32)
    parts = np.array_split(weights, max(1, -(-len(weights) // _CHUNK_SIZE)))
    # float32 holds these whole numbers exactly.
    return np.concatenate([_integrate(part @ hits, part @ detections, part @ objects) for part in parts])


def _assign_blocks(positive: NDArray[np.bool_], max_blocks: int) -> tuple[NDArray[np.int64], int]:
    """Assign detections up to the last true positive to blocks, each of which ends with a run of true positives."""
    last = np.append(positive[:-1] & ~positive[1:], positive[-1:])
    ends = np.flatnonzero(last)
    if len(ends) > max_blocks:
        # Of neighbors, the one with the best precision is kept, because AP takes the best of them.
        precision = np.cumsum(positive)[ends] / (ends + 1)
        groups = np.array_split(np.arange(len(ends)), max_blocks)
        ends = ends[[group[precision[group].argmax()] for group in groups[:-1]] + [-1]]
    stop = int(ends[-1]) + 1 if len(ends) else 0
    starts = np.zeros(stop, np.int64)
    starts[ends[:-1] + 1] = 1
    return np.cumsum(starts), max(len(ends), 1)


def _integrate(
    hits: NDArray[np.float32], detections: NDArray[np.float32], objects: NDArray[Any]
) -> NDArray[np.float64]:
    """Compute AP from the hits and detections of each block, `[R, B]`, and the number of objects `[R]`."""
    hits = np.cumsum(hits, axis=1)
    precision = hits / np.maximum(np.cumsum(detections, axis=1, dtype=np.float64), 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.append(envelope, np.zeros((len(hits), 1)), axis=1)
    values = np.full(len(hits), np.nan)
    for number in np.flatnonzero(objects > 0):
        recall = hits[number] / np.float64(objects[number])
        values[number] = padded[number][np.searchsorted(recall, _RECALLS)].mean()
    return values
