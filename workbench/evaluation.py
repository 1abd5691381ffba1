"""Detections in the images of a split, and their ground truth."""

from __future__ import annotations

from typing import NamedTuple

import torch

from datasets.interface import DetectionDataset
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.pipeline import WHOLE_IMAGE, Detects, build_views, is_plain, predict_image, run_detector
from maskrcnn.structures.instances import Instances
from maskrcnn.training.loading import KeyedSamples, load_evaluation_batches
from maskrcnn.training.machine import Machine

Predictions = dict[int, Instances]


class EvaluationSet(NamedTuple):
    """Images of a split, and their ground truth by image id."""

    name: str  # "validation" or "test"
    dataset: DetectionDataset
    samples: KeyedSamples
    targets: dict[int, Instances]

    @classmethod
    def read(cls, name: str, dataset: DetectionDataset) -> EvaluationSet:
        """Ground truth by image id; raises a UserError for an unreadable image."""
        targets = {image_id: dataset[i][1] for i, image_id in enumerate(dataset.image_ids)}
        return cls(name, dataset, KeyedSamples(dataset), targets)


@torch.no_grad()
def predict(
    detector: Detects,
    samples: KeyedSamples,
    machine: Machine,
    batch_size: int,
    views: ViewsConfig = WHOLE_IMAGE,
    proposals_only: bool = False,
) -> Predictions:
    """Predict the objects in each image; the training mode of the detector is kept.

    Args:
        detector: the detector.
        samples: the images.
        machine: device and precision.
        batch_size: number of images per batch, without test-time augmentation.
        views: test-time augmentation and tiles.
        proposals_only: return the proposals of the RPN.

    Returns:
        Detections by image id, on the CPU.
    """
    was_training = detector.training
    detector.train(False)
    try:
        if is_plain(views):
            return _predict_batches(detector, samples, machine, batch_size, proposals_only)
        found = {}
        for image, target, image_id in (samples[0, i] for i in range(len(samples))):
            seen = build_views(detector, views, target.size)
            found[image_id] = predict_image(detector, image, seen, views, machine, proposals_only)
        return found
    finally:
        detector.train(was_training)


def _predict_batches(
    detector: Detects, samples: KeyedSamples, machine: Machine, batch_size: int, proposals_only: bool
) -> Predictions:
    found: Predictions = {}
    for batch in load_evaluation_batches(samples, batch_size):
        images = batch.to(machine.device).images
        with machine.autocast():
            results = run_detector(detector, images, proposals_only)
        found |= {image_id: result.to("cpu") for image_id, result in zip(batch.ids, results, strict=True)}
    return found


def no_detections(size: tuple[int, int]) -> Instances:
    """Return empty detections of an image of `size` (H, W)."""
    none = Instances.empty(size, with_masks=True)
    return Instances(size, none.boxes, none.labels, torch.zeros(0, dtype=torch.float32), none.masks)
