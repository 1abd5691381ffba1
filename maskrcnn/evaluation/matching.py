"""Greedy matching of detections to objects as in the COCO API, over a whole data set at once, and the AP of matches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.coco import RECALL_THRESHOLDS
from maskrcnn.evaluation.overlaps import Overlaps

_RECALLS = np.asarray(RECALL_THRESHOLDS)


@dataclass(frozen=True)
class Matches:
    """Matches of D detections in descending order of score with N objects.

    Attributes:
        matched: int64 `[D]`, index of the matched object, or -1.
        ignored: bool `[D]`, detections that are neither true nor false positives.
        object_ignored: bool `[N]`, objects that are neither detected nor missed.
        iou: float64 `[D]`, IoU with the matched object, 0 without one.
    """

    matched: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    object_ignored: NDArray[np.bool_]
    iou: NDArray[np.float64]

    @property
    def true_positive(self) -> NDArray[np.bool_]:
        """Whether each detection is matched to an object that is not ignored, bool `[D]`."""
        return (self.matched >= 0) & ~self.ignored

    @property
    def false_positive(self) -> NDArray[np.bool_]:
        """Whether each detection is neither matched nor ignored, bool `[D]`."""
        return (self.matched < 0) & ~self.ignored


def match_overlaps(
    overlaps: Overlaps, min_iou: float = 0.5, area_range: tuple[float, float] | None = None, by_class: bool = True
) -> Matches:
    """Match detections to objects with the rules of the COCO API.

    In descending order of score, each detection takes the free object of its class with the highest IoU; objects that
    are not ignored come before those that are, and of equal IoUs the last one is taken. Detections matched to an
    ignored object are ignored.

    Args:
        overlaps: overlapping pairs.
        min_iou: minimum IoU of a match.
        area_range: areas (square pixels, both inclusive) of the objects that count. Others are ignored, and so are
            unmatched detections of another area.
        by_class: whether only pairs of the same class match.
    """
    outside = np.zeros(len(overlaps.object_area), bool)
    detection_outside = np.zeros(len(overlaps.scores), bool)
    if area_range is not None:
        outside = (overlaps.object_area < area_range[0]) | (overlaps.object_area > area_range[1])
        detection_outside = (overlaps.area < area_range[0]) | (overlaps.area > area_range[1])
    ignored = overlaps.object_ignore | outside
    close = overlaps.iou >= min(min_iou, 1 - 1e-10)
    if by_class:
        close &= overlaps.label[overlaps.pair_detection] == overlaps.object_label[overlaps.pair_object]
    detection, found, iou = overlaps.pair_detection[close], overlaps.pair_object[close], overlaps.iou[close]
    preferred = np.lexsort((-found, -iou, ignored[found], detection))
    pair = match_by_preference(detection[preferred], found[preferred], len(ignored), overlaps.object_ignore)
    matched, matched_iou = np.full(len(overlaps.scores), -1), np.zeros(len(overlaps.scores))
    place = preferred[pair]
    matched[detection[place]], matched_iou[detection[place]] = found[place], iou[place]
    is_ignored = np.where(matched >= 0, np.append(ignored, False)[matched], detection_outside)
    return Matches(matched, is_ignored, ignored, matched_iou)


def match_by_preference(
    detection: NDArray[np.int64], found: NDArray[np.int64], num_objects: int, shared: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Let detections choose objects in the order of their rank: each takes the first one on its list that is free.

    Computed for all detections at once by deferred acceptance (Gale and Shapley 1962): each proposes to the next
    object on its list, and an object keeps the proposal of the lowest rank. As all objects prefer the same order,
    the result is that of the detections choosing one after the other.

    Args:
        detection: int64 `[P]`, rank of the detection of each pair, ascending; the pairs of a detection are in the order
            of its preference.
        found: int64 `[P]`, object of each pair.
        num_objects: number of objects.
        shared: bool `[N]`, objects that any number of detections may take.

    Returns:
        int64 `[M]`, indices of the pairs that are matched.
    """
    ranks, first = np.unique(detection, return_index=True)
    position, end = first.copy(), np.append(first[1:], len(detection))
    nobody = len(ranks)
    owner = np.full(num_objects, nobody)
    free = np.arange(len(ranks))
    while len(free):
        choice = found[position[free]]
        rival, choice = free[~shared[choice]], choice[~shared[choice]]
        before = owner[choice]
        np.minimum.at(owner, choice, rival)
        after = owner[choice]
        displaced = np.unique(before[(before != after) & (before < nobody)])
        losers = np.concatenate([rival[after != rival], displaced])
        position[losers] += 1
        free = losers[position[losers] < end[losers]]
    return position[position < end]


def compute_average_precision(true_positive: NDArray[np.bool_], num_objects: int) -> float:
    """Compute AP with 101 recall levels, as the COCO API does, of detections in descending order of score.

    Args:
        true_positive: bool `[D]`, without ignored detections.
        num_objects: number of objects that are not ignored; NaN is returned for 0.
    """
    if not num_objects:
        return float("nan")
    hits = np.cumsum(true_positive)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(hits / num_objects, _RECALLS)].mean())


def compute_mean_average_precision(overlaps: Overlaps, matches: Matches) -> float | None:
    """Compute AP, mean over the classes with objects; None if there are no objects."""
    by_class = compute_class_average_precision(overlaps, matches)
    known = by_class[~np.isnan(by_class)]
    return float(known.mean()) if len(known) else None


def compute_class_average_precision(overlaps: Overlaps, matches: Matches) -> NDArray[np.float64]:
    """Compute AP of each class, NaN for classes without objects, float64 `[K]`."""
    num_classes = len(overlaps.class_names)
    counts = np.bincount(overlaps.object_label[~matches.object_ignored], minlength=num_classes + 1)
    kept = ~matches.ignored
    labels, positive = overlaps.label[kept], matches.true_positive[kept]
    return np.array(
        [compute_average_precision(positive[labels == k], int(counts[k])) for k in range(1, num_classes + 1)]
    )


def measure_average_precision(
    overlaps: Overlaps, ious: tuple[float, ...], area_range: tuple[float, float] | None = None
) -> float | None:
    """Compute AP, mean over IoU thresholds and the classes with objects; None if there are no objects.

    Args:
        overlaps: overlapping pairs.
        ious: IoU thresholds.
        area_range: see `match_overlaps`.
    """
    matches = (match_overlaps(overlaps, iou, area_range) for iou in ious)
    known = [value for each in matches if (value := compute_mean_average_precision(overlaps, each)) is not None]
    return float(np.mean(known)) if known else None
