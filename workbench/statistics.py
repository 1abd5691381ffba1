"""Mean and standard deviation of the training images, for the detector's normalization."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.config import ExperimentConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasets.interface import DetectionDataset

MAX_IMAGES = 1000  # evenly spaced in the training set


def set_statistics(
    config: ExperimentConfig, train: DetectionDataset, notify: Callable[[str], None]
) -> ExperimentConfig:
    """Return the configuration with the mean and std of the training images if its standardization needs them.

    Args:
        config: options; a given mean and std, as of a resumed run, are kept.
        train: training images.
        notify: called with a line that reports the measured values.

    Raises:
        UserError: If an image cannot be read, or their channels differ.
    """
    image = config.detector.image
    if image.normalization != "dataset" or (image.mean and image.std):
        return config
    from maskrcnn.model.images import measure_statistics

    count = min(len(train), MAX_IMAGES)
    images = (train[number * len(train) // count][0] for number in range(count))
    mean, std = measure_statistics(images, image.levels)
    notify(f"normalization measured on {count} training images: mean {_format(mean)}, std {_format(std)}")
    detector = replace(config.detector, image=replace(image, mean=mean, std=std))
    return replace(config, detector=detector)


def _format(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
