"""Types of errors, each with the AP that would be gained if it were fixed: TIDE (Bolya et al. 2020, ECCV).

Every false positive has one type. With the IoU threshold of a match t_f and that of the background t_b:

- localization: the best object of its class has an IoU from t_b to t_f;
- classification: an object of another class has an IoU of at least t_f;
- duplicate: an object of its class has an IoU of at least t_f, and is matched already;
- background: no object has an IoU above t_b;
- both: everything else, that is, wrong class and badly localized.

Missed objects are those that are neither matched nor the object of a localization or classification error.

**Size-aware background threshold.** t_b = .1 means a shift by 82% of the side along one axis. For an object of 4 px
this is 3 px, less than the cell of the finest feature map, so that detections of the object would count as background.
For an object of size s = √area, t_b is at most the IoU of two squares of side s that are shifted by δ pixels along both
axes, (s - δ)² / (2 s² - (s - δ)²), and 0 (any overlap) for s ≤ δ. δ is 4 px by default, which changes t_b
for objects below 7.01 px only; with δ = 0, t_b is that of the paper for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.matching import compute_average_precision, match_overlaps
from maskrcnn.evaluation.overlaps import Overlaps

ERROR_TYPES = ("classification", "localization", "both", "duplicate", "background", "missed")
_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)


@dataclass(frozen=True)
class ErrorTypes:
    """Errors of detections at one IoU threshold.

    Attributes:
        ap: AP at this threshold; None without objects.
        gained: AP gained if all errors of a type were fixed, for `ERROR_TYPES`, and "false_positive" (all of them
            removed) and "missed_all" (all unmatched objects removed).
        counts: number of errors by type.
        error_type: int64 `[D]`, index in `ERROR_TYPES` for false positives, else -1.
        missed: bool `[N]`, missed objects.
    """

    ap: float | None
    gained: Mapping[str, float]
    counts: Mapping[str, int]
    error_type: NDArray[np.int64]
    missed: NDArray[np.bool_]


def compute_background_iou(sizes: NDArray[np.float64], limit: float = 0.1, shift: float = 4.0) -> NDArray[np.float64]:
    """Compute the background threshold of objects by size (px): see the module."""
    rest = np.clip(sizes - shift, 0, None)
    area = np.maximum(sizes, 1e-9) ** 2
    return np.minimum(limit, rest**2 / (2 * area - rest**2))


def find_error_types(
    overlaps: Overlaps, min_iou: float = 0.5, background_iou: float = 0.1, shift: float = 4.0
) -> ErrorTypes:
    """Sort the errors into types, and compute the AP gained if those of a type were fixed.

    A classification or localization error is fixed by making it a true positive, if it is the one with the highest
    score of its object and the object is unmatched, and by removing it otherwise. The others are removed; missed
    objects are removed from the ground truth. A class that has no objects left counts as AP 0, as in tidecv. Gains are
    not additive. Ignored detections are no errors here.

    Args:
        overlaps: overlapping pairs of all classes.
        min_iou: IoU threshold of a match.
        background_iou: IoU threshold of the background for large objects.
        shift: see the module, in pixels; 0 for the rule of the paper.
    """
    matches = match_overlaps(overlaps, min_iou)
    background = compute_background_iou(np.sqrt(overlaps.object_area), background_iou, shift)
    objects = _BestObjects(overlaps)
    same = overlaps.label[overlaps.pair_detection] == overlaps.object_label[overlaps.pair_object]
    used = np.zeros(len(overlaps.object_area), bool)
    used[matches.matched[matches.true_positive]] = True
    own, own_iou = objects.find(same)
    other, other_iou = objects.find(~same)
    _, used_iou = objects.find(same & used[overlaps.pair_object])
    near, near_iou = objects.find(np.ones_like(same))
    background = np.append(background, np.inf)  # at -1, no object
    rules = [
        (own_iou >= background[own]) & (own_iou <= min_iou),
        other_iou >= min_iou,
        used_iou >= min_iou,
        (near < 0) | (near_iou <= background[near]),
    ]
    types = [_LOCALIZATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND]
    error_type = np.where(matches.false_positive, np.select(rules, types, _BOTH), -1)
    blamed = np.select([error_type == _LOCALIZATION, error_type == _CLASSIFICATION], [own, other], -1)
    blamed[np.append(used, True)[blamed]] = -1
    missed = ~used & ~matches.object_ignored
    all_missed = missed.copy()
    missed[blamed[blamed >= 0]] = False
    fixes = _Fixes(overlaps, matches.true_positive, ~matches.ignored, error_type, blamed)
    counts = np.bincount(overlaps.object_label[~matches.object_ignored], minlength=len(overlaps.class_names) + 1)
    ap = fixes.compute_ap(counts)
    gained = {name: fixes.fix(number).compute_ap(counts) - ap for number, name in enumerate(ERROR_TYPES[:5])}
    gained["false_positive"] = fixes.remove(fixes.kept & ~fixes.positive).compute_ap(counts) - ap
    for name, which in (("missed", missed), ("missed_all", all_missed)):
        left = counts - np.bincount(overlaps.object_label[which], minlength=len(counts))
        gained[name] = fixes.compute_ap(counts, left) - ap
    numbers = np.bincount(error_type[error_type >= 0], minlength=5).tolist()
    return ErrorTypes(
        float(ap) if counts.sum() else None,
        {name: float(max(gained[name], 0.0)) for name in (*ERROR_TYPES, "false_positive", "missed_all")},
        dict(zip(ERROR_TYPES, [*numbers, int(missed.sum())], strict=True)),
        error_type,
        missed,
    )


class _BestObjects:
    """Objects with the highest IoU of each detection, that are not ignored."""

    def __init__(self, overlaps: Overlaps) -> None:
        self.overlaps = overlaps
        self.order = np.lexsort((overlaps.pair_object, -overlaps.iou, overlaps.pair_detection))
        self.counted = ~overlaps.object_ignore[overlaps.pair_object]

    def find(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the object (-1 for none) and its IoU (0 for none) of each detection, among chosen pairs."""
        place = self.order[(chosen & self.counted)[self.order]]
        detection, first = np.unique(self.overlaps.pair_detection[place], return_index=True)
        found, iou = np.full(len(self.overlaps.scores), -1), np.zeros(len(self.overlaps.scores))
        found[detection] = self.overlaps.pair_object[place[first]]
        iou[detection] = self.overlaps.iou[place[first]]
        return found, iou


@dataclass(frozen=True)
class _Fixes:
    """Detections with some of their errors fixed: which are true positives, which are left, and their labels."""

    overlaps: Overlaps
    positive: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    error_type: NDArray[np.int64]
    blamed: NDArray[np.int64]
    label: NDArray[np.int64] | None = None

    def fix(self, error_type: int) -> _Fixes:
        """Fix the errors of a type."""
        wrong = self.error_type == error_type
        best = np.zeros_like(wrong)
        candidates = np.flatnonzero(self.blamed >= 0)
        best[candidates[np.unique(self.blamed[candidates], return_index=True)[1]]] = True  # highest score
        fixed = wrong & best
        label = self.overlaps.label.copy()
        label[fixed] = self.overlaps.object_label[self.blamed[fixed]]
        return _Fixes(
            self.overlaps, self.positive | fixed, self.kept & (~wrong | fixed), self.error_type, self.blamed, label
        )

    def remove(self, which: NDArray[np.bool_]) -> _Fixes:
        """Remove detections."""
        return _Fixes(self.overlaps, self.positive, self.kept & ~which, self.error_type, self.blamed, self.label)

    def compute_ap(self, counts: NDArray[np.int64], left: NDArray[np.int64] | None = None) -> float:
        """Compute AP, mean over the classes with objects; `left` has the numbers of objects after a fix."""
        label = (self.overlaps.label if self.label is None else self.label)[self.kept]
        positive = self.positive[self.kept]
        left = counts if left is None else left
        classes = np.flatnonzero(counts)
        values = [compute_average_precision(positive[label == k], int(left[k])) if left[k] else 0.0 for k in classes]
        return float(np.mean(values)) if values else 0.0
