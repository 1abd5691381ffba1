"""The flat figures of an evaluation: which names each head gets, and none without a meaning."""

import json

import pytest
import torch

from maskrcnn.evaluation.figures import evaluate, explain_metrics
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIZE = (40, 40)


def square(x, score=None, label=1):
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 10:22, x : x + 12] = True
    instances = Instances.from_masks(CroppedMasks.from_dense(masks), torch.tensor([label]))
    instances.scores = None if score is None else torch.tensor([score])
    return instances


TRUTHS = {1: square(10), 2: square(20)}
FOUND = {1: square(10, 0.9), 2: square(0, 0.8)}


@pytest.mark.parametrize(
    ("head", "there", "absent"),
    [
        ("rpn", {"box_ap", "ar_10", "ar_100", "ar_1000", "ar_all", "f1"}, {"mask_ap", "dsb_mean_precision"}),
        ("faster_rcnn", {"box_ap", "box_ap_tiny", "box_ar", "count_error"}, {"mask_ap", "ar_10", "dsb_mean_precision"}),
        ("mask_rcnn", {"box_ap", "mask_ap", "mask_ap50", "mask_ap75", "dsb_mean_precision"}, {"ar_10"}),
    ],
)
def test_each_head_has_its_figures(head, there, absent):
    figures = evaluate(TRUTHS, FOUND, ("square",), head).metrics
    assert there <= set(figures)
    assert not absent & set(figures)
    assert figures["box_ap50"] == pytest.approx(51 / 101)
    assert "box_ap_large" not in figures  # there is no large truth to find
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_proposals_are_measured_without_classes():
    wrong = {1: square(10, 0.9, label=2)}
    assert evaluate({1: square(10)}, wrong, ("a", "b"), "rpn").metrics["box_ap"] == pytest.approx(1.0)
    assert evaluate({1: square(10)}, wrong, ("a", "b"), "faster_rcnn").metrics["box_ap"] == pytest.approx(0.0)
    assert evaluate({1: square(10)}, wrong, ("a", "b"), "faster_rcnn", class_agnostic=True).metrics["box_ap"] == 1.0


def test_several_classes_are_listed_and_those_without_truths_left_out():
    figures = evaluate({1: square(10, label=2)}, {1: square(10, 0.9, label=2)}, ("a", "b"), "mask_rcnn").metrics
    assert figures["mask_ap_class_b"] == pytest.approx(1.0)
    assert "mask_ap_class_a" not in figures


def test_truths_without_masks_are_measured_by_boxes():
    truth = Instances(SIZE, torch.tensor([[10.0, 10, 22, 22]]), torch.tensor([1]))
    evaluation = evaluate({1: truth}, {1: square(10, 0.9)}, ("square",), "mask_rcnn")
    assert evaluation.metrics["box_ap"] == pytest.approx(1.0)
    assert evaluation.mask is None and "mask_ap" not in evaluation.metrics


@pytest.mark.parametrize("head", ["rpn", "faster_rcnn", "mask_rcnn"])
def test_nothing_to_find_gives_no_average_precision(head):
    figures = evaluate({1: Instances.empty(SIZE)}, {}, ("square",), head).metrics
    assert not any("ap" in name or "ar" in name for name in figures)


@pytest.mark.parametrize("head", ["rpn", "faster_rcnn", "mask_rcnn"])
def test_counts_and_f1_are_those_at_the_operating_threshold(head):
    def metrics(threshold):
        return evaluate(TRUTHS, FOUND, ("square",), head, score_threshold=threshold).metrics

    score = float(FOUND[1].scores)
    best = metrics(None)  # one of two objects, and nothing else, at the score of the right detection
    assert (best["operating_threshold"], best["f1"], best["count_error"]) == (score, 2 / 3, 0.5)
    assert best == metrics(score)
    low = metrics(0.5)
    assert (low["operating_threshold"], low["f1"], low["count_error"]) == (0.5, 0.5, 0.0)


def test_masks_decide_the_operating_threshold_of_mask_rcnn():
    found = square(10, 0.9)
    found.boxes = found.boxes + 30  # the boxes are wrong, the masks right
    assert evaluate({1: square(10)}, {1: found}, ("square",), "mask_rcnn", score_threshold=None).metrics["f1"] == 1
    assert evaluate({1: square(10)}, {1: found}, ("square",), "faster_rcnn", score_threshold=None).metrics["f1"] == 0


def test_without_a_true_positive_the_threshold_is_one_half():
    figures = evaluate({1: square(10)}, {}, ("square",), "mask_rcnn", score_threshold=None).metrics
    assert (figures["operating_threshold"], figures["f1"], figures["count_error"]) == (0.5, 0, 1)


def test_the_metrics_of_a_line_are_explained_with_their_threshold():
    names = evaluate(TRUTHS, FOUND, ("square",), "mask_rcnn").metrics
    ap, scored = explain_metrics(names, 0.62, "best F1 on validation images")
    assert ap.startswith("ap: average precision")
    assert scored.startswith("at score ≥ 0.62 (best F1 on validation images)")
    assert "count_error: mean absolute difference of the counts per image" in scored and "f1: " in scored
    assert explain_metrics(["validation_loss"], 0.5, "default") == []
