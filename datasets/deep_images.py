"""Data sets of images with more than 8 bits per channel, mapped to gray levels (`maskrcnn.images.levels`)."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from datasets.checks import TallyByImage
from datasets.interface import DetectionDataset, get_category_ids
from maskrcnn.images.decoding import MAX_MEGAPIXELS, limit_megapixels
from maskrcnn.images.large import LargeImage
from maskrcnn.images.levels import FULL_RANGE, Levels, count_outliers, scale_levels
from maskrcnn.images.reading import keep_large_images_open
from maskrcnn.structures.instances import Instances

RULE = "16-bit images with values outside the gray levels shown (--gray_levels)"


class DeepImages:
    """Data set that maps uint16 images to float32 in [0, 1] by gray levels; other images are unchanged.

    Images with many pixels outside the levels are counted. `max_megapixels` limits the size of images that have to be
    decoded as a whole.
    """

    def __init__(
        self, dataset: DetectionDataset, levels: Levels | None = None, max_megapixels: int = MAX_MEGAPIXELS
    ) -> None:
        self._dataset, self.levels, self._max_megapixels = dataset, levels or FULL_RANGE, max_megapixels
        self._tallies = TallyByImage(len(dataset))
        self.class_names, self.has_masks = dataset.class_names, dataset.has_masks
        self.category_ids = get_category_ids(dataset)
        self.image_ids, self.image_names = list(dataset.image_ids), list(dataset.image_names)

    @property
    def counts(self) -> Counter[str]:
        """Number of dropped or corrected annotations so far, by rule."""
        return Counter(self._dataset.counts) + self._tallies.counts

    def origin(self, index: int) -> tuple[DetectionDataset, int]:
        """Return the underlying data set, and the index of an image in it."""
        return self._dataset, index

    def __len__(self) -> int:
        return len(self._dataset)

    def read_by_window(self, index: int) -> tuple[Tensor | LargeImage, Instances]:
        """Read an image like `[index]`, but leave large images open that can be read by window."""
        with keep_large_images_open():
            image, instances = self[index]
        return image, instances

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [3, H, W], uint8 or float32 in [0, 1], and its instances.

        Raises:
            UserError: If a file is unreadable or invalid.
        """
        with limit_megapixels(self._max_megapixels):
            image, instances = self._dataset[index]
        if isinstance(image, LargeImage):
            image.levels = self.levels
            return image, instances
        if image.dtype != torch.uint16:
            return image, instances
        values = image.to(torch.float32)
        for beyond in (values < self.levels[0], values > self.levels[1]):
            is_clipped = int(beyond.sum()) > count_outliers(values.numel())
            self._tallies.of(index).add(RULE, self.image_names[index], int(is_clipped))
        return scale_levels(image, self.levels), instances
