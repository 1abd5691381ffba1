"""Panoptic quality of instances (Kirillov et al. 2019, CVPR).

    PQ = Σ over TP of IoU / (TP + FP / 2 + FN / 2) = SQ · RQ,

where the segmentation quality SQ is the mean IoU of true positives and the recognition quality RQ is F1. Segments do
not overlap, so that each has at most one partner with an IoU above .5. Masks that overlap are painted first: detections
with the highest score on top, objects in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from maskrcnn.config import UserError
from maskrcnn.evaluation.matching import match_overlaps
from maskrcnn.evaluation.overlaps import find_overlaps
from maskrcnn.structures.edges import MIN_VISIBLE_FRACTION
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

_ABOVE_HALF = float(np.nextafter(0.5, 1))


@dataclass(frozen=True)
class PanopticQuality:
    """Panoptic quality, mean over the classes that have objects or detections.

    Attributes:
        quality: PQ in [0, 1].
        segmentation: SQ.
        recognition: RQ.
        by_class: PQ of each of these classes by name.
    """

    quality: float
    segmentation: float
    recognition: float
    by_class: Mapping[str, float]


def compute_panoptic_quality(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    score_threshold: float,
    min_visible_fraction: float = MIN_VISIBLE_FRACTION,
) -> PanopticQuality | None:
    """Compute PQ, SQ and RQ of masks.

    Args:
        targets: ground truth by image id.
        predictions: predictions by image id.
        class_names: names of labels 1, 2, ...
        score_threshold: minimum score of the detections.
        min_visible_fraction: minimum fraction of a detection that is visible after painting; others are dropped.

    Returns:
        The qualities; None without objects and detections.

    Raises:
        UserError: If objects or detections have no masks.
    """
    painted = {i: _paint(target.ignore_empty_masks(), 0.0) for i, target in targets.items()}
    found = {
        i: _paint(prediction.above(score_threshold), min_visible_fraction) for i, prediction in predictions.items()
    }
    overlaps = find_overlaps(painted, found, class_names, "mask")
    matches = match_overlaps(overlaps, _ABOVE_HALF)
    size = len(class_names) + 1
    hits = matches.true_positive
    true = np.bincount(overlaps.label[hits], minlength=size)
    false = np.bincount(overlaps.label[matches.false_positive], minlength=size)
    objects = np.bincount(overlaps.object_label[~matches.object_ignored], minlength=size)
    shared = np.bincount(overlaps.label[hits], matches.iou[hits], size)
    present = np.flatnonzero(objects + false)
    if not len(present):
        return None
    quality = (shared / np.maximum((objects + true + false) / 2, 1e-9))[present]
    segmentation = (shared / np.maximum(true, 1))[present]
    recognition = (true / np.maximum((objects + true + false) / 2, 1e-9))[present]
    by_class = {class_names[k - 1]: float(value) for k, value in zip(present.tolist(), quality, strict=True)}
    return PanopticQuality(float(quality.mean()), float(segmentation.mean()), float(recognition.mean()), by_class)


def _paint(instances: Instances, min_visible_fraction: float) -> Instances:
    """Return the visible parts of the masks, the first on top; ignored objects are below all others."""
    if instances.masks is None:
        if len(instances):
            raise UserError("panoptic quality requires masks, but these instances have boxes only")
        return instances
    instances = instances[torch.argsort(instances.ignore.int(), stable=True)]
    assert instances.masks is not None
    labels, kept = instances.masks.to_label_image(min_visible_fraction)
    visible = instances[kept]
    ids = torch.arange(1, len(visible) + 1)
    return replace(visible, masks=CroppedMasks.from_label_image(labels, ids))
