"""Metrics of cell biology: the mean precision of the 2018 Data Science Bowl and the counting error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import IOU_THRESHOLDS
from maskrcnn.structures.edges import MIN_VISIBLE_FRACTION
from maskrcnn.structures.instances import Instances


@dataclass(frozen=True)
class CountError:
    """Number of detections minus number of objects, mean over images.

    Attributes:
        absolute: mean of absolute differences.
        signed: mean of signed differences; negative if too few objects are detected.
    """

    absolute: float
    signed: float


def compute_dsb_mean_precision(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    score_threshold: float = 0.5,
    min_visible_fraction: float = MIN_VISIBLE_FRACTION,
) -> float | None:
    """Compute the mean over images and IoU .5:.05:.95 of TP / (TP + FP + FN) of label images (Caicedo et al. 2019).

    An image with neither objects nor detections counts as 1. Ignored objects are neither true positives nor false
    negatives, and a detection of which at least half is on ignored objects is not a false positive.

    Args:
        targets: ground truth by image id.
        predictions: predictions by image id; images without predictions may be missing.
        score_threshold: minimum score of the detections, which are painted in descending order of score.
        min_visible_fraction: minimum fraction of a detection that is visible in the label image; others are dropped.

    Returns:
        The mean precision in [0, 1]; None without images.

    Raises:
        UserError: If objects have no masks.
    """
    precisions = [
        compute_image_mean_precision(target, predictions.get(image_id), score_threshold, min_visible_fraction)
        for image_id, target in targets.items()
    ]
    return float(np.mean(precisions)) if precisions else None


def compute_count_error(
    targets: Mapping[int, Instances], predictions: Mapping[int, Instances], score_threshold: float = 0.5
) -> CountError | None:
    """Compute the error of the number of detections at a score threshold; ignored objects are not counted.

    Returns:
        The error; None without images.
    """
    errors = []
    for image_id, target in targets.items():
        detected = _num_detections(predictions.get(image_id), score_threshold)
        errors.append(detected - int((~target.ignore).sum()))
    if not errors:
        return None
    return CountError(absolute=float(np.mean(np.abs(errors))), signed=float(np.mean(errors)))


def compute_image_mean_precision(
    target: Instances,
    prediction: Instances | None,
    score_threshold: float = 0.5,
    min_visible_fraction: float = MIN_VISIBLE_FRACTION,
) -> float:
    """Compute the mean precision of one image, in [0, 1]; see `compute_dsb_mean_precision`."""
    predicted = Instances.empty(target.size, with_masks=True)
    if prediction is not None:
        predicted = _select_by_score(prediction, score_threshold)
    target = target.ignore_empty_masks()
    target = target[torch.argsort(target.ignore.int(), stable=True)]  # objects that are not ignored are on top
    target_labels, painted = _paint(target, 0.0)
    predicted_labels, _ = _paint(predicted, min_visible_fraction)
    ignored = np.concatenate([[False], target.ignore.cpu().numpy()[painted]])
    return _mean_precision(target_labels, predicted_labels, ignored)


def _mean_precision(
    target_labels: NDArray[np.int64], predicted_labels: NDArray[np.int64], ignored: NDArray[np.bool_]
) -> float:
    """Compute the mean precision of two label images `[H, W]` (0 is background); `ignored[label]` marks objects."""
    target_ids, target_areas = _areas(target_labels)
    predicted_ids, predicted_areas = _areas(predicted_labels)
    rows, columns, overlaps = _overlaps(target_labels, predicted_labels)
    row_index, column_index = np.searchsorted(target_ids, rows), np.searchsorted(predicted_ids, columns)
    ious = overlaps / (target_areas[row_index] + predicted_areas[column_index] - overlaps)
    counted_pair = ~ignored[rows]
    on_ignored = np.bincount(column_index, overlaps * ~counted_pair, minlength=len(predicted_ids))
    is_ignored = on_ignored >= 0.5 * predicted_areas
    num_targets = int((~ignored[target_ids]).sum())
    precisions = []
    for threshold in IOU_THRESHOLDS:
        matched = counted_pair & (ious > threshold)  # regions are disjoint, so above .5 each has at most one partner
        is_matched = np.zeros(len(predicted_ids), dtype=bool)
        is_matched[column_index[matched]] = True
        true_positives, false_positives = int(matched.sum()), int((~is_matched & ~is_ignored).sum())
        union = num_targets + false_positives
        precisions.append(true_positives / union if union else 1.0)
    return float(np.mean(precisions))


def _areas(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels in the image (ascending, without 0) and their areas in pixels."""
    areas = np.bincount(labels.ravel())
    ids = np.flatnonzero(areas[1:]) + 1
    return ids, areas[ids]


def _overlaps(
    a: NDArray[np.int64], b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the overlapping pairs of labels and the number of pixels they share."""
    both = (a > 0) & (b > 0)
    width = int(b.max(initial=0)) + 1
    pairs, counts = np.unique(a[both] * width + b[both], return_counts=True)
    return pairs // width, pairs % width, counts


def _paint(instances: Instances, min_visible_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the label image `[H, W]` with the first mask on top, and bool `[N]`: which masks were painted."""
    if instances.masks is None:
        if len(instances):
            raise UserError(
                "the mean precision of the Data Science Bowl requires masks, but these instances have boxes only"
            )
        return np.zeros(instances.size, dtype=np.int64), np.zeros(0, dtype=bool)
    labels, painted = instances.masks.to_label_image(min_visible_fraction)
    return labels.cpu().numpy().astype(np.int64), painted.cpu().numpy()


def _select_by_score(prediction: Instances, score_threshold: float) -> Instances:
    """Return the detections with at least `score_threshold`, sorted by score in descending order."""
    scores = _scores(prediction)
    order = torch.argsort(scores, descending=True, stable=True)
    return prediction[order[scores[order] >= score_threshold]]


def _num_detections(prediction: Instances | None, score_threshold: float) -> int:
    return 0 if prediction is None else int((_scores(prediction) >= score_threshold).sum())


def _scores(prediction: Instances) -> torch.Tensor:
    if prediction.scores is None:
        raise UserError("a prediction has no scores; only detections can be evaluated")
    return prediction.scores
