"""Detector presets: functions that return a configuration. Imports no PyTorch.

The presets that reproduce other models set all relevant options, so new defaults do not affect them.
"""

import difflib

from maskrcnn.config import UserError
from maskrcnn.model.config import (
    BackboneConfig,
    BoxHeadConfig,
    DetectorConfig,
    ImageConfig,
    MaskHeadConfig,
    RPNConfig,
)


def small() -> DetectorConfig:
    """Return the default configuration: a narrow ResNet-18 for objects of 6 to 40 pixels, trained from scratch."""
    return DetectorConfig()


def britefury() -> DetectorConfig:
    """Return the configuration of Britefury's Mask R-CNN (https://github.com/Britefury/pytorch-mask-rcnn).

    ResNet-50 without max pooling, strides 2 to 16, RoIs of about 28 px. Unlike there, anchors are not rounded, and
    detections with scores from .05 are kept (it dropped those below .7, which lowers AP). It started from ImageNet
    weights: `backbone.weights = "imagenet"`.
    """
    return DetectorConfig(
        per_sample_loss=True,
        limit_size=256,
        image=ImageConfig(normalization="std", resize="none", pad_multiple=0),
        backbone=BackboneConfig(
            name="resnet50",
            stem="conv7",
            finest_stride=2,
            width=64,
            num_levels=4,
            norm="batch",
            norm_eps=1e-5,
            fpn_channels=256,
            fpn_norm=False,
            pool_level=False,
        ),
        rpn=RPNConfig(
            anchor_sizes=((16.0,), (32.0,), (64.0,), (128.0,)),
            anchor_ratios=(0.5, 1.0, 2.0),
            anchor_stride=1,
            focal_loss=False,
            positive_iou=0.7,
            negative_iou=0.3,
            anchors_per_image=64,
            pre_nms_top_n_inference=6000,
            pre_nms_top_n_training=0,
            nms_threshold=0.7,
            post_nms_top_n_training=2048,
            post_nms_top_n_inference=1024,
        ),
        box=BoxHeadConfig(
            canonical_size=28.0,
            canonical_level=1,
            pool_size=7,
            widths=(1024, 1024),
            class_agnostic=False,
            positive_iou=0.5,
            rois_per_image=100,
            positive_fraction=0.25,
            hard_negatives=False,
            calibrated=False,
            min_score=0.05,
            nms_threshold=0.3,
            max_detections=1024,
        ),
        mask=MaskHeadConfig(
            mask_size=28, channels=256, depth=4, class_agnostic=False, rois_per_image=0, box_enlarge=1.0, box_border=0.0
        ),
    )


_TORCHVISION_RPN = RPNConfig(
    anchor_sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    anchor_ratios=(0.5, 1.0, 2.0),
    anchor_stride=1,
    anchor_offset=0.0,
    round_anchors=True,
    stride_from_size=True,
    depth=1,
    focal_loss=False,
    positive_iou=0.7,
    negative_iou=0.3,
    forced_ties="all",
    anchors_per_image=256,
    positive_fraction=0.5,
    pre_nms_top_n_inference=1000,
    pre_nms_top_n_training=2000,
    nms_threshold=0.7,
    post_nms_top_n_training=2000,
    post_nms_top_n_inference=1000,
    min_size=1e-3,
    smooth_l1_beta=1 / 9,
)
_TORCHVISION_BOX = BoxHeadConfig(
    canonical_size=224.0,
    canonical_level=4,
    pool_size=7,
    sampling_ratio=2,
    aligned=False,
    widths=(1024, 1024),
    class_agnostic=False,
    coder_weights=(10.0, 10.0, 5.0, 5.0),
    positive_iou=0.5,
    rois_per_image=512,
    positive_fraction=0.25,
    hard_negatives=False,
    calibrated=False,
    append_targets=True,
    smooth_l1_beta=1 / 9,
    min_score=0.05,
    nms_threshold=0.5,
    max_detections=100,
    min_size=1e-2,
)
_TORCHVISION_MASK = MaskHeadConfig(
    mask_size=28,
    sampling_ratio=2,
    channels=256,
    depth=4,
    norm=False,
    class_agnostic=False,
    rois_per_image=0,
    target_sampling_ratio=0,
    soft_targets=True,
    box_enlarge=1.0,
    box_border=0.0,
)


def torchvision(norm: str = "frozen") -> DetectorConfig:
    """Return the configuration of torchvision's `maskrcnn_resnet50_fpn` and `fasterrcnn_resnet50_fpn`.

    `maskrcnn.weights.torchvision` loads their state dicts. For fine-tuning, torchvision also freezes the stem and the
    first stage; that is up to the optimizer, not the configuration.

    Args:
        norm: "frozen" for torchvision's COCO weights, which were trained with eps 0; "batch" for models with
            `weights=None, weights_backbone=None`, which have ordinary batch normalization.
    """
    return DetectorConfig(
        per_sample_loss=False,
        limit_size=0,
        image=ImageConfig(
            normalization="imagenet", resize="minmax", min_size=800, max_size=1333, pad_multiple=32, pad_to_batch=True
        ),
        backbone=BackboneConfig(
            name="resnet50",
            weights="none",
            stem="conv7",
            finest_stride=4,
            width=64,
            num_levels=4,
            norm=norm,
            norm_eps=0.0 if norm == "frozen" else 1e-5,
            fpn_channels=256,
            fpn_norm=False,
            pool_level=True,
        ),
        rpn=_TORCHVISION_RPN,
        box=_TORCHVISION_BOX,
        mask=_TORCHVISION_MASK,
    )


PRESETS = {"small": small, "britefury": britefury, "torchvision": torchvision}


def get_preset(name: str) -> DetectorConfig:
    """Return a preset by name.

    Raises:
        UserError: If it does not exist; suggests the closest name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown detector preset {name!r}: must be one of {', '.join(PRESETS)}{hint}")
    return PRESETS[name]()
