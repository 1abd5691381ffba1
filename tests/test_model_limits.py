"""Top-k limits at inference grow with the image, and what they cut is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector_toy import disks, one_class, toy_config, toy_detector
from torch import Tensor

from benchmarks.slices import oracle
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.views import tiles, whole
from maskrcnn.model.limits import LimitCuts, compute_limit_factor, count_cuts, describe_cuts, get_counts, scale_limit
from maskrcnn.model.presets import get_preset
from maskrcnn.model.rpn import RPN, RPNOutput
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.instances import Instances


@pytest.mark.parametrize(
    ("size", "limit_size", "factor"),
    [
        ((256, 256), 256, 1.0),
        ((100, 200), 256, 1.0),
        ((512, 512), 256, 4.0),
        ((256, 1024), 256, 4.0),
        ((3000, 3000), 0, 1.0),
        ((4096, 4096), 256, 256.0),
    ],
)
def test_limits_grow_with_the_area_above_that_of_the_limit_size(
    size: tuple[int, int], limit_size: int, factor: float
) -> None:
    assert compute_limit_factor(size, limit_size) == factor
    assert scale_limit(1000, factor) == 1000 * factor


def test_torchvision_has_the_same_limits_for_all_images() -> None:
    assert get_preset("torchvision").limit_size == 0


def same(a: Instances, b: Instances) -> bool:
    return torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("head", ["rpn", "mask_rcnn"])
def test_images_up_to_the_limit_size_are_detected_as_with_fixed_limits(head: str) -> None:
    images = [disks(size, seed=i)[0] for i, size in enumerate([(128, 128), (96, 112)])]
    scaled = toy_detector(head, limit_size=128).eval().detect(images)
    fixed = toy_detector(head, limit_size=0).eval().detect(images)
    assert all(len(a) and same(a, b) for a, b in zip(scaled, fixed, strict=True))


def test_a_larger_image_gets_proposals_by_its_area_whatever_is_detected_with_it() -> None:
    images = [disks(size, seed=i)[0] for i, size in enumerate([(64, 64), (256, 256)])]
    detector = toy_detector("rpn", limit_size=64, rpn__nms_threshold=1.0, rpn__pre_nms_top_n_inference=60).eval()
    small, large = detector.detect(images)
    assert (len(small), len(large)) == (60, 16 * 60)
    together = toy_detector(
        "rpn", limit_size=64, rpn__nms_threshold=1.0, rpn__pre_nms_top_n_inference=60, image__pad_to_batch=True
    ).eval()
    assert [len(found) for found in together.detect(images)] == [60, 16 * 60]


def logits_of(best: int, count: int) -> Tensor:
    """`best` likely objects among `count` anchors."""
    return torch.where(torch.arange(count) < best, 1.0, -1.0)[None]


def test_likely_objects_that_the_limits_of_the_rpn_cut_are_counted_by_level_and_image() -> None:
    config = toy_config(
        rpn__anchor_ratios=(1.0,), rpn__pre_nms_top_n_inference=10, rpn__post_nms_top_n_inference=12
    ).rpn
    levels = [AnchorLevel((8.0, 8.0), (4.0, 4.0), torch.tensor([[4.0, 4.0]]), 8, 8) for _ in range(3)]
    logits = [logits_of(best, 64) for best in (15, 10, 3)]
    output = RPNOutput(logits, [torch.zeros(1, 64, 4)] * 3, levels)
    cuts = LimitCuts()
    rpn = RPN(config, 16, (8, 8, 8))
    (found,) = rpn.propose(output, [(64, 64)], training=False, cuts=cuts)
    assert len(found) == 12
    # 15 - 10 before NMS; after it the levels have 10 + 10 + 3 likely ones for 12 places
    assert {cut.option: (cut.detections, cut.views) for cut in cuts.found()} == {
        "pre_nms_limit": (5, 1),
        "post_nms_rois_inference": (11, 1),
    }
    none_cut = LimitCuts()
    rpn.propose(output, [(64, 64)], training=False, factors=[3.0], cuts=none_cut)
    assert none_cut.found() == []


def test_detections_that_are_cut_are_counted_and_the_line_names_the_option() -> None:
    images = [disks((128, 128), seed=i)[0] for i in range(2)]
    changes = {"box__min_score": 0.0, "rpn__post_nms_top_n_inference": 1000}
    every = toy_detector("faster_rcnn", **changes).eval().detect(images)
    detector = toy_detector("faster_rcnn", **changes, box__max_detections=20).eval()
    with count_cuts() as cuts:
        assert describe_cuts(cuts, detector.config) is None
        assert all(len(found) == 20 for found in detector.detect(images))
    (cut,) = [cut for cut in cuts.found() if cut.option == "detection_max_instances"]
    assert (cut.detections, cut.views) == (sum(len(found) - 20 for found in every), 2)
    line = describe_cuts(cuts, detector.config)
    assert line is not None and "--detection_max_instances (20 per 256² px) cut" in line
    assert line.startswith("limits reached, objects") and line.endswith("in 2 images or tiles; increase these limits")


def test_the_line_about_limits_has_the_grammar_of_its_counts() -> None:
    cuts, config = LimitCuts(), toy_detector("faster_rcnn").config
    cuts.add("pre_nms_limit", torch.tensor(1))
    line = describe_cuts(cuts, config)
    assert line is not None and line.startswith("limit reached, objects")
    assert "cut 1 proposal of objectness ≥ .5 in 1 image or tile; increase this limit" in line
    cuts.add("pre_nms_limit", torch.tensor(53))
    cuts.add("detection_max_instances", torch.tensor(3))
    line = describe_cuts(cuts, config)
    assert line is not None and line.startswith("limits reached, objects may be missing: --pre_nms_limit (")
    assert "cut 54 proposals of objectness ≥ .5 in 2 images or tiles; --detection_max_instances" in line
    assert line.endswith("cut 3 detections in 1 image or tile; increase these limits")


def test_training_counts_nothing() -> None:
    image, truths = disks((128, 128))
    detector = toy_detector("mask_rcnn", rpn__pre_nms_top_n_inference=1, rpn__pre_nms_top_n_training=1)
    with count_cuts() as cuts:
        detector.train()([image], [one_class(truths)])
    assert cuts.found() == []


def test_counts_belong_to_their_block_and_leave_no_state_in_the_detector() -> None:
    detector = toy_detector("rpn", rpn__post_nms_top_n_inference=2).eval()
    before = dict(vars(detector))
    with count_cuts() as outer:
        detector.detect([disks((64, 64))[0]])
        with count_cuts() as inner:
            detector.detect([disks((64, 64))[0]])
        assert get_counts() is outer
    detector.detect([disks((64, 64))[0]])
    assert get_counts() is None and vars(detector) == before
    assert outer.found() == inner.found() != []


def many_disks(side: int, count: int) -> Tensor:
    """uint8 `[3, side, side]`: disks of 3 to 12 px across, each in a color of its own (see `benchmarks.slices`)."""
    cells = int(np.ceil(np.sqrt(count)))
    pitch = side / cells
    generator = np.random.default_rng(0)
    labels = np.zeros((side, side), np.int32)
    for number in range(count):
        radius = generator.uniform(1.5, 6)
        center = (np.array(divmod(number, cells)) + 0.5) * pitch + generator.uniform(-1, 1, 2) * (pitch / 2 - radius)
        top, left = (center - radius).astype(int).clip(0)
        rows, columns = np.ogrid[top : top + 14, left : left + 14]
        inside = (rows + 0.5 - center[0]) ** 2 + (columns + 0.5 - center[1]) ** 2 <= radius**2
        window = labels[top : top + 14, left : left + 14]
        window[inside[: window.shape[0], : window.shape[1]]] = number + 1
    return torch.from_numpy(np.stack([labels & 255, labels >> 8 & 255, labels >> 16]).astype(np.uint8))


@pytest.mark.parametrize(("side", "count"), [(3000, 5_000), (4096, 10_000)])
def test_ten_thousand_objects_are_found_whole_and_tiled_alike(side: int, count: int) -> None:
    image = many_disks(side, count)

    def rows(found: Instances) -> set[tuple[int, ...]]:
        assert found.masks is not None
        return set(map(tuple, torch.cat([found.boxes.long(), found.masks.areas()[:, None]], dim=1).tolist()))

    at_once = predict(oracle, image, whole((side, side)))
    tiled = predict(oracle, image, tiles((side, side), 512, 0.1))
    assert len(at_once) == len(tiled) == count
    assert rows(at_once) == rows(tiled)
