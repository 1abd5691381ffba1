"""A detector small enough for tests, and images with bright disks for it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import merge
from maskrcnn.model.config import BackboneConfig, BoxHeadConfig, DetectorConfig, ImageConfig, MaskHeadConfig, RPNConfig
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

HEADS = ("rpn", "faster_rcnn", "mask_rcnn")
LOSSES = {
    "rpn": {"loss_objectness", "loss_rpn_box_reg"},
    "faster_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"},
    "mask_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"},
}

TOY = DetectorConfig(
    image=ImageConfig(normalization="std", resize="none"),
    backbone=BackboneConfig(
        name="resnet18", stem="conv3", finest_stride=2, width=16, num_levels=3, fpn_channels=16, pool_level=False
    ),
    rpn=RPNConfig(
        anchor_sizes=((8.0,), (16.0,), (32.0,)),
        anchor_ratios=(0.5, 1.0, 2.0),
        anchors_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n_inference=300,
        post_nms_top_n_training=100,
        post_nms_top_n_inference=60,
    ),
    box=BoxHeadConfig(pool_size=5, widths=(32,), rois_per_image=32, positive_fraction=0.25, nms_threshold=0.3),
    mask=MaskHeadConfig(mask_size=14, channels=16, depth=1),
)


def toy_config(**changes: Any) -> DetectorConfig:
    """TOY with settings changed by their dotted key, `.` written as `__`."""
    return merge(TOY, {key.replace("__", "."): value for key, value in changes.items()})


def toy_detector(head: str = "mask_rcnn", num_classes: int = 1, seed: int = 0, **changes: Any) -> Detector:
    torch.manual_seed(seed)
    return Detector(toy_config(**changes), num_classes, head)


def disks(size: tuple[int, int], count: int = 5, seed: int = 0) -> tuple[Tensor, Instances]:
    """A uint8 image of bright disks of radius 3 to 8 on noise, and the truths; label 1 and 2 in turns."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, *size, generator=generator) * 60
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    masks = torch.zeros(count, *size)
    for i in range(count):
        radius = 3 + 5 * float(torch.rand((), generator=generator))
        cx, cy = (float(torch.rand((), generator=generator)) * side for side in (size[1], size[0]))
        masks[i] = (radius + 0.5 - ((x - cx).square() + (y - cy).square()).sqrt()).clamp(0, 1)
        image = image + masks[i] * torch.tensor([120.0, 160.0, 90.0])[:, None, None]
    truths = Instances.from_masks(CroppedMasks.from_dense(masks), torch.ones(count, dtype=torch.int64))
    return image.clamp(0, 255).to(torch.uint8), truths


def one_class(truths: Instances) -> Instances:
    return replace(truths, labels=torch.ones_like(truths.labels))


def squares(size: tuple[int, int], boxes: list[list[int]], ignore: list[bool] | None = None) -> Instances:
    """Truths that fill whole-pixel boxes."""
    windows = torch.tensor(boxes, dtype=torch.int32).reshape(-1, 4)
    levels = [torch.full((y2 - y1, x2 - x1), 255, dtype=torch.uint8) for x1, y1, x2, y2 in windows.tolist()]
    masks = CroppedMasks.from_windows(windows, levels, size)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return Instances.from_masks(masks, labels, None if ignore is None else torch.tensor(ignore))
