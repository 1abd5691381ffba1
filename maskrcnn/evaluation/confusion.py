"""Confusion matrix of detections and objects at one score and IoU threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.matching import match_overlaps
from maskrcnn.evaluation.overlaps import Overlaps


def compute_confusion_matrix(overlaps: Overlaps, threshold: float, min_iou: float = 0.5) -> NDArray[np.int64]:
    """Count pairs of classes; detections are matched to objects of any class, in descending order of score.

    Args:
        overlaps: overlapping pairs of all classes.
        threshold: minimum score of the detections.
        min_iou: IoU threshold of a match.

    Returns:
        int64 `[K + 1, K + 1]`: row k has the objects of class k + 1, and the last row false positives; column k has
        the detections of class k + 1, and the last column missed objects. Ignored objects and detections do not count.
    """
    kept = overlaps.above(threshold)
    matches = match_overlaps(kept, min_iou, by_class=False)
    num_classes = len(overlaps.class_names)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    hits = matches.true_positive
    np.add.at(matrix, (kept.object_label[matches.matched[hits]] - 1, kept.label[hits] - 1), 1)
    matrix[-1, :-1] = np.bincount(kept.label[matches.false_positive] - 1, minlength=num_classes)
    missed = ~matches.object_ignored
    missed[matches.matched[hits]] = False
    matrix[:-1, -1] = np.bincount(kept.object_label[missed] - 1, minlength=num_classes)
    return matrix
