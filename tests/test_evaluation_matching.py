"""Matches of whole data sets: AP as COCO's evaluator, and oracle detections with known errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_toy import NAMES, detect, double, drop, make_grid, make_random, mislabel, move, with_boxes

from maskrcnn.config import UserError
from maskrcnn.evaluation.calibration import compute_calibration
from maskrcnn.evaluation.centers import compute_center_scores
from maskrcnn.evaluation.coco import IOU_THRESHOLDS, SIZE_RANGES, Kind, evaluate_coco
from maskrcnn.evaluation.confusion import compute_confusion_matrix
from maskrcnn.evaluation.errors import ERROR_TYPES, compute_background_iou, find_error_types
from maskrcnn.evaluation.localization_recall_precision import compute_lrp
from maskrcnn.evaluation.matching import (
    compute_mean_average_precision,
    match_overlaps,
    measure_average_precision,
)
from maskrcnn.evaluation.overlaps import Overlaps, find_overlaps
from maskrcnn.evaluation.panoptic import compute_panoptic_quality
from maskrcnn.structures.instances import Instances


def overlap(targets: Instances, found: Instances, kind: Kind = "box", names: tuple[str, ...] = NAMES) -> Overlaps:
    return find_overlaps({1: targets}, {1: found}, names, kind)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_ap_is_that_of_the_coco_evaluator(kind: Kind, agnostic: bool) -> None:
    targets, found = make_random(num_images=6)
    theirs = evaluate_coco(targets, found, NAMES, kind, class_agnostic=agnostic)
    overlaps = find_overlaps(targets, found, NAMES, kind, agnostic)
    for size, area_range in SIZE_RANGES.items():
        for iou in IOU_THRESHOLDS:
            own = compute_mean_average_precision(overlaps, match_overlaps(overlaps, iou, area_range))
            assert own == pytest.approx(theirs.average_precision(iou, size), abs=1e-12), (size, iou)


def test_sizes_of_ones_own_equal_those_of_coco_where_the_edges_do() -> None:
    targets, found = make_random(num_images=4)
    overlaps = find_overlaps(targets, found, NAMES)
    ranges = [(low**2, high**2) for low, high in ((0, 8), (8, 16), (16, 32), (32, 1e5))]
    own = [measure_average_precision(overlaps, IOU_THRESHOLDS, each) for each in ranges]
    theirs = evaluate_coco(targets, found, NAMES)
    names = ("very_tiny", "tiny", "aitod_small", "aitod_medium")
    assert own == pytest.approx([theirs.average_precision(size=name) for name in names], abs=1e-12)


def test_matching_all_at_once_equals_one_after_the_other() -> None:
    targets, found = make_random(num_images=3, count=60)
    overlaps = find_overlaps(targets, found, NAMES, "box")
    matches = match_overlaps(overlaps, 0.3)
    taken: set[int] = set()
    for detection in range(len(overlaps.scores)):
        pairs = np.flatnonzero(overlaps.pair_detection == detection)
        choices = [
            (bool(overlaps.object_ignore[o]), -overlaps.iou[p], -o, o)
            for p, o in ((p, int(overlaps.pair_object[p])) for p in pairs)
            if overlaps.iou[p] >= 0.3
            and overlaps.object_label[o] == overlaps.label[detection]
            and (o not in taken or overlaps.object_ignore[o])
        ]
        best = min(choices)[-1] if choices else -1
        assert matches.matched[detection] == best
        taken.add(best)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_oracle_has_no_error(kind: Kind) -> None:
    targets = make_grid(num_classes=2)
    overlaps = overlap(targets, detect(targets), kind)
    errors = find_error_types(overlaps)
    assert errors.ap == 1 and not any(errors.counts.values()) and not any(errors.gained.values())
    lrp = compute_lrp(overlaps)
    assert lrp is not None
    assert (lrp.error, lrp.localization, lrp.false_positive, lrp.false_negative) == (0, 0, 0, 0)
    assert compute_confusion_matrix(overlaps, 0.0).tolist() == [[13, 0, 0], [0, 12, 0], [0, 0, 0]]


WRONG = [2, 7, 11, 20]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: move(found, WRONG, 4.0), {"localization": 4}),  # IoU 6 / 14
        (lambda found: move(found, WRONG, 10.0, 10.0), {"background": 4, "missed": 4}),
        (lambda found: drop(found, WRONG), {"missed": 4}),
        (lambda found: double(found, WRONG), {"duplicate": 4}),
        (lambda found: mislabel(found, WRONG), {"classification": 4}),
        (lambda found: mislabel(move(found, WRONG, 4.0), WRONG), {"both": 4, "missed": 4}),
    ],
)
def test_known_errors_are_exactly_those_found(change, expected) -> None:  # type: ignore[no-untyped-def]
    targets = make_grid(num_classes=2)
    overlaps = overlap(targets, change(detect(targets)))
    errors = find_error_types(overlaps)
    assert {name: count for name, count in errors.counts.items() if count} == expected
    assert errors.ap == compute_mean_average_precision(overlaps, match_overlaps(overlaps))
    for name in ERROR_TYPES:  # duplicates have the lowest scores, and cost no AP
        assert (errors.gained[name] > 0) == (name in expected and name not in ("duplicate",)), name
    main = next(iter(expected))
    if len(expected) == 1:
        assert errors.ap is not None and errors.ap + errors.gained[main] == pytest.approx(1)


def test_duplicates_with_high_scores_cost_ap() -> None:
    targets = make_grid()
    errors = find_error_types(overlap(targets, double(detect(targets), [0, 1, 2], 0.985), names=("object",)))
    assert errors.counts["duplicate"] == 3 and errors.ap is not None
    assert errors.ap < 1 and errors.ap + errors.gained["duplicate"] == pytest.approx(1)


def test_shifts_of_tiny_objects_are_no_background() -> None:
    targets = make_grid(side=4)
    found = move(detect(targets), [0, 1], 3.0, 3.0)  # IoU 1 / 31
    sized, plain = (find_error_types(overlap(targets, found), shift=shift).counts for shift in (4.0, 0.0))
    assert (sized["localization"], sized["background"]) == (2, 0)
    assert (plain["localization"], plain["background"], plain["missed"]) == (0, 2, 2)


def test_background_threshold_is_that_of_the_paper_for_large_objects() -> None:
    assert compute_background_iou(np.array([7.1, 32.0, 500.0])).tolist() == [0.1, 0.1, 0.1]
    assert compute_background_iou(np.array([2.0, 4.0, 6.0])) == pytest.approx([0, 0, 4 / 68])
    assert compute_background_iou(np.array([1.0, 4.0]), shift=0).tolist() == [0.1, 0.1]


def test_parts_of_lrp_are_the_errors_that_were_made() -> None:
    targets = make_grid()  # 25 objects
    found = drop(move(detect(targets), list(range(10)), 1.0), [23, 24])  # ten with IoU 9 / 11, two missed
    wrong = move(detect(targets, torch.full((25,), 0.995)), list(range(25)), 10.0, 10.0)[:4]
    lrp = compute_lrp(overlap(targets, Instances.cat([found, wrong]), names=("object",)))
    assert lrp is not None
    assert lrp.localization == pytest.approx(10 * (2 / 11) / 23, abs=1e-6)
    assert (lrp.false_positive, lrp.false_negative) == pytest.approx((4 / 27, 2 / 25))
    assert lrp.error == pytest.approx((10 * (2 / 11) / 0.5 + 4 + 2) / 29, abs=1e-6)


def test_detector_that_is_worse_than_nothing_has_lrp_one() -> None:
    targets = make_grid()
    lrp = compute_lrp(overlap(targets, move(detect(targets), list(range(25)), 10.0, 10.0), names=("object",)))
    assert lrp is not None and lrp.error == 1 and lrp.threshold is None


def test_calibration_error_is_the_gap_between_score_and_precision() -> None:
    targets = make_grid()
    found = detect(targets, torch.full((25,), 0.75))
    calibration = compute_calibration(overlap(targets, move(found, list(range(10)), 10.0, 10.0)), num_bins=4)
    assert calibration.count.tolist() == [0, 0, 0, 25]
    assert calibration.precision[3] == pytest.approx(0.6)
    assert calibration.expected_error == calibration.maximum_error == pytest.approx(0.15)
    assert np.isnan(calibration.precision[0])


def test_distances_between_centers_are_those_of_the_shifts() -> None:
    targets = make_grid(side=4)
    found = drop(move(move(detect(targets), [0, 1, 2], 3.0), [3, 4], 0.0, 2.0), [24])
    scores = compute_center_scores(overlap(targets, found, names=("object",)), 2.5)
    assert (scores.true_positives, scores.false_positives, scores.missed) == (21, 3, 4)
    assert scores.rmse == pytest.approx(np.sqrt(2 * 4 / 21))
    assert scores.precision == 21 / 24 and scores.recall == 21 / 25 and scores.f1 == pytest.approx(42 / 49)
    assert compute_center_scores(overlap(targets, found, names=("object",)), 3.0).true_positives == 24


def test_detections_near_ignored_objects_are_ignored_by_distance_too() -> None:
    targets = make_grid(side=4)
    found = detect(targets)
    targets = replace(targets, ignore=torch.arange(25) < 5)
    scores = compute_center_scores(overlap(targets, found), 1.0)
    assert (scores.true_positives, scores.false_positives, scores.missed) == (20, 0, 0)


def test_confusion_matrix_counts_classes_missed_objects_and_false_positives() -> None:
    targets = make_grid(num_classes=2)  # 13 of the first class, 12 of the second
    found = mislabel(drop(detect(targets), [24]), [1, 3])  # one "round" is missed, two "square" are called "round"
    more = move(detect(targets), list(range(25)), 10.0, 10.0)[:1]
    matrix = compute_confusion_matrix(overlap(targets, Instances.cat([found, more])), 0.0)
    assert matrix.tolist() == [[12, 0, 1], [2, 10, 0], [1, 0, 0]]


def test_panoptic_quality_is_segmentation_times_recognition() -> None:
    targets = make_grid()
    found = drop(move(detect(targets), list(range(10)), 1.0), [23, 24])
    quality = compute_panoptic_quality({1: targets}, {1: found}, ("object",), 0.5)
    assert quality is not None
    assert quality.segmentation == pytest.approx((10 * 9 / 11 + 13) / 23)
    assert quality.recognition == pytest.approx(46 / 48)
    assert quality.quality == pytest.approx(quality.segmentation * quality.recognition)


def test_second_detections_are_hidden_in_panoptic_quality() -> None:
    targets = make_grid()
    quality = compute_panoptic_quality({1: targets}, {1: double(detect(targets), [3, 4])}, ("object",), 0.1)
    assert quality is not None and quality.quality == 1


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_nothing_is_evaluated_without_an_error(kind: Kind) -> None:
    targets = make_grid()
    empty = targets[:0]
    nothing = find_overlaps({1: empty}, {}, NAMES, kind)
    assert find_error_types(nothing).ap is None and compute_lrp(nothing) is None
    assert compute_calibration(nothing).expected_error is None
    assert compute_center_scores(nothing, 3).rmse is None
    missed = find_overlaps({1: targets, 2: empty}, {2: detect(targets)[:0]}, NAMES, kind)
    assert find_error_types(missed).counts["missed"] == 25
    false = find_overlaps({1: empty}, {1: detect(targets)}, NAMES, kind)
    assert find_error_types(false).counts["background"] == 25


def test_scores_that_are_nan_are_rejected() -> None:
    targets = make_grid()
    scores = torch.full((25,), 0.5)
    scores[3] = float("nan")
    with pytest.raises(UserError, match="image 1 has a score that is NaN"):
        overlap(targets, detect(targets, scores))


def test_masks_of_half_a_box_have_their_own_iou() -> None:
    targets = make_grid()
    assert targets.masks is not None
    half = with_boxes(targets, targets.boxes - torch.tensor([0.0, 0.0, 5.0, 0.0]))
    found = replace(detect(targets), masks=half.masks)
    assert find_error_types(overlap(targets, found, "box"), 0.75).ap == pytest.approx(1)
    assert set(overlap(targets, found, "mask").iou.tolist()) == {0.5}
