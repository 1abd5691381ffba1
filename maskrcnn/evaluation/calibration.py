"""Calibration: whether of the detections with score p a fraction p are true positives.

See Guo et al. 2017 (ICML), and Küppers et al. 2020 (CVPR workshops) for detection.
The expected calibration error over B bins of the score is ECE = Σ_b n_b / n · |precision_b - mean score_b|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.matching import match_overlaps
from maskrcnn.evaluation.overlaps import Overlaps


@dataclass(frozen=True)
class Calibration:
    """Reliability curve of B bins of equal width over scores in [0, 1], and the error that summarizes it.

    Attributes:
        count: int64 `[B]`, detections of each bin.
        mean_score: float64 `[B]`, NaN for empty bins.
        precision: float64 `[B]`, fraction of true positives, NaN for empty bins.
    """

    count: NDArray[np.int64]
    mean_score: NDArray[np.float64]
    precision: NDArray[np.float64]

    @property
    def expected_error(self) -> float | None:
        """ECE in [0, 1]; None without detections."""
        used = self.count > 0
        if not used.any():
            return None
        gaps = np.abs(self.precision - self.mean_score)[used]
        return float(np.average(gaps, weights=self.count[used]))

    @property
    def maximum_error(self) -> float | None:
        """Largest difference of a bin with detections; None without detections."""
        gaps = np.abs(self.precision - self.mean_score)
        return float(np.nanmax(gaps)) if self.count.any() else None


def compute_calibration(
    overlaps: Overlaps, min_iou: float = 0.5, num_bins: int = 10, threshold: float = 0.0
) -> Calibration:
    """Compute the reliability of scores at an IoU threshold; ignored detections do not count.

    Args:
        overlaps: overlapping pairs.
        min_iou: IoU threshold of a match.
        num_bins: number of bins of equal width; a bin includes its lower edge.
        threshold: minimum score of the detections that count.
    """
    kept = overlaps.above(threshold)
    matches = match_overlaps(kept, min_iou)
    scores, positive = kept.scores[~matches.ignored], matches.true_positive[~matches.ignored]
    place = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    safe = np.where(count, count, np.nan)
    return Calibration(
        count, np.bincount(place, scores, num_bins) / safe, np.bincount(place, positive, num_bins) / safe
    )
