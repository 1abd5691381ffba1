"""The detector of preset `torchvision` computes what torchvision's models compute, in evaluation and in training."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper
from torchvision_twin import (
    NUM_CLASSES,
    Detections,
    Scene,
    differences,
    our_detections,
    random_images,
    their_detections,
)

from maskrcnn.model.anchors import make_anchor_levels
from maskrcnn.model.presets import torchvision
from maskrcnn.ops.matching import all_anchors
from maskrcnn.structures.boxes import assign_levels, decode_boxes, encode_boxes
from maskrcnn.structures.masks import CroppedMasks

BOX_TOLERANCE, TOLERANCE, LOSS_TOLERANCE = 1e-2, 1e-4, 2e-5


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on busy cores wait for each other far longer than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


# ---- evaluation


def assert_equal(ours: Detections, theirs: Detections) -> None:
    found = differences(ours, theirs)
    assert found["boxes"] < BOX_TOLERANCE, found
    assert found["scores"] < TOLERANCE, found
    assert found.get("masks", 0.0) < TOLERANCE, found


@pytest.mark.parametrize(("norm", "mask"), [("frozen", True), ("batch", True), ("frozen", False)])
def test_detections_equal_torchvisions(scene: Scene, norm: str, mask: bool) -> None:
    theirs = scene.detections(norm, mask)
    for each in theirs:  # a comparison of many detections of all classes with distinct scores
        assert len(each["boxes"]) >= (60 if mask else 300)
        assert len(each["scores"].unique()) > 0.95 * len(each["scores"])
        assert len(each["labels"].unique()) == NUM_CLASSES
    assert_equal(our_detections(scene.detector(norm, mask), scene.images), theirs)


def test_detections_equal_torchvisions_at_full_size(scene: Scene) -> None:
    torch.manual_seed(4)
    images = random_images(((45, 300),))
    # torchvision's defaults; the image becomes 199 x 1333.
    defaults = {"image.min_size": 800, "image.max_size": 1333, "rpn.post_nms_top_n_inference": 1000}
    theirs = their_detections(scene.torchvision("frozen", mask=False), images)
    assert_equal(our_detections(scene.detector("frozen", mask=False, **defaults), images), theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"image.pad_to_batch": False},
        {"backbone.norm_eps": 1e-3},
        {"rpn.anchor_ratios": (2.0, 1.0, 0.5)},
        {"rpn.anchor_offset": 0.5},
        {"rpn.round_anchors": False},
        {"rpn.nms_threshold": 0.65},
        {"box.canonical_size": 256.0},
        {"box.canonical_level": 3},
        {"box.sampling_ratio": 0},
        {"box.aligned": True},
        {"box.coder_weights": (10.0, 10.0, 4.0, 4.0)},
        {"box.min_score": 0.06},
        {"box.nms_threshold": 0.45},
    ],
    ids=str,
)
def test_detections_differ_from_torchvisions_by_every_convention(scene: Scene, change: dict[str, Any]) -> None:
    ours = our_detections(scene.detector("frozen", mask=False, **change), scene.images)
    found = differences(ours, scene.detections("frozen", False))
    assert found["boxes"] > 10 * BOX_TOLERANCE or found["scores"] > 10 * TOLERANCE, found


# ---- training


@pytest.mark.parametrize(("norm", "mask"), [("frozen", True), ("batch", True), ("batch", False)])
def test_losses_equal_torchvisions(scene: Scene, norm: str, mask: bool) -> None:
    theirs = scene.losses(norm, mask)
    assert len(theirs) == (5 if mask else 4) and min(theirs.values()) > 100 * LOSS_TOLERANCE
    assert scene.our_losses(scene.detector(norm, mask)) == pytest.approx(theirs, abs=LOSS_TOLERANCE, rel=0)


@pytest.mark.parametrize(
    ("loss", "change"),
    [
        ("loss_mask", {"per_sample_loss": True}),
        ("loss_objectness", {"rpn.forced_ties": "nearest"}),
        ("loss_objectness", {"rpn.positive_iou": 0.5}),
        ("loss_objectness", {"rpn.negative_iou": 0.5}),
        ("loss_rpn_box_reg", {"rpn.smooth_l1_beta": 1.0}),
        ("loss_classifier", {"rpn.pre_nms_top_n_training": 150}),
        ("loss_classifier", {"box.append_targets": False}),
        ("loss_classifier", {"box.positive_iou": 0.55}),
        ("loss_box_reg", {"box.coder_weights": (10.0, 10.0, 4.0, 4.0)}),
        ("loss_box_reg", {"box.smooth_l1_beta": 1.0}),
        ("loss_mask", {"box.aligned": True}),
        ("loss_mask", {"mask.soft_targets": False}),
        ("loss_mask", {"mask.target_sampling_ratio": 1}),
        ("loss_mask", {"mask.box_enlarge": 1.1}),
    ],
    ids=str,
)
def test_losses_differ_from_torchvisions_by_every_convention(scene: Scene, loss: str, change: dict[str, Any]) -> None:
    ours = scene.our_losses(scene.detector("frozen", mask=loss == "loss_mask", **change))
    assert abs(ours[loss] - scene.losses("frozen", True)[loss]) > 10 * LOSS_TOLERANCE


# ---- the parts where random weights seldom come to the edges


def test_box_coder_equals_torchvisions_beyond_its_clamp() -> None:
    generator = torch.Generator().manual_seed(0)
    priors = torch.rand(500, 4, generator=generator) * 50
    priors[:, 2:] += priors[:, :2] + 0.5
    deltas = torch.randn(500, 4, generator=generator) * 20
    weights = (10.0, 10.0, 5.0, 5.0)
    coder = BoxCoder(weights)
    assert (deltas[:, 2:] / 5 > 4.2).sum() > 50
    torch.testing.assert_close(decode_boxes(deltas, priors, weights), coder.decode_single(deltas, priors))
    boxes = priors[torch.randperm(500, generator=generator)]
    torch.testing.assert_close(
        encode_boxes(boxes, priors, weights), coder.encode_single(boxes, priors), rtol=1e-4, atol=1e-4
    )


def test_anchors_equal_torchvisions_where_the_coarsest_map_is_cut() -> None:
    config, padded = torchvision().rpn, (224, 352)
    maps = [torch.zeros(1, 1, -(-224 // stride), -(-352 // stride)) for stride in (4, 8, 16, 32, 64)]
    generator = AnchorGenerator(config.anchor_sizes, (config.anchor_ratios,) * 5)
    expected = generator(ImageList(torch.zeros(1, 3, *padded), [padded]), maps)[0]
    assert torch.equal(all_anchors(make_anchor_levels(config, maps, [4, 8, 16, 32, 64], padded)), expected)


def test_levels_equal_torchvisions_at_every_power_of_two() -> None:
    sides = 224 * 2.0 ** torch.arange(-6, 4)
    sides = torch.cat([sides, sides * (1 - 1e-5), sides * (1 + 1e-5), torch.rand(1000) * 2000])
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides / 2, sides * 2], dim=1)
    assert torch.equal(assign_levels(boxes, 224.0, 4, [2, 3, 4, 5]), LevelMapper(2, 5)([boxes]))


@pytest.mark.parametrize(("size", "new"), [((150, 211), (224, 315)), ((97, 61), (40, 33)), ((7, 300), (31, 1333))])
def test_masks_resize_as_in_torchvisions_transform(size: tuple[int, int], new: tuple[int, int]) -> None:
    dense = torch.rand(6, *size, generator=torch.Generator().manual_seed(1)) > 0.6
    dense[5] = False
    expected = F.interpolate(dense[:, None].float(), new)[:, 0].bool()
    assert torch.equal(CroppedMasks.from_dense(dense).resize(new).to_dense(), expected)


def test_mask_targets_equal_roi_align_of_dense_masks() -> None:
    generator = torch.Generator().manual_seed(2)
    dense = torch.rand(4, 90, 120, generator=generator) > 0.5
    boxes = torch.rand(60, 4, generator=generator) * torch.tensor([120.0, 90.0, 60.0, 60.0]) - 5
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:].abs() + 0.1
    index = torch.randint(4, (60,), generator=generator)
    rois = torch.cat([index[:, None].float(), boxes], dim=1)
    expected = roi_align(dense[:, None].float(), rois, (28, 28), 1.0)[:, 0]
    found = CroppedMasks.from_dense(dense).sample(boxes, 28, index, sampling_ratio=0, aligned=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
