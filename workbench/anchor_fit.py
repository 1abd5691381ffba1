"""How well anchors and limits fit a data set: the present ones, the defaults and a proposal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskrcnn.config import option
from workbench.config import ExperimentConfig

if TYPE_CHECKING:
    from datasets.statistics import Objects
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.coverage import TargetBoxes
    from maskrcnn.model.proposal import Crowding

ANCHOR_KEYS = (
    "detector.backbone.finest_stride",
    "detector.backbone.num_levels",
    "detector.backbone.pool_level",
    "detector.rpn.anchor_sizes",
    "detector.rpn.anchor_ratios",
    "detector.box.canonical_size",
    "detector.box.canonical_level",
)
LIMIT_KEYS = (
    "detector.rpn.pre_nms_top_n_inference",
    "detector.rpn.pre_nms_top_n_training",
    "detector.rpn.post_nms_top_n_inference",
    "detector.rpn.post_nms_top_n_training",
    "detector.rpn.anchors_per_image",
    "detector.box.rois_per_image",
    "detector.box.max_detections",
)


@dataclass(frozen=True)
class DescribeConfig:
    """Description and proposal."""

    max_images: int = option(
        2000, "max. number of images to read per split, evenly spaced", flag="max_images", minimum=1
    )
    picture: str | None = option(
        None, "PNG file to write (default: data.png in a new folder, reports/describe-DATA-N)", flag="picture"
    )
    write_config: str | None = option(None, "TOML file to write the proposal to", flag="write_config")
    coverage: float = option(
        0.95, "fraction of training objects to match at IoU .5", flag="coverage", minimum=0.0, maximum=1.0
    )
    max_anchors: int = option(9, "max. number of anchors per location", flag="max_anchors", minimum=1, maximum=30)
    finest_stride: str = option(
        "auto",
        "finest stride; auto: 2 (twice the time) if over 5% of the objects are below 8 px, otherwise 4",
        flag="finest_stride",
        choices=("auto", "2", "4"),
    )


@dataclass(frozen=True)
class AnchorSet:
    """Detector configuration and the fit of its anchors: IoU with the best anchor per object, by split."""

    name: str
    detector: DetectorConfig
    ious: Mapping[str, Any]


def measure_crowding(objects: Mapping[str, Objects], config: ExperimentConfig) -> Crowding:
    """Measure how many objects are close together in an image of any split, and in a training sample."""
    import numpy as np

    from datasets.statistics import count_in_crops
    from maskrcnn.model.proposal import Crowding

    fullest = max((_find_max_density(each, config.detector.limit_size) for each in objects.values()), default=0)
    size = config.augment.crop_size or (0,)
    around = count_in_crops(objects["train"], (size[0], size[-1]))
    crop, typical = np.percentile(around, [99, 50]).tolist() if len(around) else (0.0, 0.0)
    return Crowding(fullest, round(crop), round(typical))


def _find_max_density(objects: Objects, limit_size: int) -> int:
    """Find the maximum number of objects per image, divided by the factor that scales the image's limits."""
    from datasets.statistics import count_per_image
    from maskrcnn.model.limits import compute_limit_factor

    factors = [compute_limit_factor((height, width), limit_size) for height, width in objects.sizes.tolist()]
    return max(
        (math.ceil(n / factor) for n, factor in zip(count_per_image(objects).tolist(), factors, strict=True)), default=0
    )


def make_targets(objects: Objects, detector: DetectorConfig) -> TargetBoxes:
    """Make the target boxes of objects in the detector's input."""
    import torch

    from maskrcnn.model.coverage import resize_targets

    return resize_targets(
        torch.from_numpy(objects.boxes), torch.from_numpy(objects.sizes[objects.image]), detector.image
    )


def make_anchor_sets(
    objects: Mapping[str, Objects], config: ExperimentConfig, describe: DescribeConfig, crowd: Crowding
) -> list[AnchorSet]:
    """Make the present anchors, the default anchors if they differ, and, last, the proposed anchors.

    The proposal for the other finest stride precedes the last.
    """
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.coverage import compute_best_ious
    from maskrcnn.model.proposal import propose_anchors, propose_limits

    present = config.detector
    targets = {name: make_targets(each, present) for name, each in objects.items()}

    def measured(name: str, detector: DetectorConfig) -> AnchorSet:
        return AnchorSet(
            name, detector, {split: compute_best_ious(each, detector).numpy() for split, each in targets.items()}
        )

    def proposed(name: str, strides: tuple[int, ...] | None) -> AnchorSet:
        detector = propose_anchors(targets["train"], present, describe.coverage, describe.max_anchors, strides)
        return measured(name, propose_limits(detector, crowd))

    sets = [measured("present", present)]
    default = dataclasses.replace(DetectorConfig(), image=present.image)
    if any(get_option(default, key) != get_option(present, key) for key in ANCHOR_KEYS[:5]):
        sets.append(measured("default", default))
    strides = None if describe.finest_stride == "auto" else (int(describe.finest_stride),)
    chosen = proposed("proposed", strides)
    if strides is None:
        other = 2 if chosen.detector.backbone.finest_stride == 4 else 4
        sets.append(proposed(f"--finest_stride={other}", (other,)))
    return [*sets, chosen]


def get_option(detector: DetectorConfig, key: str) -> Any:
    """Return an option by its dotted key, which starts with "detector."."""
    value: Any = detector
    for name in key.split(".")[1:]:
        value = getattr(value, name)
    return value
