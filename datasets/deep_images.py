"""Reading of a data set's images by the options: as stored, with the channels of the first image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from datasets.checks import TallyByImage
from datasets.interface import DetectionDataset, get_category_ids
from datasets.splits import find_image_file
from maskrcnn.config import UserError
from maskrcnn.images.large import LargeImage, open_pixels, read_metadata, sample
from maskrcnn.images.levels import Levels, count_outliers
from maskrcnn.images.metadata import compute_scale
from maskrcnn.images.options import ImageOptions, use_image_options
from maskrcnn.images.reading import keep_large_images_open
from maskrcnn.structures.affine import scaling
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import warp
from maskrcnn.text import format_count

RULE = "16-bit images with values outside the gray levels shown (--gray_levels)"
_MAX_TRIED = 8  # images, to find one that can be read


class DeepImages:
    """Data set whose images are read by `options`, with the values that are stored.

    Images of more than 8 bits with many pixels outside the gray levels, where the detector clips them, are counted.

    Attributes:
        dataset: the underlying data set.
        levels: gray levels, if any.
        options: options of reading images.
        hint: what errors about an image recommend, after the error itself.
        first: name and channels of the first image, whose channels all must have; None: not checked.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        levels: Levels | None = None,
        options: ImageOptions | None = None,
        hint: str = "",
    ) -> None:
        self.dataset, self.levels, self.options, self.hint = dataset, levels, options or ImageOptions(), hint
        self.first: tuple[str, int] | None = None
        self._tallies = TallyByImage(len(dataset))
        self.class_names, self.has_masks = dataset.class_names, dataset.has_masks
        self.category_ids = get_category_ids(dataset)
        self.image_ids, self.image_names = list(dataset.image_ids), list(dataset.image_names)

    @property
    def counts(self) -> Counter[str]:
        """Number of dropped or corrected annotations so far, by rule."""
        return Counter(self.dataset.counts) + self.own_counts

    @property
    def own_counts(self) -> Counter[str]:
        """The counts without those of the underlying data set, which several splits may share."""
        return self._tallies.counts

    def origin(self, index: int) -> tuple[DetectionDataset, int]:
        """Return the underlying data set, and the index of an image in it."""
        return self.dataset, index

    def __len__(self) -> int:
        return len(self.dataset)

    def read_by_window(self, index: int) -> tuple[Tensor | LargeImage, Instances]:
        """Read an image like `[index]`, but leave large images open that can be read by window."""
        with keep_large_images_open():
            image, instances = self[index]
        return image, instances

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable or invalid, or has other channels than the first image.
        """
        try:
            with use_image_options(self.options):
                image, instances = self.dataset[index]
        except UserError as error:
            if not self.hint or self.hint in str(error):
                raise
            raise UserError(f"{error}, or {self.hint}") from error
        self._check_channels(index, image.shape[0])
        if self.options.pixel_size:
            image, instances = self._rescale(index, image, instances)
        if not isinstance(image, LargeImage) and image.dtype != torch.uint8 and self.levels is not None:
            values = image.to(torch.float32)
            for beyond in (values < self.levels[0], values > self.levels[1]):
                is_clipped = int(beyond.sum()) > count_outliers(values.numel())
                self._tallies.of(index).add(RULE, self.image_names[index], int(is_clipped))
        return image, instances

    def read_sample(self) -> Iterator[Tensor]:
        """Yield a sample of the images; unreadable ones are left out, as the error is raised when they are used."""
        for index in sample(range(len(self))):
            with suppress(UserError):
                yield self[index][0]

    def _rescale(self, index: int, image: Tensor | LargeImage, instances: Instances) -> tuple[Tensor, Instances]:
        """Rescale a sample to the pixel size of the options."""
        path = find_image_file(self.dataset, index)
        stored = None if path is None else read_metadata(path).pixel_size
        y, x = compute_scale(stored, self.options.pixel_size, self.image_names[index])
        whole = image if isinstance(image, Tensor) else image.read(0, 0, *image.size)
        height, width = (max(1, round(side * each)) for side, each in zip(instances.size, (y, x), strict=True))
        if (height, width) == tuple(instances.size):
            return whole, instances
        return warp(whole, instances, scaling(x, y), (height, width), Edges(cut="keep"))

    def _check_channels(self, index: int, channels: int) -> None:
        if self.first is not None and channels != self.first[1]:
            raise make_channels_error(self.image_names[index], channels, *self.first)


def find_channels(dataset: DeepImages) -> tuple[str, int] | None:
    """Return the name and the number of channels of the first image that can be read, of the first few."""
    for index in range(min(len(dataset), _MAX_TRIED)):
        with suppress(UserError):
            image, _ = dataset.read_by_window(index)
            return dataset.image_names[index], int(image.shape[0])
    return None


def check_same_kind(paths: Sequence[Path]) -> None:
    """Check the headers of image files, unreadable ones left out: an error when they are used.

    Raises:
        UserError: If two files differ in channels, or one has integers and another floats.
    """
    first: tuple[Path, int, bool] | None = None
    for path in paths:
        try:
            with open_pixels(path) as image:
                kind = (path, image.channels, image.samples.dtype.kind == "f")
        except UserError:
            continue
        first = first or kind
        if kind[1] != first[1]:
            raise make_channels_error(str(path), kind[1], str(first[0]), first[1])
        if kind[2] != first[2]:
            words = [f"{each[0]}: has {'floating-point' if each[2] else 'integer'} pixels" for each in (kind, first)]
            raise UserError(f"{words[0]}, but {words[1]}; save the images of a data set with one data type")


def make_channels_error(name: str, channels: int, other: str, other_channels: int) -> UserError:
    """Return the error for two images of a data set whose channels differ."""
    return UserError(
        f"{name}: has {format_count(channels, 'channels')}, but {other} has {other_channels}; the images of a "
        "data set must have the same channels"
    )
