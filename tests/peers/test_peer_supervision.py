"""Results in supervision: the same boxes, masks, overlaps and average precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detector_toy import toy_detector
from peers_toy import CLASSES, make_scene, make_scenes

from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.inference.predictor import Predictor
from maskrcnn.ops.boxes import box_area, box_iou
from maskrcnn.ops.nms import nms
from maskrcnn.structures.instances import Instances

pytest.importorskip("supervision")
import supervision as sv
from supervision.metrics import MeanAveragePrecision, MetricTarget


def to_supervision(found: Instances) -> sv.Detections:
    return sv.Detections(
        xyxy=found.boxes.numpy(),
        mask=None if found.masks is None else found.masks.to_dense().numpy(),
        confidence=None if found.scores is None else found.scores.numpy(),
        class_id=found.labels.numpy() - 1,
    )


def test_areas_and_overlaps() -> None:
    targets, found = make_scene(0)
    theirs = to_supervision(found)
    np.testing.assert_array_equal(theirs.area, found.masks.areas().numpy())
    np.testing.assert_allclose(theirs.box_area, box_area(found.boxes).numpy(), rtol=1e-6)
    wanted = sv.box_iou_batch(targets.boxes.numpy(), found.boxes.numpy())
    np.testing.assert_allclose(box_iou(targets.boxes, found.boxes).numpy(), wanted, atol=1e-6)
    rows, columns, iou = targets.masks.iou(found.masks)
    dense = np.zeros(wanted.shape)
    dense[rows.numpy(), columns.numpy()] = iou.numpy()
    np.testing.assert_allclose(
        dense, sv.mask_iou_batch(targets.masks.to_dense().numpy(), found.masks.to_dense().numpy()), atol=1e-6
    )


def test_boxes_end_behind_the_last_pixel_where_supervision_ends_at_it() -> None:
    _, found = make_scene(1)
    theirs = sv.mask_to_xyxy(found.masks.to_dense().numpy())
    np.testing.assert_array_equal(found.boxes.numpy(), theirs + np.array([0, 0, 1, 1]))


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("threshold", [0.31, 0.52, 0.73])
def test_nms_keeps_the_same_detections(threshold: float, agnostic: bool) -> None:
    _, found = make_scene(2, count=60)
    found.scores = torch.rand(len(found), generator=torch.Generator().manual_seed(0))
    kept = to_supervision(Instances(found.size, found.boxes, found.labels, found.scores)).with_nms(threshold, agnostic)
    ours = found[nms(found.boxes, found.scores, threshold, None if agnostic else found.labels)]
    order = np.argsort(-kept.confidence, kind="stable")
    np.testing.assert_array_equal(kept.xyxy[order], ours.boxes.numpy())
    np.testing.assert_array_equal(kept.class_id[order] + 1, ours.labels.numpy())


@pytest.mark.parametrize(("kind", "target"), [("box", MetricTarget.BOXES), ("mask", MetricTarget.MASKS)])
def test_average_precision(kind: str, target: MetricTarget) -> None:
    targets, found = make_scenes()
    targets = {i: each[~each.ignore] for i, each in targets.items() if len(each)}
    found = {i: each for i, each in found.items() if i in targets}
    metric = MeanAveragePrecision(metric_target=target)
    metric.update([to_supervision(found[i]) for i in targets], [to_supervision(each) for each in targets.values()])
    result, figures = metric.compute(), evaluate_coco(targets, found, CLASSES, kind)
    assert result.map50_95 == pytest.approx(figures.ap, abs=2e-3)
    assert result.map50 == pytest.approx(figures.ap50, abs=2e-3)


@pytest.mark.parametrize("faint", [False, True])
def test_detections_in_ellipses_become_detections_of_supervision(tiny_ellipses: Path, faint: bool) -> None:
    detector = toy_detector("mask_rcnn", box__min_score=0.0, box__max_detections=30)
    if faint:
        torch.nn.init.constant_(detector.mask_head.logits.bias, -9.0)
    pictures = sorted((tiny_ellipses / "test" / "images").glob("*.png"))
    for found in Predictor(detector, device="cpu").predict([*pictures]):
        theirs = found.to_supervision()
        assert len(theirs) == len(found) > 0
        np.testing.assert_array_equal(theirs.mask, found.masks.to_dense().numpy())
        assert (theirs.area > 0).all() and np.isfinite(sv.mask_to_xyxy(theirs.mask)).all()
        assert all(len(sv.mask_to_polygons(mask)) > 0 for mask in theirs.mask[theirs.area >= 16])
        output = {name: value for name, value in found.to_torchvision().items() if name != "iscrowd"}
        again = sv.Detections.from_transformers({**output, "masks": output["masks"] > 0.5})
        np.testing.assert_array_equal(again.mask, theirs.mask)
        scene = np.zeros((*found.size, 3), np.uint8)
        assert sv.MaskAnnotator(opacity=1.0).annotate(scene, theirs).any()
