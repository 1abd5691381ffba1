"""Detectors by name."""

import subprocess
import sys

import pytest
import torch
from torchvision.models import WeightsEnum, detection

from maskrcnn.config import UserError, from_dict, to_dict
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.model.presets import PRESETS, britefury, get_preset, torchvision


def test_presets_are_found_by_name_and_small_is_the_default() -> None:
    assert get_preset("small") == DetectorConfig()
    assert get_preset("britefury") == britefury() and get_preset("torchvision") == torchvision()


@pytest.mark.parametrize(
    ("name", "hint"), [("torchvison", "did you mean 'torchvision'"), ("yolo", "must be one of small")]
)
def test_unknown_preset_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        get_preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_valid_settings(name: str) -> None:
    config = get_preset(name)
    assert from_dict(DetectorConfig, to_dict(config), name) == config


@pytest.mark.parametrize(
    ("head", "weights"),
    [
        ("mask_rcnn", detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1),
        ("faster_rcnn", detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1),
    ],
)
def test_torchvision_preset_has_the_published_number_of_parameters(head: str, weights: WeightsEnum) -> None:
    with torch.device("meta"):
        detector = Detector(torchvision(), len(weights.meta["categories"]) - 1, head)
    count = sum(parameter.numel() for parameter in detector.parameters())
    assert count == weights.meta["num_params"]


def test_britefury_keeps_strides_from_2_to_16() -> None:
    detector = Detector(britefury(), 1, "rpn").eval()
    assert detector.backbone.strides == [2, 4, 8, 16]
    with torch.no_grad():
        maps = detector.backbone(torch.rand(1, 3, 32, 48))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 32 // s, 48 // s) for s in (2, 4, 8, 16)]


def test_presets_import_no_pytorch() -> None:
    code = "import sys, maskrcnn.model.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
