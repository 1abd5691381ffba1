"""What the images of a data set have in common: gray levels, channels, and the kind of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.deep_images import DeepImages, check_same_kind, find_channels
from datasets.notices import NAMES
from datasets.registry import DatasetName
from datasets.splits import Splits, find_image_file
from maskrcnn.images.large import measure_levels, sample
from maskrcnn.images.levels import Levels, check_levels, measure_image_levels
from maskrcnn.images.options import use_image_options
from workbench.config import ExperimentConfig

Notify = Callable[[str], None]


def examine_images(
    config: ExperimentConfig,
    named: Sequence[DatasetName],
    opened: Sequence[Splits],
    whole: Mapping[str, DeepImages],
    notify: Notify,
) -> tuple[Levels | None, tuple[str, int] | None]:
    """Find the gray levels of the data, and the name and channels of its first image, and set them in the data sets.

    Raises:
        UserError: If the configured levels are invalid, or images differ in channels or data type.
    """
    own = any(each.is_class for each in named)  # its images may be other than its files
    first = find_channels(whole["train"])
    with use_image_options(whole["train"].options):
        files = {split: [] if own else _list_image_files(opened, split) for split in whole}
        check_same_kind([path for paths in files.values() for path in sample(paths)])
        levels = _get_gray_levels(config, files, whole if own else {}, notify)
    for dataset in whole.values():
        dataset.levels, dataset.first = levels, first
    return levels, first


def _list_image_files(opened: Sequence[Splits], split: str) -> list[Path]:
    """List the image files of a split; images without a file are left out."""
    found = [dataset for splits in opened if (dataset := getattr(splits, split)) is not None]
    paths = (find_image_file(dataset, index) for dataset in found for index in range(len(dataset)))
    return [path for path in paths if path is not None]


def _get_gray_levels(
    config: ExperimentConfig, files: Mapping[str, Sequence[Path]], own: Mapping[str, DeepImages], notify: Notify
) -> Levels | None:
    """Return the gray levels of images with more than 8 bits: configured or measured; None without such images.

    Measured on files, or on the images of a user's `own` data set.

    Raises:
        UserError: If the configured levels are not two increasing numbers.
    """
    if given := config.detector.image.gray_levels:
        return check_levels(given)
    for split, paths in files.items():
        levels = measure_levels(paths) if split not in own else measure_image_levels(own[split].read_sample())
        if levels is not None:
            low, high = (f"{level:g}" for level in levels)
            notify(
                f"images of more than 8 bits: the gray levels {low} to {high} are shown as black to white, measured on "
                f"{NAMES[split]} images (--gray_levels={low},{high})"
            )
            return levels
    return None
