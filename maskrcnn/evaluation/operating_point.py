"""Operating point: the score threshold with the best F1, used to count and draw detections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskrcnn.evaluation.coco import DatasetMatches

DEFAULT_THRESHOLD = 0.5  # used if no threshold was determined


@dataclass(frozen=True)
class OperatingPoint:
    """Score threshold with the best F1.

    Attributes:
        threshold: minimum score of a detection.
        f1: F1 at this threshold, in (0, 1].
    """

    threshold: float
    f1: float


def find_operating_point(matches: DatasetMatches) -> OperatingPoint | None:
    """Find the score threshold with the best F1 = 2 TP / (2 TP + FP + FN).

    Detections are matched as in COCO's evaluation for all areas: greedily in descending order of score, within their
    class, without a limit on their number. Ignored objects and the detections matched to them do not count. True and
    false positives are summed over all classes and images. Of several thresholds with the same F1, the highest is
    chosen; it is the score of a detection.

    Args:
        matches: result of `maskrcnn.evaluation.coco.match_dataset` at IoU .5.

    Returns:
        The operating point; None if no detection is a true positive.
    """
    order = np.argsort(-matches.scores, kind="stable")
    scores, positive = matches.scores[order], matches.true_positive[order]
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    true_positives = positive.cumsum()[last_of_score]
    detected = np.arange(1, len(scores) + 1)[last_of_score]
    if not true_positives.any():
        return None
    f1 = 2 * true_positives / (detected + matches.num_objects)
    best = int(f1.argmax())  # the first maximum has the highest score
    return OperatingPoint(float(scores[last_of_score][best]), float(f1[best]))
