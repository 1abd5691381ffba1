"""Statistics of a split that show what may have been read in another way than it was meant, gathered image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from torch import Tensor

from datasets.statistics import ObjectCollector, Objects
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

_EIGHT_NEIGHBORS = np.ones((3, 3), bool)


class Survey:
    """What was seen in the images of a split.

    Attributes:
        image_names: names of the images read.
        object_ids: ids of the objects, parallel to `objects`.
        num_pieces: connected pieces (8 neighbors) of the objects' masks, parallel to `objects`; 0 without a mask.
        num_levels: different values in each image read, of the channel with the most.
        counts: what the reader counted, by rule.
        class_names: names of the classes, if they are known.
    """

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self.image_names: list[str] = []
        self.object_ids: list[int] = []
        self.num_pieces: list[int] = []
        self.num_levels: list[int] = []
        self.counts: Mapping[str, int] = Counter()
        self.class_names = class_names
        self._collector = ObjectCollector()

    def add(self, name: str, image: Tensor, instances: Instances) -> None:
        """Add an image [C, H, W] and its objects."""
        self.image_names.append(name)
        ids = range(1, len(instances) + 1) if instances.ids is None else instances.ids.tolist()
        self.object_ids += ids
        self.num_pieces += count_pieces(instances.masks) if instances.masks is not None else [0] * len(instances)
        self.num_levels.append(count_levels(image.numpy()))
        self._collector.add(instances)

    @cached_property
    def objects(self) -> Objects:
        """All objects; read it once all images were added."""
        return self._collector.objects()

    def place(self, index: int) -> str:
        """Return in words which object this is."""
        return f"image {self.image_names[self.objects.image[index]]}, object {self.object_ids[index]}"


def count_pieces(masks: CroppedMasks) -> list[int]:
    """Count the connected pieces (8 neighbors) of each mask."""
    return [label(masks.window(i).numpy(), _EIGHT_NEIGHBORS)[1] for i in range(len(masks))]


def count_levels(image: NDArray[np.generic]) -> int:
    """Count the different values of an image [C, H, W] in the channel that has the most."""
    if image.dtype == np.uint8:
        return max(int((np.bincount(channel.ravel(), minlength=256) > 0).sum()) for channel in image)
    return max(len(np.unique(channel)) for channel in image)
