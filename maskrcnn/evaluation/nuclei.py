"""What counts in cell biology: the 2018 Data Science Bowl's mean precision and the error of the count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import IOU_THRESHOLDS
from maskrcnn.structures.instances import Instances


@dataclass(frozen=True)
class CountError:
    """Detected minus true number of objects, mean over images: unsigned, and signed (below 0: too few detected)."""

    absolute: float
    signed: float


def dsb_mean_precision(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    score_threshold: float = 0.5,
    min_visible_fraction: float = 0.9,
) -> float | None:
    """Mean over images and IoU .5:.05:.95 of TP / (TP + FP + FN) (Caicedo et al. 2019), between label images.

    Detections scoring at least ``score_threshold`` are painted by falling score; one of which less than
    ``min_visible_fraction`` stays visible is left out. An image with neither objects nor detections scores 1. Truths to
    ignore are neither found nor missed, and a detection that lies at least half on them is no false alarm. None
    without images.
    Raises ``UserError`` where objects have no masks.
    """
    precisions = [
        image_mean_precision(truth, predictions.get(image_id), score_threshold, min_visible_fraction)
        for image_id, truth in truths.items()
    ]
    return float(np.mean(precisions)) if precisions else None


def count_error(
    truths: Mapping[int, Instances], predictions: Mapping[int, Instances], score_threshold: float = 0.5
) -> CountError | None:
    """Error of the number of detections scoring at least ``score_threshold``; truths to ignore are not counted.

    None without images.
    """
    errors = []
    for image_id, truth in truths.items():
        detected = _num_detections(predictions.get(image_id), score_threshold)
        errors.append(detected - int((~truth.ignore).sum()))
    if not errors:
        return None
    return CountError(absolute=float(np.mean(np.abs(errors))), signed=float(np.mean(errors)))


def image_mean_precision(
    truth: Instances, prediction: Instances | None, score_threshold: float = 0.5, min_visible_fraction: float = 0.9
) -> float:
    """Mean over IoU .5:.05:.95 of TP / (TP + FP + FN) for one image, in [0, 1]; see ``dsb_mean_precision``."""
    predicted = Instances.empty(truth.size, with_masks=True)
    if prediction is not None:
        predicted = _by_falling_score(prediction, score_threshold)
    truth = truth.ignore_empty_masks()
    truth = truth[torch.argsort(truth.ignore.int(), stable=True)]  # painted first on top: what counts
    true_labels, painted = _paint(truth, 0.0)
    predicted_labels, _ = _paint(predicted, min_visible_fraction)
    ignored = np.concatenate([[False], truth.ignore.cpu().numpy()[painted]])
    return _mean_precision(true_labels, predicted_labels, ignored)


def _mean_precision(
    true_labels: NDArray[np.int64], predicted_labels: NDArray[np.int64], ignored: NDArray[np.bool_]
) -> float:
    """From two label images [H, W] (0 is background); ``ignored[label]`` marks truths to ignore."""
    truth_ids, truth_areas = _areas(true_labels)
    predicted_ids, predicted_areas = _areas(predicted_labels)
    rows, columns, overlaps = _overlaps(true_labels, predicted_labels)
    row_index, column_index = np.searchsorted(truth_ids, rows), np.searchsorted(predicted_ids, columns)
    ious = overlaps / (truth_areas[row_index] + predicted_areas[column_index] - overlaps)
    counted_pair = ~ignored[rows]
    on_ignored = np.bincount(column_index, overlaps * ~counted_pair, minlength=len(predicted_ids))
    excused = on_ignored >= 0.5 * predicted_areas
    num_truths = int((~ignored[truth_ids]).sum())
    precisions = []
    for threshold in IOU_THRESHOLDS:
        hit = counted_pair & (ious > threshold)  # regions are disjoint: above .5 a pair is the only one of both
        is_hit = np.zeros(len(predicted_ids), dtype=bool)
        is_hit[column_index[hit]] = True
        hits, false_alarms = int(hit.sum()), int((~is_hit & ~excused).sum())
        union = num_truths + false_alarms
        precisions.append(hits / union if union else 1.0)
    return float(np.mean(precisions))


def _areas(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label numbers present (rising, without 0) and their areas in pixels."""
    areas = np.bincount(labels.ravel())
    ids = np.flatnonzero(areas[1:]) + 1
    return ids, areas[ids]


def _overlaps(
    a: NDArray[np.int64], b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of labels that share pixels and how many: only these pairs are formed, never all of them."""
    both = (a > 0) & (b > 0)
    width = int(b.max(initial=0)) + 1
    pairs, counts = np.unique(a[both] * width + b[both], return_counts=True)
    return pairs // width, pairs % width, counts


def _paint(instances: Instances, min_visible_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Label image [H, W] of the masks, the first on top, and which of the N were painted, numbered 1, 2, ..."""
    if instances.masks is None:
        if len(instances):
            raise UserError("Mean precision of the Data Science Bowl needs masks; these instances have boxes alone")
        return np.zeros(instances.size, dtype=np.int64), np.zeros(0, dtype=bool)
    labels, painted = instances.masks.to_label_image(min_visible_fraction)
    return labels.cpu().numpy().astype(np.int64), painted.cpu().numpy()


def _by_falling_score(prediction: Instances, score_threshold: float) -> Instances:
    scores = _scores(prediction)
    order = torch.argsort(scores, descending=True, stable=True)
    return prediction[order[scores[order] >= score_threshold]]


def _num_detections(prediction: Instances | None, score_threshold: float) -> int:
    return 0 if prediction is None else int((_scores(prediction) >= score_threshold).sum())


def _scores(prediction: Instances) -> torch.Tensor:
    if prediction.scores is None:
        raise UserError("A prediction has no scores; only detections can be evaluated")
    return prediction.scores
