"""Detections in the images of a split, and their ground truth.

Large images that can be read by window (`maskrcnn.images.reading`) are never read as a whole: they are searched in
tiles, and the validation loss and the pictures are of one window of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.interface import DetectionDataset
from maskrcnn.images.large import LargeImage
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.pipeline import WHOLE_IMAGE, Detects, build_views, is_plain, predict_image, run_detector
from maskrcnn.structures.affine import translation
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import warp, warp_instances
from maskrcnn.training.loading import ImageDataset, KeyedSamples
from maskrcnn.training.machine import Machine

Predictions = dict[int, Instances]
SIDE = 1024  # px, of the tiles and the windows of large images


class EvaluationSet(NamedTuple):
    """Images of a split, their ground truth by image id, and which of them are large and read by window."""

    name: str  # "validation" or "test"
    dataset: DetectionDataset
    samples: KeyedSamples
    targets: dict[int, Instances]
    large: frozenset[int] = frozenset()

    @classmethod
    def read(cls, name: str, dataset: DetectionDataset) -> EvaluationSet:
        """Ground truth by image id; raises a UserError for an unreadable image."""
        targets, large = {}, set()
        for index, image_id in enumerate(dataset.image_ids):
            image, targets[image_id] = read_by_window(dataset, index)
            if isinstance(image, LargeImage):
                image.close()
                large.add(image_id)
        return cls(name, dataset, KeyedSamples(dataset, ShowWindow()), targets, frozenset(large))

    def read_pictures(self, predictions: Predictions) -> Iterator[tuple[Tensor, Instances, Instances]]:
        """Yield each image with its ground truth and its detections, of a large image those in one window."""
        for index, image_id in enumerate(self.dataset.image_ids):
            image, target = read_by_window(self.dataset, index)
            found = predictions[image_id]
            with _close(image):
                if isinstance(image, LargeImage):
                    matrix, size = find_window(target)
                    found = warp_instances(found, matrix, size)
                    image, target = warp(image, target, matrix, size)
            yield image, target, found


class ShowWindow:
    """Transform that shows one window of a large image, and other images as they are."""

    takes_windows = True

    def __call__(
        self, image: Tensor | LargeImage, instances: Instances, generator: torch.Generator
    ) -> tuple[Tensor, Instances]:
        """Return the image and its objects, of a large image those in the window."""
        if isinstance(image, Tensor):
            return image, instances
        with closing(image):
            return warp(image, instances, *find_window(instances))


def find_window(instances: Instances) -> tuple[Tensor, tuple[int, int]]:
    """Find the window of a large image that is shown: around the object in the middle of all objects.

    Returns:
        Map [2, 3] from the image to the window, and the size (H, W) of the window.
    """
    height, width = (min(SIDE, side) for side in instances.size)
    boxes = instances.boxes if len(instances) else torch.tensor([[0.0, 0.0, *instances.size[::-1]]])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    middle = centers[(centers - centers.median(dim=0).values).norm(dim=1).argmin()]
    x, y = (round(float(each)) for each in middle - torch.tensor([width, height]) / 2)
    x, y = min(max(x, 0), instances.size[1] - width), min(max(y, 0), instances.size[0] - height)
    return translation(-x, -y), (height, width)


def choose_views(views: ViewsConfig, is_large: bool) -> ViewsConfig:
    """Return the options for an image; a large one is searched in tiles if they ask for none."""
    return replace(views, tile=SIDE) if is_large and not views.tile else views


def check_views(detector: Detects, views: ViewsConfig, dataset: ImageDataset) -> None:
    """Check the options of views with the first image of a data set.

    Raises:
        UserError: If an option is invalid, or the image cannot be read.
    """
    image, instances = read_by_window(dataset, 0)
    with _close(image):
        build_views(detector, choose_views(views, isinstance(image, LargeImage)), instances.size)


def read_by_window(dataset: ImageDataset, index: int) -> tuple[Tensor | LargeImage, Instances]:
    """Read an image and its objects; a large image that can be read by window is left open."""
    read = getattr(dataset, "read_by_window", dataset.__getitem__)
    sample: tuple[Tensor | LargeImage, Instances] = read(index)
    return sample


def _close(image: Tensor | LargeImage) -> closing[LargeImage] | nullcontext[None]:
    return closing(image) if isinstance(image, LargeImage) else nullcontext()


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

    A large image that can be read by window is searched in tiles of `SIDE` pixels if `views` asks for no tiles.

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
        found: Predictions = {}
        batch: dict[int, Tensor] = {}
        for index, image_id in enumerate(samples.image_ids):
            image, target = read_by_window(samples.dataset, index)
            if is_plain(views) and isinstance(image, Tensor):
                batch[image_id] = image
            else:
                with _close(image):
                    chosen = choose_views(views, isinstance(image, LargeImage))
                    seen = build_views(detector, chosen, target.size)
                    found[image_id] = predict_image(detector, image, seen, chosen, machine, proposals_only)
            if len(batch) == batch_size or index == len(samples) - 1:
                found |= _predict_batch(detector, batch, machine, proposals_only)
                batch = {}
        return {image_id: found[image_id] for image_id in samples.image_ids}
    finally:
        detector.train(was_training)


def _predict_batch(detector: Detects, images: dict[int, Tensor], machine: Machine, proposals_only: bool) -> Predictions:
    if not images:
        return {}
    with machine.autocast():
        results = run_detector(detector, [image.to(machine.device) for image in images.values()], proposals_only)
    return {image_id: result.to("cpu") for image_id, result in zip(images, results, strict=True)}


def no_detections(size: tuple[int, int]) -> Instances:
    """Return empty detections of an image of `size` (H, W)."""
    none = Instances.empty(size, with_masks=True)
    return Instances(size, none.boxes, none.labels, torch.zeros(0, dtype=torch.float32), none.masks)
