"""Options of the detector. Imports no PyTorch.

The defaults are for objects of 6 to 40 pixels and training from scratch; `maskrcnn.model.presets` has others by name.
"""

from dataclasses import dataclass, field

from maskrcnn.config import option
from maskrcnn.extensions import is_class_name

TIMM = "timm:"  # prefix of the names of timm's networks
HEADS = ("rpn", "faster_rcnn", "mask_rcnn")
STANDARDIZATIONS = ("std", "none", "zerocentre", "zeromean", "imagenet", "image", "percentile", "dataset")


def is_own_backbone(name: str) -> bool:
    """Return whether a backbone is a user's own class, named as module:Class."""
    return is_class_name(name) and not name.startswith(TIMM)


@dataclass(frozen=True)
class ImageConfig:
    """Channels, normalization and resizing of images."""

    channels: int = option(
        3,
        "channels of the images; by default those of the data: 3 for gray, which is repeated, and RGB, without alpha, "
        "and the file's for others",
        flag="channels",
        minimum=1,
    )
    normalization: str = option(
        "std",
        "std: mean 0 per channel, std 1 per image; zerocentre: -1..1; zeromean: mean 0 per channel; imagenet: "
        "ImageNet's mean, std; image: mean 0, std 1 per channel; percentile: percentiles 1 and 99.8 of each channel to "
        "0 and 1; dataset: mean and std of the training images",
        flag="standardisation",
        choices=STANDARDIZATIONS,
        renamed="standardisation",
    )
    mean: tuple[float, ...] = option(
        (), "mean of each channel in [0, 1] for normalization dataset (default: measured on the training images)"
    )
    std: tuple[float, ...] = option((), "std of each channel for normalization dataset (default: measured)", minimum=0)
    gray_levels: tuple[float, ...] = option(
        (),
        "stored values that mean 0 and 1 in images with more than 8 bits; others are clipped (default: measured on a "
        "sample of the training images and saved in the checkpoint)",
        flag="gray_levels",
        renamed="data.gray_levels",
    )
    resize: str = option(
        "none",
        "none; minmax: shorter side to min_size, longer at most max_size; square: longer side to max_size, then padded",
        flag="resize",
        choices=("none", "minmax", "square"),
    )
    min_size: int = option(800, "length of the shorter side for resize minmax (pixels)", minimum=1)
    max_size: int = option(1333, "max. length of the longer side when resizing (pixels)", minimum=1)
    pad_multiple: int = option(
        0, "pad height and width to a multiple of this (pixels; 0: the coarsest stride)", minimum=0
    )
    pad_to_batch: bool = option(
        False, "pad all images of a batch to one size at inference (results then depend on the batch)"
    )

    @property
    def levels(self) -> tuple[float, float] | None:
        """The gray levels, or None."""
        return (self.gray_levels[0], self.gray_levels[1]) if self.gray_levels else None


@dataclass(frozen=True)
class BackboneConfig:
    """Backbone and FPN."""

    name: str = option(
        "resnet18",
        "backbone network; also timm:NAME, or module:Class for your own",
        flag="backbone",
        choices=("resnet18", "resnet34", "resnet50", "resnet101", "unet5_wn", "unet5_bn"),
        pattern=r"timm:[\w.-]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*",
    )
    weights: str = option(
        "none",
        "pretrained weights of the backbone",
        flag="pretrained",
        choices=("none", "imagenet"),
        old_flag="weights",
    )
    stem: str = option(
        "conv3", "conv7: 7x7 convolution; conv3: 3x3 (two of them for finest_stride 4)", choices=("conv7", "conv3")
    )
    finest_stride: int = option(4, "stride of the finest level (with conv7, 4 adds max pooling)", choices=(2, 4))
    # Below 16, the backward pass of strided 1x1 convolutions writes out of bounds (oneDNN, channels-last, AVX-512).
    width: int = option(64, "channels of the first stage; doubled in each later stage", minimum=16)
    num_levels: int = option(3, "stages of the backbone, and levels of the pyramid", minimum=1, maximum=4)
    norm: str = option("batch", "normalization layers", choices=("batch", "frozen", "group"))
    norm_eps: float = option(1e-5, "epsilon of the normalization layers", minimum=0)
    fpn_channels: int = option(64, "channels of the pyramid", minimum=8)
    fpn_norm: bool = option(False, "normalization layers in the pyramid")
    pool_level: bool = option(True, "add a coarser level by max pooling, for the RPN only")


@dataclass(frozen=True)
class RPNConfig:
    """RPN: anchors, matching, sampling, proposals."""

    anchor_sizes: tuple[tuple[float, ...], ...] = option(
        ((12.0,), (24.0,), (48.0,), (96.0,)),
        "anchor sizes per level, finest first (square root of the area, pixels)",
        minimum=0.1,
    )
    anchor_ratios: tuple[float, ...] = option((0.5, 1.0, 2.0), "height / width of the anchors", minimum=0.01)
    anchor_stride: int = option(1, "cells between anchors along each axis", flag="rpn_anchor_stride", minimum=1)
    anchor_offset: float = option(0.5, "center of the first anchor (strides)", minimum=0, maximum=1)
    round_anchors: bool = option(False, "round half the sides to whole pixels, as in torchvision")
    stride_from_size: bool = option(False, "anchor stride is padded size // feature size, as in torchvision")
    depth: int = option(1, "3x3 convolutions before the predictions", minimum=0)
    focal_loss: bool = option(False, "focal loss for objectness (gamma 2, alpha .25)", flag="focal_loss")
    positive_iou: float = option(0.7, "min. IoU of positive anchors", minimum=0, maximum=1)
    negative_iou: float = option(0.3, "IoU below which anchors are negative", minimum=0, maximum=1)
    forced_ties: str = option(
        "all",
        "best anchors of a target that are forced to be positive: all ties or the nearest",
        choices=("all", "nearest"),
    )
    anchors_per_image: int = option(
        256, "anchors sampled per image for the loss", flag="rpn_train_anchors_per_image", minimum=1
    )
    positive_fraction: float = option(0.5, "max. fraction of positives among the samples", minimum=0, maximum=1)
    pre_nms_top_n_inference: int = option(
        1000,
        "max. proposals before NMS, per level (see limit_size)",
        flag="pre_nms_limit",
        minimum=1,
        renamed="pre_nms_limit",
    )
    pre_nms_top_n_training: int = option(
        400,
        "max. proposals before NMS in training, per level (0: as at inference)",
        minimum=0,
        renamed="pre_nms_limit_training",
    )
    nms_threshold: float = option(0.7, "NMS IoU threshold of the RPN", flag="rpn_nms_threshold", minimum=0, maximum=1)
    post_nms_top_n_training: int = option(
        500,
        "max. proposals per image in training",
        flag="post_nms_rois_training",
        minimum=1,
        renamed="post_nms_training",
    )
    post_nms_top_n_inference: int = option(
        1024,
        "max. proposals per image at inference (see limit_size)",
        flag="post_nms_rois_inference",
        minimum=1,
        renamed="post_nms_inference",
    )
    min_size: float = option(1e-3, "min. side of a proposal (pixels)", minimum=0)
    smooth_l1_beta: float = option(1 / 9, "error above which the box loss is linear", minimum=0)


@dataclass(frozen=True)
class BoxHeadConfig:
    """Box head: class and refined box of each RoI."""

    canonical_size: float = option(28.0, "side of the RoIs pooled from canonical_level (pixels)", minimum=1)
    canonical_level: int = option(1, "log2 of the stride of the level for RoIs of canonical_size", minimum=0)
    pool_size: int = option(7, "output size of RoIAlign", minimum=1)
    sampling_ratio: int = option(2, "samples of RoIAlign per bin along each axis (0: adaptive)", minimum=0)
    aligned: bool = option(True, "half-pixel correction in RoIAlign")
    widths: tuple[int, ...] = option((512, 512), "widths of the fully connected layers")
    class_agnostic: bool = option(False, "predict one box for all classes")
    coder_weights: tuple[float, float, float, float] = option(
        (10.0, 10.0, 5.0, 5.0), "weights of the box deltas (x, y, w, h)", minimum=1e-3
    )
    positive_iou: float = option(0.5, "min. IoU of positive proposals", minimum=0, maximum=1)
    rois_per_image: int = option(
        100, "proposals sampled per image for the loss", flag="train_rois_per_image", minimum=1
    )
    positive_fraction: float = option(0.5, "max. fraction of positives among the samples", minimum=0, maximum=1)
    hard_negatives: bool = option(False, "sample the hardest proposals instead of random ones", flag="rcnn_hard_neg")
    calibrated: bool = option(False, "correct scores for the sampled fraction of positives (not with hard_negatives)")
    append_targets: bool = option(True, "add ground-truth boxes to the proposals in training", renamed="append_truths")
    smooth_l1_beta: float = option(1 / 9, "error above which the box loss is linear", minimum=0)
    min_score: float = option(
        0.05,
        "min. score of detections",
        flag="detection_min_confidence",
        minimum=0,
        maximum=1,
        renamed="min_confidence",
    )
    nms_threshold: float = option(
        0.5, "NMS IoU threshold of detections, per class", flag="detection_nms_threshold", minimum=0, maximum=1
    )
    max_detections: int = option(
        1024,
        "max. detections per image (see limit_size)",
        flag="detection_max_instances",
        minimum=1,
        renamed="max_instances",
    )
    min_size: float = option(1e-2, "min. side of a detection (pixels)", minimum=0)


@dataclass(frozen=True)
class MaskHeadConfig:
    """Mask head: one mask per detection."""

    mask_size: int = option(14, "size of the predicted masks; RoIAlign pools half of it", flag="mask_size", minimum=2)
    sampling_ratio: int = option(2, "samples of RoIAlign per bin along each axis (0: adaptive)", minimum=0)
    channels: int = option(128, "channels of the convolutions", minimum=1)
    depth: int = option(4, "3x3 convolutions before upsampling", minimum=0)
    norm: bool = option(False, "normalization layers in the head")
    class_agnostic: bool = option(False, "predict one mask for all classes")
    rois_per_image: int = option(25, "positive RoIs per image for the mask loss (0: all)", minimum=0)
    target_sampling_ratio: int = option(
        0, "samples of the target mask per cell along each axis (0: adaptive)", minimum=0
    )
    soft_targets: bool = option(True, "mask targets in [0, 1]; off: binarized at .5")
    box_enlarge: float = option(1.0, "size of a mask's frame relative to its box", flag="mask_box_enlarge", minimum=1)
    box_border: float = option(
        0.0, "min. border around the box in the mask's frame (pixels)", flag="mask_box_border_min", minimum=0
    )


@dataclass(frozen=True)
class DetectorConfig:
    """Model."""

    per_sample_loss: bool = option(
        True, "average losses over each image, then over the batch; off: over all samples", flag="per_sample_loss"
    )
    limit_size: int = option(
        256,
        "image side for which the limits at inference are (pixels); they grow with the area of larger images (0: no)",
        flag="limit_size",
        minimum=0,
    )
    image: ImageConfig = field(default_factory=ImageConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig = field(default_factory=MaskHeadConfig)
