"""Optimal localization recall precision (oLRP) with its three parts: Oksuz et al. 2021, TPAMI.

With the IoU threshold of a match τ, of the detections with at least a score s of one class:

    LRP(s) = (Σ over TP of (1 - IoU) / (1 - τ) + FP + FN) / (TP + FP + FN),

an error in [0, 1]: 0 is perfect. oLRP is its minimum over s. At the best s, its parts are

    localization = mean over TP of 1 - IoU,    false_positive = FP / (TP + FP),    false_negative = FN / (TP + FN).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.matching import match_overlaps
from maskrcnn.evaluation.overlaps import Overlaps


@dataclass(frozen=True)
class OptimalLRP:
    """Optimal LRP and its parts, lower is better.

    Attributes:
        error: oLRP, in [0, 1].
        localization: mean of 1 - IoU of true positives; None without any.
        false_positive: 1 - precision; None without detections.
        false_negative: 1 - recall.
        threshold: score threshold of the optimum; None for a mean over classes, and if it is best to detect nothing.
    """

    error: float
    localization: float | None
    false_positive: float | None
    false_negative: float
    threshold: float | None


def compute_class_lrp(overlaps: Overlaps, min_iou: float = 0.5) -> dict[str, OptimalLRP]:
    """Compute oLRP of each class with objects."""
    matches = match_overlaps(overlaps, min_iou)
    counts = np.bincount(overlaps.object_label[~matches.object_ignored], minlength=len(overlaps.class_names) + 1)
    found = {}
    for label, name in enumerate(overlaps.class_names, start=1):
        kept = (overlaps.label == label) & ~matches.ignored
        if counts[label]:
            part = overlaps.scores[kept], matches.true_positive[kept], matches.iou[kept]
            found[name] = _find_optimum(*part, int(counts[label]), min_iou)
    return found


def compute_lrp(overlaps: Overlaps, min_iou: float = 0.5) -> OptimalLRP | None:
    """Compute oLRP and its parts, mean over classes with objects; None without objects."""
    by_class = list(compute_class_lrp(overlaps, min_iou).values())
    if not by_class:
        return None
    if len(by_class) == 1:
        return by_class[0]
    missed = float(np.mean([each.false_negative for each in by_class]))
    localization = _mean([each.localization for each in by_class])
    false_positive = _mean([each.false_positive for each in by_class])
    return OptimalLRP(float(np.mean([each.error for each in by_class])), localization, false_positive, missed, None)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _find_optimum(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], iou: NDArray[np.float64], num_objects: int, min_iou: float
) -> OptimalLRP:
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    hits, detected = np.cumsum(positive)[last], np.arange(1, len(scores) + 1)[last]
    distance = np.cumsum(np.where(positive, 1 - iou, 0.0))[last]
    missed, wrong = num_objects - hits, detected - hits
    errors = (distance / (1 - min_iou) + wrong + missed) / (num_objects + wrong)
    if not len(errors) or errors.min() >= 1:
        return OptimalLRP(1.0, None, None, 1.0, None)
    best = int(errors.argmin())
    return OptimalLRP(
        float(errors[best]),
        float(distance[best] / hits[best]) if hits[best] else None,
        float(wrong[best] / detected[best]),
        float(missed[best] / num_objects),
        float(scores[last][best]),
    )
