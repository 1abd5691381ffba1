"""COCO figures: equal to pycocotools on the same files, right where the answer is known, quiet where it is empty."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import SIZE_RANGES, compute_proposal_recall, evaluate_coco
from maskrcnn.evaluation.coco_format import to_coco_dataset, to_coco_results, write_coco_results
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

CLASSES = ("disk", "square", "never seen")


def blobs(rng, count, size=(160, 160), largest=40):
    """Random filled ellipses as windows."""
    windows, levels = [], []
    for _ in range(count):
        width, height = np.exp(rng.uniform(math.log(2), math.log(largest), 2)).astype(int)
        x, y = rng.integers(0, size[1] - width), rng.integers(0, size[0] - height)
        rows, columns = np.mgrid[:height, :width] + 0.5
        inside = (2 * columns / width - 1) ** 2 + (2 * rows / height - 1) ** 2 <= 1.2
        windows.append((x, y, x + width, y + height))
        levels.append(torch.from_numpy(inside.astype(np.uint8) * 255))
    windows = torch.tensor(windows, dtype=torch.int32).reshape(-1, 4)
    return CroppedMasks.from_windows(windows, levels, size)


def random_scene(seed, num_truths, num_extra):
    """Truths with crowds in two of three classes; detections: truths moved a little, some twice, and noise."""
    rng = np.random.default_rng(seed)
    masks = blobs(rng, num_truths)
    labels = torch.from_numpy(rng.integers(1, 3, num_truths))
    ignore = torch.from_numpy(rng.random(num_truths) < 0.1)
    truth = Instances.from_masks(masks, labels, ignore=ignore)
    parts, found_labels = [blobs(rng, num_extra)], rng.integers(1, 4, num_extra).tolist()
    for index in np.flatnonzero(rng.random(num_truths) < 0.8):
        for _ in range(rng.integers(1, 3)):
            dx, dy = rng.integers(-1, 2, 2).tolist()
            parts.append(masks[int(index)].crop(dx, dy, *masks.size))
            found_labels.append(int(labels[index]))
    found = CroppedMasks.cat(parts)
    scores = torch.from_numpy(np.round(rng.random(len(found)), 2)).float()  # rounded, so that there are ties
    noise = torch.from_numpy(rng.normal(0, 0.4, (len(found), 4))).float()
    boxes = found.boxes() + noise.sort(dim=1).values
    return truth, Instances(masks.size, boxes, torch.tensor(found_labels), scores, found)


def pycocotools_arrays(folder, truths, predictions, kind, limits):
    """Precision and recall of pycocotools, which reads both JSON files from disk."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    (folder / "truth.json").write_text(json.dumps(to_coco_dataset(truths, CLASSES)))
    results = to_coco_results(predictions)
    if kind == "mask":
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    (folder / "results.json").write_text(json.dumps(results))
    truth = coco.COCO(str(folder / "truth.json"))
    found = truth.loadRes(str(folder / "results.json"))
    evaluator = cocoeval.COCOeval(truth, found, {"box": "bbox", "mask": "segm"}[kind])
    evaluator.params.maxDets = list(limits)
    evaluator.params.areaRng = [list(ends) for ends in SIZE_RANGES.values()]
    evaluator.params.areaRngLbl = list(SIZE_RANGES)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_arrays_equal_pycocotools_on_the_same_files(tmp_path, kind):
    counts = [(60, 90), (3, 130), (0, 5), (40, 0), (0, 0)]
    scenes = {7 + i: random_scene(i, *count) for i, count in enumerate(counts)}
    truths = {i: truth for i, (truth, _) in scenes.items()}
    predictions = {i: prediction for i, (_, prediction) in scenes.items()}
    assert max(len(p) for p in predictions.values()) > 101

    figures = evaluate_coco(truths, predictions, CLASSES, kind)
    precision, recall = pycocotools_arrays(tmp_path, truths, predictions, kind, figures.limits)

    assert figures.limits[-1] >= max(len(p) for p in predictions.values())
    np.testing.assert_allclose(np.nan_to_num(figures.precision, nan=-1), precision, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.nan_to_num(figures.recall, nan=-1), recall, rtol=0, atol=1e-9)
    assert 0.05 < figures.ap < 0.95
    assert figures.ap == pytest.approx(precision[..., 0, -1][precision[..., 0, -1] > -1].mean(), abs=1e-12)
    assert figures.ap_by_class["never seen"] is None


def disk(x, y, radius=8, size=(64, 64)):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return torch.from_numpy((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def disks(centres, scores=None, ignore=None, **kwargs):
    masks = CroppedMasks.from_dense(torch.stack([disk(*centre, **kwargs) for centre in centres]))
    instances = Instances.from_masks(masks, torch.ones(len(centres), dtype=torch.int64))
    instances.scores = None if scores is None else torch.tensor(scores)
    if ignore is not None:
        instances.ignore = torch.tensor(ignore)
    return instances


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("shift", [0, 1, 2, 3, 4, 6, 9])
def test_shifted_disk_is_found_at_the_thresholds_below_its_iou(kind, shift):
    truth = disks([(30, 30)])
    prediction = disks([(30 + shift, 30)], scores=[0.9])
    a, b = disk(30, 30), disk(30 + shift, 30)
    overlap = int((a & b).sum()) / int((a | b).sum()) if kind == "mask" else (16 - shift) / (16 + shift)
    figures = evaluate_coco({1: truth}, {1: prediction}, ("disk",), kind)
    expected = np.mean([overlap >= t for t in np.linspace(0.5, 0.95, 10)])
    assert figures.ap == pytest.approx(expected)
    assert figures.ar == pytest.approx(expected)


def test_false_alarm_above_the_hit_halves_precision_and_a_miss_halves_recall():
    truth = disks([(15, 15), (45, 45)])
    prediction = disks([(15, 45), (15, 15)], scores=[0.9, 0.8])
    figures = evaluate_coco({1: truth}, {1: prediction}, ("disk",))
    recall, precision = figures.precision_recall_curves((0.5,))[0.5]
    assert figures.ar == 0.5
    assert precision[recall <= 0.5] == pytest.approx(0.5)
    assert precision[recall > 0.5] == pytest.approx(0.0)


def test_ignored_truth_is_neither_missed_nor_a_false_alarm():
    truth = disks([(15, 15), (45, 45)], ignore=[False, True])
    both = disks([(45, 45), (15, 15)], scores=[0.9, 0.8])
    one = disks([(15, 15)], scores=[0.8])
    for prediction in (both, one):
        assert evaluate_coco({1: truth}, {1: prediction}, ("disk",), "mask").ap == pytest.approx(1.0)


def test_every_detection_counts_beyond_one_hundred():
    centres = [(4 + 8 * i, 4 + 8 * j) for i in range(12) for j in range(12)]
    truth = disks(centres, radius=3, size=(96, 96))
    prediction = disks(centres, scores=np.linspace(0.9, 0.1, len(centres)).tolist(), radius=3, size=(96, 96))
    figures = evaluate_coco({1: truth}, {1: prediction}, ("disk",))
    assert figures.ap == pytest.approx(1.0)
    assert figures.average_recall(limit=100) == pytest.approx(100 / 144)


def test_sizes_of_masks_are_their_pixels_not_their_boxes():
    """A thin diagonal has a box above 16² and few pixels; were boxes left in, its miss would fall into another bin."""
    thin = CroppedMasks.from_dense(torch.eye(20, dtype=torch.bool)[None])
    truth = Instances.from_masks(thin, torch.ones(1, dtype=torch.int64))
    prediction = Instances((20, 20), truth.boxes, truth.labels, torch.tensor([0.9]), thin)
    figures = evaluate_coco({1: truth}, {1: prediction}, ("line",), "mask")
    assert figures.ap_by_size["very_tiny"] == pytest.approx(1.0)
    assert figures.ap_by_size["aitod_small"] is None
    assert figures.ap_by_size["small"] == pytest.approx(1.0)


def test_class_agnostic_evaluation_forgives_the_wrong_class():
    truth, prediction = disks([(20, 20)]), disks([(20, 20)], scores=[0.5])
    prediction.labels = torch.tensor([2])
    assert evaluate_coco({1: truth}, {1: prediction}, ("a", "b")).ap == 0
    assert evaluate_coco({1: truth}, {1: prediction}, ("a", "b"), class_agnostic=True).ap == pytest.approx(1.0)
    assert prediction.labels.tolist() == [2]


def test_proposal_recall_grows_with_the_number_of_proposals():
    truth = disks([(10, 10), (30, 30), (50, 50)], radius=6)
    proposals = disks([(10, 10), (10, 50), (30, 30), (50, 10), (50, 50)], [0.9, 0.8, 0.7, 0.6, 0.5], radius=6)
    recall = compute_proposal_recall({1: truth}, {1: proposals}, limits=(1, 2, 3))
    assert recall == pytest.approx({"ar_1": 1 / 3, "ar_2": 1 / 3, "ar_3": 2 / 3, "ar_all": 1.0})


EMPTY = Instances.empty((64, 64))
NOTHING_FOUND = Instances((64, 64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize(
    ("truths", "predictions", "expected"),
    [
        ({}, {}, None),
        ({1: EMPTY}, {}, None),
        ({1: EMPTY}, {1: NOTHING_FOUND}, None),
        ({1: EMPTY}, {1: disks([(9, 9)], [0.5])}, None),
        ({1: disks([(9, 9)])}, {}, 0.0),
        ({1: disks([(9, 9)])}, {1: NOTHING_FOUND}, 0.0),
        ({1: disks([(9, 9)], ignore=[True])}, {1: disks([(9, 9)], [0.5])}, None),
        ({1: EMPTY, 2: disks([(9, 9)])}, {2: disks([(9, 9)], [0.5])}, 1.0),
    ],
)
def test_emptiness_needs_no_special_case(truths, predictions, expected, kind):
    figures = evaluate_coco(truths, predictions, ("disk",), kind)
    assert figures.ap == (None if expected is None else pytest.approx(expected))
    assert figures.ar == figures.ap
    assert not (figures.precision < 0).any() and not (figures.recall < 0).any()
    assert (figures.precision_recall_curves() == {}) == (expected is None)


@pytest.mark.parametrize(
    ("truths", "predictions", "kind", "message"),
    [
        ({1: EMPTY}, {2: NOTHING_FOUND}, "box", "image 2"),
        ({1: EMPTY}, {1: disks([(9, 9)])}, "box", "no scores"),
        ({1: EMPTY}, {1: Instances((64, 64), torch.ones(1, 4), torch.ones(1, dtype=torch.int64), torch.ones(1))},
         "mask", "no masks"),
        ({1: EMPTY}, {}, "bbox", "bbox"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_evaluated_is_named(truths, predictions, kind, message):
    with pytest.raises(UserError, match=message):
        evaluate_coco(truths, predictions, ("disk",), kind)


def test_results_file_holds_xywh_boxes_scores_and_masks(tmp_path):
    paths = write_coco_results(tmp_path, {3: disks([(20, 30)], scores=[0.25], radius=8)}, [44])
    assert sorted(tmp_path.iterdir()) == paths == [tmp_path / "coco_boxes.json", tmp_path / "coco_masks.json"]
    for path, given, missing in zip(paths, ("bbox", "segmentation"), ("segmentation", "bbox"), strict=True):
        (result,) = json.loads(path.read_text())
        assert result["image_id"] == 3 and result["category_id"] == 44 and result["score"] == 0.25
        assert given in result and missing not in result
    assert json.loads(paths[0].read_text())[0]["bbox"] == [12, 22, 16, 16]
    assert result["segmentation"]["size"] == [64, 64]
    boxes = replace(disks([(20, 30)], scores=[0.25], radius=8), masks=None)
    assert write_coco_results(tmp_path, {3: boxes}) == paths[:1]


def test_truth_file_marks_ignored_objects_as_crowds_and_counts_pixels():
    truth = disks([(20, 30), (40, 30)], ignore=[False, True])
    data = to_coco_dataset({3: truth, 4: EMPTY}, ("disk",), {3: "a.png"})
    assert [image["file_name"] for image in data["images"]] == ["a.png", ""]
    assert [a["id"] for a in data["annotations"]] == [1, 2]
    assert [a["iscrowd"] for a in data["annotations"]] == [0, 1]
    assert data["annotations"][0]["area"] == int(disk(20, 30).sum())
