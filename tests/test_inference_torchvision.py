"""Our detectors for clients of torchvision's models: target dicts in, losses and dicts of detections out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from detector_toy import HEADS, LOSSES, disks, one_class, toy_detector
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from maskrcnn.config import UserError
from maskrcnn.inference import as_torchvision
from maskrcnn.inference.predictor import Predictor
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances

SCENES = [disks(size, seed=seed) for seed, size in enumerate([(64, 96), (80, 64)])]
IMAGES, TARGETS = [image for image, _ in SCENES], [one_class(targets) for _, targets in SCENES]
FLOATS, DICTS = [image / 255 for image in IMAGES], [targets.to_torchvision() for targets in TARGETS]


def make(head: str = "mask_rcnn", **changes: Any) -> Detector:
    return toy_detector(head, box__min_score=0.0, box__max_detections=20, **changes)


# ---- targets as torchvision has them


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("masks", ["uint8", "bool", "channel"])
def test_target_dicts_give_the_losses_of_instances(head: str, masks: str) -> None:
    convert = {"uint8": lambda m: m, "bool": lambda m: m.bool(), "channel": lambda m: m[:, None]}[masks]
    dicts = [{**target, "masks": convert(target["masks"])} for target in DICTS]
    binary = [Instances.from_torchvision(target, targets.size) for target, targets in zip(DICTS, TARGETS, strict=True)]
    losses = []
    for targets in (binary, dicts, [binary[0], dicts[1]]):
        detector = make(head)
        torch.manual_seed(0)
        losses.append(detector(IMAGES, targets))
    assert losses[0] == losses[1] == losses[2] and losses[0].keys() == LOSSES[head]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (DICTS[:1], "got 2 images but 1 targets; give a list"),
        ([], "got 2 images but 0 targets"),
        ([*DICTS, *DICTS], "got 2 images but 4 targets"),
        (TARGETS[0], "got 2 images but one Instances; give a list"),
        (DICTS[0], "got 2 images but one dict"),
        ([DICTS[0], None], "image 1: targets must be Instances or a dict of boxes and labels, got NoneType"),
        ([DICTS[0], {"boxes": torch.zeros(0, 4)}], "image 1: a target has no 'labels', only 'boxes'"),
        ([DICTS[0], DICTS[0]], r"image 1: 5 masks on a canvas of \(64, 96\)"),
        (
            [DICTS[0], {**DICTS[1], "labels": DICTS[1]["labels"] + 1}],
            "image 1 has an object with label 2, outside 1..1",
        ),
    ],
)
def test_targets_that_do_not_fit_the_images_are_one_line(targets: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as error:
        make()(IMAGES, targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"got one image \[3, 64, 96\]; give \[image\]"),
        (IMAGES[0].permute(1, 2, 0).numpy(), r"got one image \[64, 96, 3\]; give \[image\]"),
        ([IMAGES[0].permute(1, 2, 0).numpy()], r"image 0: .*got numpy.ndarray; torch.from_numpy\(image\).permute"),
        ([IMAGES[0], IMAGES[0].permute(1, 2, 0)], r"image 1: .*got \[64, 96, 3\]; image.permute\(2, 0, 1\)"),
        ([IMAGES[0], "a.png"], r"image 1: an image must be a tensor \[3, H, W\], got str"),
        ("a.png", "got str"),
        (iter(IMAGES), "images must be a list of tensors .*got list_iterator"),
        ({"image": IMAGES[0]}, "got dict"),
        ([np.zeros((8, 8, 3), np.uint8)], "got numpy.ndarray"),
    ],
)
def test_images_that_are_no_list_of_tensors_are_one_line(images: Any, message: str) -> None:
    for arguments in ((images,), (images, TARGETS[:1])):
        with pytest.raises(UserError, match=message) as error:
            make("rpn")(*arguments)
        assert "\n" not in str(error.value)


def test_no_images_have_no_detections_and_no_losses() -> None:
    for changes in ({}, {"image__pad_to_batch": True}):
        detector = make("rpn", **changes)
        assert detector([]) == []
        with pytest.raises(UserError, match="no images to compute losses of; give at least one"):
            detector([], [])
        with pytest.raises(UserError, match="no images to compute feature maps of"):
            detector.features([])


def test_one_tensor_of_a_batch_is_a_list_of_images() -> None:
    batch = torch.stack([IMAGES[0], IMAGES[0].flip(2)])
    detector = make("faster_rcnn")
    for found, wanted in zip(detector(batch), detector(list(batch)), strict=True):
        assert torch.equal(found.boxes, wanted.boxes)


# ---- the adapter


def their_model() -> MaskRCNN:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return MaskRCNN(backbone, 2, min_size=64, max_size=96, box_score_thresh=0.0, box_detections_per_img=5)


@pytest.mark.parametrize("model", [as_torchvision(make()), their_model()], ids=["ours", "theirs"])
def test_outputs_have_the_form_of_torchvisions(model: nn.Module) -> None:
    losses = model.train()(FLOATS, DICTS)
    assert all(loss.ndim == 0 and loss.requires_grad for loss in losses.values())
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"} == set(losses)
    with torch.no_grad():
        outputs = model.eval()(FLOATS)
    for image, found in zip(FLOATS, outputs, strict=True):
        assert list(found) == ["boxes", "labels", "scores", "masks"]
        count, size = len(found["boxes"]), tuple(image.shape[1:])
        assert found["boxes"].shape == (count, 4) and count > 0
        assert found["labels"].dtype == torch.int64 and found["labels"].tolist() == [1] * count
        assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
        assert found["masks"].shape == (count, 1, *size) and found["masks"].dtype == torch.float32
        assert found["masks"].min() >= 0 and found["masks"].max() <= 1
        assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("head", HEADS)
def test_detections_are_those_of_the_detector(head: str) -> None:
    detector = make(head)
    for found, wanted in zip(as_torchvision(detector).eval()(IMAGES), detector(IMAGES), strict=True):
        assert list(found) == ["boxes", "labels", "scores", *["masks"] * (head == "mask_rcnn")]
        assert torch.equal(found["boxes"], wanted.boxes) and torch.equal(found["scores"], wanted.scores)
        if wanted.masks is not None:
            assert torch.equal(found["masks"][:, 0] >= 128 / 255, wanted.masks.to_dense())


def test_a_training_loop_of_torchvisions_reference_learns() -> None:
    """`references/detection/engine.py`: losses summed, and the evaluation's outputs moved to the CPU."""
    model = as_torchvision(make())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    before = copy.deepcopy(model.state_dict())
    totals = []
    for _ in range(20):
        model.train()
        torch.manual_seed(0)
        losses: Tensor = sum(loss for loss in model([*FLOATS], [{k: v for k, v in t.items()} for t in DICTS]).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        totals.append(float(losses.detach()))
    assert totals[-1] < 0.8 * totals[0]
    assert all(name.startswith("detector.") for name in before)
    model.eval()
    outputs = [{k: v.to("cpu") for k, v in each.items()} for each in model(FLOATS)]
    assert len(outputs) == 2


def test_modes_are_kept_and_targets_ignored_at_inference() -> None:
    detector = make("faster_rcnn").train()
    detector.backbone.body.bn1.eval()
    model = as_torchvision(detector)
    assert model.training and not detector.backbone.body.bn1.training
    assert not as_torchvision(detector.eval()).training
    model.eval()
    assert isinstance(model(FLOATS, DICTS), list)
    with pytest.raises(UserError, match="targets must be given in training mode"):
        model.train()(FLOATS)


def test_a_predictor_is_taken_as_its_detector() -> None:
    detector = make("rpn")
    assert as_torchvision(Predictor(detector, device="cpu")).detector is detector


def test_drawings_of_torchvision_take_the_outputs() -> None:
    (found, _) = as_torchvision(make()).eval()(IMAGES)
    drawn = draw_segmentation_masks(IMAGES[0], found["masks"][:, 0] > 0.5, alpha=1.0, colors="red")
    covered = (found["masks"][:, 0] > 0.5).any(dim=0)
    changed = (drawn != IMAGES[0]).any(dim=0)
    assert covered.any() and torch.equal(changed, covered)
    assert draw_bounding_boxes(IMAGES[0], found["boxes"]).shape == IMAGES[0].shape


# ---- empty masks


@pytest.mark.parametrize("views", ["none", "flips"])
def test_no_detection_has_an_empty_mask(views: str) -> None:
    detector = make()
    with torch.no_grad():
        detector.mask_head.logits.bias.fill_(-9.0)
        detector.mask_head.logits.weight.mul_(0.01)
    found = Predictor(detector, device="cpu").predict(IMAGES[0], views=views)
    assert len(found) > 0 and found.masks.areas().tolist() == [1] * len(found)
    pixels = found.masks.boxes()
    assert (pixels[:, :2] >= found.boxes[:, :2].floor()).all() and (pixels[:, 2:] <= found.boxes[:, 2:].ceil()).all()
    assert all(polygon for polygon in found.to_coco())
