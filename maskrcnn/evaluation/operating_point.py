"""The score from which detections are counted and drawn: that of the best F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskrcnn.evaluation.coco import DetectionMatches

DEFAULT_THRESHOLD = 0.5  # where nothing was measured


@dataclass(frozen=True)
class OperatingPoint:
    """Detections scoring at least `threshold` have the best F1, `f1` in (0, 1], of all thresholds."""

    threshold: float
    f1: float


def find_operating_point(matches: DetectionMatches) -> OperatingPoint | None:
    """Find the score threshold with the best F1 = 2 TP / (2 TP + FP + FN).

    Detections are matched as in COCO's evaluation at IoU .5 and all areas: greedily in descending order of score, in
    their class, without a limit on their number. Ignored objects and the detections matched to them do not count. True
    and false positives of all classes and images are added up. Of thresholds with the same F1 the highest is taken; it
    is the score of a detection.

    Args:
        matches: of `maskrcnn.evaluation.coco.match_detections` at IoU .5.

    Returns:
        None where no detection is a true positive.
    """
    order = np.argsort(-matches.scores, kind="stable")
    scores, positive = matches.scores[order], matches.true_positive[order]
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    true_positives = positive.cumsum()[last_of_score]
    detected = np.arange(1, len(scores) + 1)[last_of_score]
    if not true_positives.any():
        return None
    f1 = 2 * true_positives / (detected + matches.num_objects)
    best = int(f1.argmax())  # the first of equal ones has the highest score
    return OperatingPoint(float(scores[last_of_score][best]), float(f1[best]))
