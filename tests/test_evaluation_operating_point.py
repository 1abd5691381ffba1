"""The operating point is the threshold of the best F1, with COCO's greedy matching at IoU .5."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import Kind, match_dataset
from maskrcnn.evaluation.operating_point import OperatingPoint, find_operating_point
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIZE = (32, 32)
CLASSES = ("a", "b")
Box = tuple[int, int, int, int]


def objects(
    boxes: list[Box],
    labels: list[int] | None = None,
    scores: list[float] | None = None,
    ignore: list[bool] | None = None,
) -> Instances:
    """Filled whole-pixel boxes with masks."""
    windows = torch.tensor(boxes, dtype=torch.int32).reshape(-1, 4)
    levels = [torch.full((y2 - y1, x2 - x1), 255, dtype=torch.uint8) for x1, y1, x2, y2 in boxes]
    found = Instances.from_masks(
        CroppedMasks.from_windows(windows, levels, SIZE),
        torch.tensor(labels or [1] * len(boxes), dtype=torch.int64),
        None if ignore is None else torch.tensor(ignore, dtype=torch.bool),
    )
    found.scores = None if scores is None else torch.tensor(scores, dtype=torch.float32)
    return found


def best(
    truth: Mapping[int, Instances], found: Mapping[int, Instances], kind: Kind = "box", class_agnostic: bool = False
) -> OperatingPoint | None:
    return find_operating_point(match_dataset(truth, found, CLASSES, kind, class_agnostic))


BOX = (2, 2, 12, 12)
HALF = (2, 2, 12, 7)  # IoU .5 with BOX
LESS = (2, 2, 12, 6)
FAR = (20, 20, 30, 30)


@pytest.mark.parametrize(
    ("truth", "found", "wanted"),
    [
        (objects([BOX]), objects([BOX], scores=[0.75]), OperatingPoint(0.75, 1.0)),
        (objects([BOX]), objects([HALF], scores=[0.25]), OperatingPoint(0.25, 1.0)),
        (objects([BOX]), objects([LESS], scores=[0.25]), None),
        (objects([BOX]), objects([], scores=[]), None),
        (objects([]), objects([BOX], scores=[0.5]), None),
        (objects([BOX]), objects([BOX], labels=[2], scores=[0.5]), None),
        # a second detection of an object is a false positive
        (objects([BOX, FAR]), objects([BOX, BOX, FAR], scores=[0.75, 0.5, 0.25]), OperatingPoint(0.25, 4 / 5)),
        # of equal F1 the higher threshold: 2/3 with one, 4/6 with all four
        (
            objects([BOX, FAR]),
            objects([BOX, (0, 20, 5, 25), (0, 14, 5, 19), FAR], scores=[0.75, 0.5, 0.5, 0.25]),
            OperatingPoint(0.75, 2 / 3),
        ),
        # what is equal in score cannot be told apart
        (objects([BOX]), objects([BOX, FAR], scores=[0.5, 0.5]), OperatingPoint(0.5, 2 / 3)),
        # neither ignored objects nor what is found there count
        (
            objects([BOX, FAR], ignore=[False, True]),
            objects([FAR, FAR, BOX], scores=[0.75, 0.5, 0.25]),
            OperatingPoint(0.25, 1.0),
        ),
    ],
)
def test_known_answers(truth: Instances, found: Instances, wanted: OperatingPoint | None) -> None:
    for kind in ("box", "mask"):
        assert best({1: truth}, {1: found}, kind) == wanted  # type: ignore[arg-type]


def test_labels_do_not_matter_where_classes_do_not() -> None:
    truth, found = objects([BOX], labels=[2]), objects([BOX], labels=[1], scores=[0.5])
    assert best({1: truth}, {1: found}) is None
    assert best({1: truth}, {1: found}, class_agnostic=True) == OperatingPoint(0.5, 1.0)


def test_masks_are_matched_where_they_are_asked_for() -> None:
    truth, found = objects([BOX]), objects([FAR], scores=[0.5])
    found.boxes = truth.boxes.clone()
    assert best({1: truth}, {1: found}, "box") == OperatingPoint(0.5, 1.0)
    assert best({1: truth}, {1: found}, "mask") is None


def test_detections_without_scores_are_rejected() -> None:
    with pytest.raises(UserError, match="no scores"):
        best({1: objects([BOX])}, {1: objects([BOX])})


def test_matches_leave_out_what_is_ignored() -> None:
    truth = objects([BOX, FAR], ignore=[False, True])
    matches = match_dataset({1: truth}, {1: objects([FAR, BOX, BOX], scores=[0.9, 0.8, 0.7])}, CLASSES)
    assert matches.num_objects == 1 and matches.true_positive.tolist() == [True, False]
    assert matches.scores.tolist() == torch.tensor([0.8, 0.7]).tolist()


# ---- against brute force

boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), *[st.integers(0, 8)] * 2, *[st.integers(1, 8)] * 2)
scores = st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0])
true_objects = st.lists(st.tuples(boxes, st.integers(1, 2), st.booleans()), max_size=6)
detections = st.lists(st.tuples(boxes, st.integers(1, 2), scores), max_size=8)


def overlap(a: Box, b: Box) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def count(truth: list[tuple[Box, int, bool]], found: list[tuple[Box, int, float]], threshold: float) -> tuple[int, int]:
    """True and false positives among the detections from a threshold on, matched anew by COCO's rules."""
    taken, right, wrong = set(), 0, 0
    for box, label, score in sorted(found, key=lambda each: -each[2]):
        if score < threshold:
            continue
        best, partner = Fraction(1, 2), None
        for number, (other, other_label, ignore) in enumerate(truth):
            if ignore or number in taken or label != other_label:
                continue
            shared = overlap(box, other)
            iou = Fraction(shared, area(box) + area(other) - shared)
            if iou >= best:
                best, partner = iou, number
        if partner is not None:
            taken.add(partner)
            right += 1
        elif not any(
            ignore and label == other_label and 2 * overlap(box, other) >= area(box)
            for other, other_label, ignore in truth
        ):
            wrong += 1
    return right, wrong


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(true_objects, detections), min_size=1, max_size=3), st.sampled_from(["box", "mask"]))
def test_no_threshold_has_a_better_f1(images: list[tuple[list, list]], kind: str) -> None:
    truth: Mapping[int, Instances] = {
        i: objects([b for b, _, _ in t], [label for _, label, _ in t], ignore=[ig for *_, ig in t])
        for i, (t, _) in enumerate(images)
    }
    found = {
        i: objects([b for b, _, _ in f], [label for _, label, _ in f], scores=[s for *_, s in f])
        for i, (_, f) in enumerate(images)
    }
    num_objects = sum(not ignore for t, _ in images for *_, ignore in t)
    wanted = None
    for threshold in sorted({s for _, f in images for *_, s in f}, reverse=True):
        right, wrong = map(sum, zip(*(count(t, f, threshold) for t, f in images), strict=True))
        f1 = Fraction(2 * right, right + wrong + num_objects) if right else Fraction(0)
        if f1 > (0 if wanted is None else wanted[1]):
            wanted = threshold, f1
    point = best(truth, found, kind)  # type: ignore[arg-type]
    assert (point is None) == (wanted is None)
    if point is not None and wanted is not None:
        matches = match_dataset(truth, found, CLASSES, kind)  # type: ignore[arg-type]
        assert matches.f1(point.threshold) == point.f1
        assert point.threshold == wanted[0] and point.f1 == pytest.approx(float(wanted[1]), abs=1e-12)
