"""Matching by the distance between centers: for objects of a few pixels, a shift by one pixel changes the IoU by half.

For an object of side s that is shifted by one pixel along each axis, IoU = (s - 1)² / (2 s² - (s - 1)²): .39 for s = 4,
.29 for s = 3. Precision and recall at IoU .5 measure the rounding of boxes there; a distance in pixels does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.matching import Matches, match_by_preference
from maskrcnn.evaluation.overlaps import Overlaps


@dataclass(frozen=True)
class CenterScores:
    """Precision, recall and localization error of detections matched by the distance between centers.

    Attributes:
        max_distance: maximum distance of a match in pixels.
        threshold: minimum score of the detections.
        true_positives: number of matched detections.
        false_positives: number of unmatched detections.
        missed: number of unmatched objects.
        rmse: root mean square distance of the matches in pixels; None without matches.
    """

    max_distance: float
    threshold: float
    true_positives: int
    false_positives: int
    missed: int
    rmse: float | None

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP); None without detections."""
        detected = self.true_positives + self.false_positives
        return self.true_positives / detected if detected else None

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN); None without objects."""
        objects = self.true_positives + self.missed
        return self.true_positives / objects if objects else None

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN); None without objects and detections."""
        total = 2 * self.true_positives + self.false_positives + self.missed
        return 2 * self.true_positives / total if total else None


def compute_center_scores(overlaps: Overlaps, max_distance: float, threshold: float = 0.0) -> CenterScores:
    """Match detections with at least `threshold` by distance, and count.

    In descending order of score, each detection takes the free object of its class whose center is nearest, at most
    `max_distance` pixels away. Centers are those of boxes. Detections that only an ignored object is near to are
    ignored.

    Args:
        overlaps: objects and detections; their overlaps are not used.
        max_distance: maximum distance in pixels.
        threshold: minimum score.
    """
    kept = overlaps.above(threshold)
    matches, distance = match_centers(kept, max_distance)
    hits = matches.true_positive
    count = int(hits.sum())
    return CenterScores(
        max_distance,
        threshold,
        count,
        int(matches.false_positive.sum()),
        int((~matches.object_ignored).sum()) - count,
        float(np.sqrt(np.mean(distance[hits] ** 2))) if count else None,
    )


def match_centers(overlaps: Overlaps, max_distance: float) -> tuple[Matches, NDArray[np.float64]]:
    """Match detections to objects of their class by the distance between centers.

    Returns:
        The matches, and the distance of each detection to its object in pixels, NaN without one.
    """
    detection, found, distance = _find_near_pairs(overlaps, max_distance)
    same = overlaps.label[detection] == overlaps.object_label[found]
    detection, found, distance = detection[same], found[same], distance[same]
    ignored = overlaps.object_ignore
    preferred = np.lexsort((found, distance, ignored[found], detection))
    place = preferred[match_by_preference(detection[preferred], found[preferred], len(ignored), ignored)]
    matched, apart = np.full(len(overlaps.scores), -1), np.full(len(overlaps.scores), np.nan)
    matched[detection[place]], apart[detection[place]] = found[place], distance[place]
    is_ignored = np.append(ignored, False)[matched]
    iou = np.zeros(len(matched))  # unknown
    return Matches(matched, is_ignored, ignored, iou), apart


def _find_near_pairs(
    overlaps: Overlaps, max_distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Find the pairs (detection, object, distance) whose centers are near, image by image, with a k-d tree."""
    from scipy.spatial import KDTree  # a dependency of scikit-image

    num_images = len(overlaps.image_ids)
    centers = (overlaps.box[:, :2] + overlaps.box[:, 2:]) / 2
    others = (overlaps.object_box[:, :2] + overlaps.object_box[:, 2:]) / 2
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    groups = zip(_group(overlaps.image, num_images), _group(overlaps.object_image, num_images), strict=True)
    for detections, objects in groups:
        if not len(detections) or not len(objects):
            continue
        near = KDTree(others[objects]).query_ball_point(centers[detections], max_distance)
        rows.append(np.repeat(detections, [len(each) for each in near]))
        columns.append(objects[np.concatenate([*near, []]).astype(np.int64)])
    detection, found = np.concatenate(rows), np.concatenate(columns)
    return detection, found, np.linalg.norm(centers[detection] - others[found], axis=1)


def _group(image: NDArray[np.int64], num_images: int) -> list[NDArray[np.int64]]:
    order = np.argsort(image, kind="stable")
    return np.split(order, np.cumsum(np.bincount(image, minlength=num_images))[:-1])
