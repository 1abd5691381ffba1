"""Ground-truth boxes are the file's, not the extents of masks; objects with an empty mask count for boxes alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_toy import toy_detector
from PIL import Image

from augment.libraries.adapters import TorchVision
from augment.mixing import CopyPaste
from datasets.readers.coco import Coco
from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.evaluation.nuclei import compute_image_mean_precision
from maskrcnn.plotting.matching import match_detections
from maskrcnn.structures.affine import (
    compose_around_center,
    identity,
    map_boxes,
    map_margins,
    mirror,
    rotation,
    scaling,
    translation,
    transposition,
)
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.warping import warp, warp_instances

SIZE = (48, 64)


def objects(windows, boxes, ignore=None) -> Instances:
    """Rectangular masks, and boxes of their own; a window without area is an empty mask."""
    windows = torch.tensor(windows, dtype=torch.int32)
    levels = [torch.full((y2 - y1, x2 - x1), 255, dtype=torch.uint8) for x1, y1, x2, y2 in windows.tolist()]
    count = len(windows)
    return Instances(
        SIZE,
        torch.tensor(boxes, dtype=torch.float32),
        torch.ones(count, dtype=torch.int64),
        masks=CroppedMasks.from_windows(windows, levels, SIZE),
        ignore=torch.tensor(ignore or [False] * count),
        ids=torch.arange(1, count + 1),
    )


def detections(truth: Instances, scores=None) -> Instances:
    scores = torch.ones(len(truth)) if scores is None else torch.tensor(scores)
    return replace(truth, scores=scores, ignore=torch.zeros(len(truth), dtype=torch.bool))


PAIR = objects([(10, 8, 14, 12), (30, 20, 36, 22)], [(9.5, 8, 15, 13.25), (31, 19, 36.5, 23)])
HOLLOW = objects([(10, 8, 14, 12), (0, 0, 0, 0)], [(10, 8, 14, 12), (40.5, 30, 46, 34)])


# ---- reading


def write_coco(folder: Path, rows) -> Path:
    """One image with annotations of (segmentation, bbox)."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", SIZE[::-1]).save(folder / "images" / "a.png")
    entries = [
        {"id": n, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": outline, "bbox": box}
        for n, (outline, box) in enumerate(rows, start=1)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": SIZE[1], "height": SIZE[0]}]
    content = {"images": images, "categories": [{"id": 1, "name": "spot"}], "annotations": entries}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def corners(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x, y + height, x + width, y + height, x + width, y]]


def test_tiny_outlines_have_the_boxes_of_the_file(tmp_path):
    """Corners at the centers of the outermost pixels, parts of a pixel, and a line: as annotators click them."""
    inclusive = [(corners(8 * k, 4, s - 1, s - 1), [8 * k, 4, s, s]) for k, s in enumerate((1, 2, 3, 4, 6))]
    parts = [(corners(8 * k + 0.3, 20.3, s, s), [8 * k + 0.3, 20.3, s, s]) for k, s in enumerate((0.4, 0.8, 1.6))]
    lines = [([[8 * k, 36, 8 * k + 3, 36, 8 * k + 3, 36]], [8 * k, 36, 3, 1]) for k in range(3)]
    truth = Coco(write_coco(tmp_path, inclusive + parts + lines), "train")[0][1]
    wanted = torch.tensor([box for _, box in inclusive + parts + lines])
    assert len(truth) == 11 and not truth.ignore.any()
    assert torch.allclose(truth.boxes, torch.cat([wanted[:, :2], wanted[:, :2] + wanted[:, 2:]], dim=1))
    assert not truth.has_mask().all() and truth.has_mask().any()
    for kind in ("box", "mask"):
        assert evaluate_coco({1: truth}, {1: detections(truth)}, ("spot",), kind).ap == pytest.approx(1)


# ---- evaluation


@pytest.mark.parametrize("order", [[0.9, 0.8], [0.8, 0.9]])
def test_a_detection_at_an_empty_mask_is_neither_true_nor_false(order):
    """Whether or not the detection there has a mask; elsewhere it is a false positive as ever."""
    drawn = objects([(10, 8, 14, 12), (41, 30, 46, 34)], HOLLOW.boxes.tolist())
    for found in (detections(HOLLOW, order), detections(drawn, order)):
        assert evaluate_coco({1: HOLLOW}, {1: found}, ("spot",), "mask").ap == pytest.approx(1)
        assert evaluate_coco({1: HOLLOW}, {1: found}, ("spot",), "box").ap == pytest.approx(1)
    astray = objects([(10, 8, 14, 12), (50, 40, 56, 44)], HOLLOW.boxes.tolist())
    ap = evaluate_coco({1: HOLLOW}, {1: detections(astray, [0.8, 0.9])}, ("spot",), "mask").ap
    assert ap == pytest.approx(0.5)
    assert evaluate_coco({1: HOLLOW}, {1: detections(HOLLOW[:1])}, ("spot",), "mask").ap == pytest.approx(1)
    assert evaluate_coco({1: HOLLOW}, {1: detections(HOLLOW[:1])}, ("spot",), "box").ap < 0.6


def test_an_empty_mask_is_ignored_in_label_images_and_pictures():
    drawn = detections(objects([(10, 8, 14, 12), (41, 30, 46, 34)], HOLLOW.boxes.tolist()))
    assert compute_image_mean_precision(HOLLOW, drawn) == 1 and compute_image_mean_precision(HOLLOW, drawn[:1]) == 1
    assert compute_image_mean_precision(HOLLOW, drawn[1:]) == 0
    by_masks = match_detections(HOLLOW, drawn, by_masks=True)
    assert by_masks.false_negatives.tolist() == by_masks.false_positives.tolist() == [False, False]
    assert match_detections(HOLLOW, drawn[:1]).false_negatives.tolist() == [False, True]


# ---- training


def test_an_empty_mask_gives_box_targets_and_no_mask_targets():
    detector = toy_detector(box__rois_per_image=64)
    features = detector.features([torch.rand(3, *SIZE)])
    samples = detector.box_head.sample(features, [Instances.empty(SIZE)], [HOLLOW])
    positive = detector.mask_head._find_positives(samples, 0, HOLLOW)
    assert set(samples.targets[samples.labels > 0].tolist()) == {0, 1}
    assert set(samples.targets[positive].tolist()) == {0}
    losses = detector.losses([torch.rand(3, *SIZE)], [HOLLOW[1:]])
    assert losses["loss_mask"] == 0 and all(bool(torch.isfinite(value)) for value in losses.values())


# ---- geometric changes


@pytest.mark.parametrize(
    ("matrix", "size"),
    [
        (identity(), SIZE),
        (mirror(SIZE, horizontal=True), SIZE),
        (mirror(SIZE, horizontal=True, vertical=True), SIZE),
        (transposition(), SIZE[::-1]),
        (compose_around_center(rotation(90), (SIZE[0], SIZE[0])), (SIZE[0], SIZE[0])),
        (translation(-5, 3), SIZE),
        (scaling(3, 2), (SIZE[0] * 2, SIZE[1] * 3)),
    ],
)
@pytest.mark.parametrize("truth", [PAIR, HOLLOW])
def test_boxes_are_mapped_as_the_masks_are(matrix, size, truth):
    moved = warp_instances(truth, matrix, size)
    assert moved.ids.tolist() == [1, 2]
    assert torch.allclose(moved.boxes, map_boxes(matrix, truth.boxes), atol=1e-5)
    assert moved.has_mask().tolist() == truth.has_mask().tolist()


def test_an_equal_margin_stays_equal_at_any_angle():
    margins = torch.tensor([[-1.5, -1.5, 1.5, 1.5], [0.5, 0.5, -0.5, -0.5]])
    for angle in (17, 45, 90, 200):
        assert torch.allclose(map_margins(rotation(angle)[:, :2], margins).float(), margins, atol=1e-6)
    around = compose_around_center(rotation(30), SIZE)
    wide = warp_instances(replace(PAIR, boxes=PAIR.masks.boxes() + margins[0]), around, SIZE)
    tight = warp_instances(replace(PAIR, boxes=PAIR.masks.boxes()), around, SIZE)
    assert torch.allclose(wide.boxes[1], tight.boxes[1] + margins[0], atol=1e-4)  # the first one is cut


def test_the_box_of_a_cut_object_follows_what_is_left_of_its_mask():
    moved = warp_instances(PAIR, translation(-12, 0), SIZE)
    assert moved.boxes[0].tolist() == [0, 8, 3, 13.25]  # the margin of the cut side lies beyond the canvas
    far = objects([(2, 8, 20, 12)], [(2, 8, 6, 12)])  # hardly belongs to its mask, of which the other end is left
    assert warp_instances(far, translation(-18, 0), SIZE).boxes.tolist() == [[0, 8, 2, 12]]


def test_an_object_with_an_empty_mask_is_cut_by_its_box():
    assert len(warp_instances(HOLLOW, translation(30, 0), SIZE)) == 1
    moved = warp_instances(HOLLOW, translation(20, 0), SIZE)
    assert moved.boxes[1].tolist() == [60.5, 30, 64, 34] and moved.ignore.tolist() == [False, False]


def test_copy_and_paste_keeps_margins():
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    pasted = CopyPaste(1, max_overlap=0.0)(image, PAIR[:1], torch.Generator().manual_seed(3))[1]
    assert len(pasted) == 2
    margins = pasted.boxes - pasted.masks.boxes()
    assert margins[0].tolist() == [-0.5, 0, 1, 1.25]
    assert sorted(margins[1].abs().tolist()) == [0, 0.5, 1, 1.25]
    kept = CopyPaste(1)(image, HOLLOW, torch.Generator().manual_seed(1))[1]
    assert kept.boxes[:2].tolist() == HOLLOW.boxes.tolist() and not kept.has_mask()[1]


def test_other_libraries_keep_margins_and_empty_masks():
    from torchvision.transforms import v2

    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    moved = TorchVision(v2.RandomHorizontalFlip(1.0))(image, HOLLOW, torch.Generator())[1]
    assert torch.allclose(moved.boxes, map_boxes(mirror(SIZE, horizontal=True), HOLLOW.boxes), atol=1e-4)
    moved = TorchVision(v2.RandomHorizontalFlip(1.0))(image, PAIR, torch.Generator())[1]
    assert torch.allclose(moved.boxes, map_boxes(mirror(SIZE, horizontal=True), PAIR.boxes), atol=1e-3)
    moved = TorchVision(v2.RandomRotation((90, 90), expand=True))(image, PAIR, torch.Generator())[1]
    margins = moved.boxes - moved.masks.boxes()
    assert np.allclose(margins[0], [0, -1, 1.25, 0.5], atol=1e-3)  # counterclockwise: right is up


def test_warp_and_reflect_do_not_lose_the_boxes():
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    _, moved = warp(image, PAIR, translation(4, 0), SIZE)
    assert torch.allclose(moved.boxes, PAIR.boxes + torch.tensor([4.0, 0, 4, 0]))
