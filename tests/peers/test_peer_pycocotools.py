"""The files that are written, read and scored by the COCO API itself."""

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers_toy import CLASSES, make_scene, make_scenes

from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.evaluation.coco_format import to_coco_dataset, write_coco_results
from maskrcnn.structures.instances import Instances

pytest.importorskip("pycocotools")
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZES = ("all", "small", "medium", "large")
IDS = [(1, 2, 3), (0, 1, 2), (7, 90, 2_000_000_000), (5, 3, 1)]
Images = Mapping[int, Instances]


def score(truth: Path, results: Path, kind: str, limits: tuple[int, ...] = (1, 10, 100)) -> tuple[Any, Any]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M] of a results file, NaN where nothing defines them."""
    with redirect_stdout(io.StringIO()):
        data = COCO(str(truth))
        evaluator = COCOeval(data, data.loadRes(str(results)), kind)
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    return tuple(np.where(evaluator.eval[name] < 0, np.nan, evaluator.eval[name]) for name in ("precision", "recall"))


def write(folder: Path, targets: Images, found: Images, ids: tuple[int, ...]) -> tuple[Path, list[Path]]:
    truth = folder / "truth.json"
    truth.write_text(json.dumps(to_coco_dataset(targets, CLASSES, category_ids=ids)))
    return truth, write_coco_results(folder, found, ids)


def classes_in_order(ids: tuple[int, ...]) -> list[int]:
    """Pycocotools sorts classes by id."""
    return sorted(range(len(ids)), key=ids.__getitem__)


@pytest.mark.parametrize("ids", IDS)
def test_results_files_score_what_we_report(tmp_path: Path, ids: tuple[int, ...]) -> None:
    targets, found = make_scenes()
    truth, results = write(tmp_path, targets, found, ids)
    assert [path.name for path in results] == ["coco_boxes.json", "coco_masks.json"]
    for path, kind, ours in zip(results, ("bbox", "segm"), ("box", "mask"), strict=True):
        precision, recall = score(truth, path, kind)
        figures = evaluate_coco(targets, found, CLASSES, ours, limits=(1, 10, 100))
        order = classes_in_order(ids)
        sizes = slice(0, len(SIZES))
        np.testing.assert_allclose(figures.precision[:, :, order][..., sizes, :3], precision, rtol=0, atol=1e-12)
        np.testing.assert_allclose(figures.recall[:, order][..., sizes, :3], recall, rtol=0, atol=1e-12)
        assert np.nanmean(precision[..., 0, -1]) > 0.2


def test_results_without_masks_are_boxes_alone(tmp_path: Path) -> None:
    targets, found = make_scenes()
    boxes = {i: Instances(each.size, each.boxes, each.labels, each.scores) for i, each in found.items()}
    truth, results = write(tmp_path, targets, boxes, (4, 5, 6))
    assert [path.name for path in results] == ["coco_boxes.json"]
    precision, _ = score(truth, results[0], "bbox")
    figures = evaluate_coco(targets, found, CLASSES, limits=(1, 10, 100))
    np.testing.assert_allclose(figures.precision[..., :4, :3], precision, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_more_objects_than_the_stock_limit(tmp_path: Path, kind: str) -> None:
    """Stock settings count 100 detections per image and class; ours count all, and at 100 give the same."""
    targets, found = make_scenes(2, count=400)
    truth, results = write(tmp_path, targets, found, (1, 2, 3))
    path = results[kind == "segm"]
    figures = evaluate_coco(targets, found, CLASSES, "mask" if kind == "segm" else "box", limits=(1, 10, 100))
    stock, everything = score(truth, path, kind), score(truth, path, kind, (1, 100, 10_000))
    np.testing.assert_allclose(figures.precision[..., :4, 2], stock[0][..., -1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(figures.precision[..., :4, -1], everything[0][..., -1], rtol=0, atol=1e-12)
    assert np.nanmean(everything[1][..., 0, -1]) > np.nanmean(stock[1][..., 0, -1])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_perfect_detector_has_ap_1(tmp_path: Path, kind: str) -> None:
    targets, _ = make_scenes()
    kept = {i: each[~each.ignore] for i, each in targets.items()}
    perfect = {i: Instances(t.size, t.boxes, t.labels, torch.ones(len(t)), t.masks) for i, t in kept.items()}
    truth, results = write(tmp_path, targets, perfect, (0, 8, 9))
    precision, recall = score(truth, results[kind == "segm"], kind)
    assert np.nanmin(precision[..., -1]) > 1 - 1e-12 and np.nanmin(recall[..., 0, -1]) == 1


def test_objects_are_what_was_written(tmp_path: Path) -> None:
    targets, found = make_scenes()
    truth, results = write(tmp_path, targets, found, (0, 7, 90))
    with redirect_stdout(io.StringIO()):
        data = COCO(str(truth))
        masks = data.loadRes(str(results[1]))
    assert [data.cats[i]["name"] for i in (0, 7, 90)] == list(CLASSES)
    for image_id, objects in targets.items():
        entries = data.loadAnns(data.getAnnIds(image_id))
        assert [entry["iscrowd"] for entry in entries] == objects.ignore.long().tolist()
        assert [entry["area"] for entry in entries] == objects.masks.areas().tolist()
        assert [data.annToMask(entry).tolist() for entry in entries] == objects.masks.to_dense().long().tolist()
    for image_id, objects in found.items():
        entries = masks.loadAnns(masks.getAnnIds(image_id))
        assert [masks.annToMask(entry).tolist() for entry in entries] == objects.masks.to_dense().long().tolist()
        assert [entry["area"] for entry in entries] == objects.masks.areas().tolist()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (257, 3), (64, 64)])
def test_run_length_codes_are_the_same_text(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size[1])
    dense = torch.rand(20, *size, generator=generator) < torch.rand(20, 1, 1, generator=generator)
    dense[0], dense[1] = False, True
    from maskrcnn.structures.masks import CroppedMasks

    theirs = [coco_mask.encode(np.asfortranarray(each.numpy().astype(np.uint8))) for each in dense]
    masks = CroppedMasks.from_dense(dense)
    assert [code["counts"] for code in masks.to_rle()] == [code["counts"].decode() for code in theirs]
    assert torch.equal(CroppedMasks.from_rle(theirs, size).to_dense(), dense)
    assert masks.areas().tolist() == coco_mask.area(theirs).tolist()


def test_ious_of_boxes_and_masks() -> None:
    from maskrcnn.ops.boxes import box_iou

    targets, found = make_scene(0)
    xywh = [
        torch.cat([each[:, :2], each[:, 2:] - each[:, :2]], 1).double().numpy() for each in (found.boxes, targets.boxes)
    ]
    theirs = coco_mask.iou(*xywh, [0] * len(targets))
    np.testing.assert_allclose(box_iou(found.boxes, targets.boxes).numpy(), theirs, atol=1e-6)
    codes = [
        [{"size": code["size"], "counts": code["counts"].encode()} for code in each.masks.to_rle()]
        for each in (found, targets)
    ]
    dense = np.zeros((len(found), len(targets)))
    rows, columns, iou = found.masks.iou(targets.masks)
    dense[rows.numpy(), columns.numpy()] = iou.numpy()
    np.testing.assert_allclose(dense, coco_mask.iou(*codes, [0] * len(targets)), atol=1e-6)
