"""Error types, calibration, confusion and LRP beside tidecv, hotcoco and vernier, where the definitions agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers_toy import CLASSES, make_scenes

from maskrcnn.evaluation import matching
from maskrcnn.evaluation.calibration import compute_calibration
from maskrcnn.evaluation.coco import Kind
from maskrcnn.evaluation.coco_format import to_coco_dataset, to_coco_results
from maskrcnn.evaluation.confusion import compute_confusion_matrix
from maskrcnn.evaluation.errors import find_error_types
from maskrcnn.evaluation.localization_recall_precision import compute_lrp
from maskrcnn.evaluation.overlaps import find_overlaps
from maskrcnn.structures.instances import Instances

Images = Mapping[int, Instances]
TIDE_NAMES = {
    "classification": "Cls",
    "localization": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
    "false_positive": "FalsePos",
    "missed_all": "FalseNeg",
}


def make_plain_scenes() -> tuple[Images, Images]:
    """Scenes without ignored objects and tied scores, which the peers treat each in their own way."""
    targets, found = make_scenes(6)
    generator = torch.Generator().manual_seed(1)
    plain = {i: replace(each, ignore=torch.zeros(len(each), dtype=torch.bool)) for i, each in targets.items()}
    untied = {i: replace(each, scores=torch.rand(len(each), generator=generator)) for i, each in found.items()}
    return plain, untied


def to_files(targets: Images, found: Images, kind: Kind) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return to_coco_dataset(targets, CLASSES), to_coco_results(found, with_masks=kind == "mask")


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_error_types_are_those_of_tidecv(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    tidecv = pytest.importorskip("tidecv")
    # Its recall levels differ from those of the COCO API by rounding, which decides where a recall is exactly .29.
    monkeypatch.setattr(matching, "_RECALLS", np.array([level / 100 for level in range(101)]))
    targets, found = make_plain_scenes()
    dataset, results = to_files(targets, found, kind)
    annotated, detections = tidecv.Data("annotated", max_dets=10_000), tidecv.Data("found", max_dets=10_000)
    for image in dataset["images"]:
        annotated.add_image(image["id"], str(image["id"]))
        detections.add_image(image["id"], str(image["id"]))
    for entry in dataset["annotations"]:
        annotated.add_ground_truth(entry["image_id"], entry["category_id"], entry["bbox"], entry["segmentation"])
    for entry in results:
        detections.add_detection(
            entry["image_id"], entry["category_id"], entry["score"], entry["bbox"], entry.get("segmentation")
        )
    with redirect_stdout(StringIO()):
        tide = tidecv.TIDE()
        run = tide.evaluate(annotated, detections, mode=tidecv.TIDE.BOX if kind == "box" else tidecv.TIDE.MASK)
    gained = {each.short_name: value for each, value in (run.fix_main_errors() | run.fix_special_errors()).items()}
    counts = {each.short_name: value for each, value in run.count_errors().items()}
    ours = find_error_types(find_overlaps(targets, found, CLASSES, kind), shift=0)
    assert ours.ap == pytest.approx(run.ap / 100, abs=1e-9)
    assert {TIDE_NAMES[name]: count for name, count in ours.counts.items()} == counts
    assert sum(count > 0 for count in counts.values()) >= 4
    for name, value in ours.gained.items():
        assert value == pytest.approx(gained[TIDE_NAMES[name]] / 100, abs=1e-9), name


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_errors_calibration_and_confusion_are_those_of_hotcoco(tmp_path: Path, kind: Kind) -> None:
    hotcoco = pytest.importorskip("hotcoco")
    targets, found = make_plain_scenes()
    dataset, results = to_files(targets, found, kind)
    (tmp_path / "annotations.json").write_text(json.dumps(dataset))
    (tmp_path / "found.json").write_text(json.dumps(results))
    data = hotcoco.COCO(str(tmp_path / "annotations.json"))
    evaluator = hotcoco.COCOeval(data, data.loadRes(str(tmp_path / "found.json")), "bbox" if kind == "box" else "segm")
    evaluator.params.maxDets = [1, 100, 10_000]
    evaluator.evaluate()
    overlaps = find_overlaps(targets, found, CLASSES, kind)
    theirs = evaluator.calibration(n_bins=10, iou_threshold=0.5)
    assert compute_calibration(overlaps).expected_error == pytest.approx(theirs["ece"], abs=1e-9)
    assert compute_calibration(overlaps).maximum_error == pytest.approx(theirs["mce"], abs=1e-9)
    errors, ours = evaluator.tide_errors(), find_error_types(overlaps, shift=0)
    assert ours.ap == pytest.approx(errors["ap_base"], abs=1e-9)
    short = TIDE_NAMES | {"false_positive": "FP", "missed_all": "FN"}
    assert {short[name]: count for name, count in ours.counts.items()} == errors["counts"]
    for name, value in ours.gained.items():
        assert value == pytest.approx(errors["delta_ap"][short[name]], abs=1e-9), name
    matrix = evaluator.confusion_matrix(iou_thr=0.5, max_det=10_000, min_score=0.3)["matrix"]
    assert np.array_equal(matrix, compute_confusion_matrix(overlaps, 0.3))


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_optimal_lrp_is_that_of_vernier(kind: Kind) -> None:
    instance = pytest.importorskip("vernier").instance
    targets, found = make_plain_scenes()
    dataset, results = to_files(targets, found, kind)
    theirs = instance.optimal_lrp(
        json.dumps(dataset).encode(),
        json.dumps(results).encode(),
        iou=instance.Bbox() if kind == "box" else instance.Segm(),
        tp_threshold=0.5,
        tau_grid=sorted({entry["score"] for entry in results}),
        max_dets_per_image=10_000,
    )
    ours = compute_lrp(find_overlaps(targets, found, CLASSES, kind))
    assert ours is not None
    assert ours.error == pytest.approx(theirs.olrp, abs=1e-9)
    assert ours.false_positive == pytest.approx(theirs.fp, abs=1e-9)
    assert ours.false_negative == pytest.approx(theirs.fn, abs=1e-9)
    assert ours.localization == pytest.approx(0.5 * theirs.loc, abs=1e-9)  # there divided by 1 - τ
