"""Settings of the detector: everything a researcher would vary. Imports no PyTorch.

The defaults are for objects of 6 to 40 pixels, trained from scratch; `maskrcnn.model.presets` has others by name.
"""

from dataclasses import dataclass, field

from maskrcnn.config import option

HEADS = ("rpn", "faster_rcnn", "mask_rcnn")
STANDARDISATIONS = ("std", "none", "zerocentre", "zeromean", "imagenet")


@dataclass(frozen=True)
class ImageConfig:
    """Image normalization and resizing."""

    standardisation: str = option(
        "std",
        "std: mean 0, deviation 1 per image; zerocentre: -1..1; zeromean: mean 0 per image; imagenet: its figures",
        flag="standardisation",
        choices=STANDARDISATIONS,
    )
    resize: str = option(
        "none",
        "none; minmax: shorter side to min_size, longer at most max_size; square: longer side to max_size, padded",
        flag="resize",
        choices=("none", "minmax", "square"),
    )
    min_size: int = option(800, "length of the shorter side with resize minmax", minimum=1)
    max_size: int = option(1333, "largest length of the longer side when resizing", minimum=1)
    pad_multiple: int = option(0, "pad height and width to a multiple of this; 0: the coarsest stride", minimum=0)
    pad_to_batch: bool = option(False, "detect in one batch padded to its largest image (results then depend on it)")


@dataclass(frozen=True)
class BackboneConfig:
    """Backbone and FPN."""

    name: str = option(
        "resnet18",
        "body of the network",
        flag="backbone",
        choices=("resnet18", "resnet34", "resnet50", "resnet101", "unet5_wn", "unet5_bn"),
    )
    weights: str = option("none", "start from ImageNet weights", flag="weights", choices=("none", "imagenet"))
    stem: str = option(
        "conv3", "conv7: 7x7; conv3: 3x3 (two of them where finest_stride is 4)", choices=("conv7", "conv3")
    )
    finest_stride: int = option(4, "stride of the finest level; with conv7, 4 adds max-pooling", choices=(2, 4))
    # Below 16 the strided 1x1 convolutions' backward pass writes out of bounds (oneDNN, channels-last, AVX-512).
    width: int = option(64, "channels of the first stage; each later one doubles them", minimum=16)
    num_levels: int = option(3, "stages of the body, and levels of the pyramid", minimum=1, maximum=4)
    norm: str = option("batch", "normalisation layers", choices=("batch", "frozen", "group"))
    norm_eps: float = option(1e-5, "epsilon of the normalisation layers", minimum=0)
    fpn_channels: int = option(64, "channels of the pyramid", minimum=8)
    fpn_norm: bool = option(False, "normalise inside the pyramid")
    pool_level: bool = option(True, "add a coarser level by max-pooling, for the RPN only")


@dataclass(frozen=True)
class RPNConfig:
    """RPN: anchors, matching, sampling, proposals."""

    anchor_sizes: tuple[tuple[float, ...], ...] = option(
        ((12.0,), (24.0,), (48.0,), (96.0,)),
        "anchor sizes (sqrt of the area, px) of each level, finest first",
        minimum=0.1,
    )
    anchor_ratios: tuple[float, ...] = option((0.5, 1.0, 2.0), "height / width of the anchors", minimum=0.01)
    anchor_stride: int = option(1, "cells between anchors along each axis", flag="rpn_anchor_stride", minimum=1)
    anchor_offset: float = option(0.5, "centre of the first anchor, in strides", minimum=0, maximum=1)
    round_anchors: bool = option(False, "round half sides to whole pixels, as torchvision does")
    stride_from_size: bool = option(False, "anchor stride = padded size // feature size, as in torchvision")
    depth: int = option(1, "3x3 convolutions before the predictions", minimum=0)
    focal_loss: bool = option(False, "focal loss for the objectness (gamma 2, alpha .25)", flag="focal_loss")
    positive_iou: float = option(0.7, "IoU from which an anchor is positive", minimum=0, maximum=1)
    negative_iou: float = option(0.3, "IoU below which an anchor is negative", minimum=0, maximum=1)
    forced_ties: str = option(
        "all", "best anchors of a truth made positive: all ties or the nearest", choices=("all", "nearest")
    )
    anchors_per_image: int = option(256, "anchors sampled for the loss", flag="rpn_train_anchors_per_image", minimum=1)
    positive_fraction: float = option(0.5, "largest share of positives among them", minimum=0, maximum=1)
    pre_nms_limit: int = option(
        1000, "proposals kept before NMS, per level (see limit_size)", flag="pre_nms_limit", minimum=1
    )
    pre_nms_limit_training: int = option(400, "the same in training; 0: as pre_nms_limit", minimum=0)
    nms_threshold: float = option(
        0.7, "IoU above which the worse proposal goes", flag="rpn_nms_threshold", minimum=0, maximum=1
    )
    post_nms_training: int = option(500, "proposals of an image in training", flag="post_nms_rois_training", minimum=1)
    post_nms_inference: int = option(
        1024, "proposals per image at inference (see limit_size)", flag="post_nms_rois_inference", minimum=1
    )
    min_size: float = option(1e-3, "smallest side of a proposal, px", minimum=0)
    smooth_l1_beta: float = option(1 / 9, "where the box loss turns linear", minimum=0)


@dataclass(frozen=True)
class BoxHeadConfig:
    """Box head: class and refined box of each RoI."""

    canonical_size: float = option(28.0, "side (px) of the RoIs pooled from canonical_level", minimum=1)
    canonical_level: int = option(1, "log2 of the stride of the level for RoIs of canonical_size", minimum=0)
    pool_size: int = option(7, "bins of RoIAlign along each axis", minimum=1)
    sampling_ratio: int = option(2, "samples in a bin along each axis; 0: adaptive", minimum=0)
    aligned: bool = option(True, "half-pixel correction of RoIAlign")
    widths: tuple[int, ...] = option((512, 512), "fully connected layers")
    class_agnostic: bool = option(False, "one box for all classes")
    coder_weights: tuple[float, float, float, float] = option(
        (10.0, 10.0, 5.0, 5.0), "weights of the box deltas (x, y, w, h)", minimum=1e-3
    )
    positive_iou: float = option(0.5, "IoU from which a proposal is positive", minimum=0, maximum=1)
    rois_per_image: int = option(100, "proposals sampled for the loss", flag="train_rois_per_image", minimum=1)
    positive_fraction: float = option(0.5, "largest share of positives among them", minimum=0, maximum=1)
    hard_negatives: bool = option(False, "sample the hardest proposals instead of random ones", flag="rcnn_hard_neg")
    calibrated: bool = option(
        False, "scores follow the proposals' share of positives, not positive_fraction (random negatives only)"
    )
    append_truths: bool = option(True, "truths join the proposals in training")
    smooth_l1_beta: float = option(1 / 9, "where the box loss turns linear", minimum=0)
    min_confidence: float = option(
        0.05, "least score of a detection", flag="detection_min_confidence", minimum=0, maximum=1
    )
    nms_threshold: float = option(
        0.5, "IoU above which the worse detection of a class goes", flag="detection_nms_threshold", minimum=0, maximum=1
    )
    max_instances: int = option(
        1024, "detections per image (see limit_size)", flag="detection_max_instances", minimum=1
    )
    min_size: float = option(1e-2, "smallest side of a detection, px", minimum=0)


@dataclass(frozen=True)
class MaskHeadConfig:
    """Mask head: one mask per detection."""

    mask_size: int = option(14, "side of the predicted mask; RoIAlign pools half of it", flag="mask_size", minimum=2)
    sampling_ratio: int = option(2, "samples in a bin along each axis; 0: adaptive", minimum=0)
    channels: int = option(128, "channels of the convolutions", minimum=1)
    depth: int = option(4, "3x3 convolutions before up-sampling", minimum=0)
    norm: bool = option(False, "normalise inside the head")
    class_agnostic: bool = option(False, "one mask for all classes")
    rois_per_image: int = option(25, "positives that get a mask loss; 0: all", minimum=0)
    target_sampling_ratio: int = option(0, "samples of the true mask in a cell; 0: adaptive", minimum=0)
    soft_targets: bool = option(True, "targets between 0 and 1; off: thresholded at one half")
    box_enlarge: float = option(
        1.0, "factor by which the mask's frame exceeds the box", flag="mask_box_enlarge", minimum=1
    )
    box_border: float = option(
        0.0, "least border (px) around the box in the mask's frame", flag="mask_box_border_min", minimum=0
    )


@dataclass(frozen=True)
class DetectorConfig:
    """Model."""

    per_sample_loss: bool = option(
        True, "average losses over each image, then the batch; off: pooled", flag="per_sample_loss"
    )
    limit_size: int = option(
        256,
        "side (px) of the images that the limits at inference are for: larger images get more, by their area (0: no)",
        flag="limit_size",
        minimum=0,
    )
    image: ImageConfig = field(default_factory=ImageConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig = field(default_factory=MaskHeadConfig)
