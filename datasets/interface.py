"""What every data set offers."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from maskrcnn.structures.instances import Instances


class DetectionDataset(Protocol):
    """Images with their objects, read when asked for.

    `class_names[k]` is the name of label k + 1; `image_ids` (all different) and `image_names` have one entry per
    image. `has_masks` is false where the annotations hold boxes only. `counts` says what reading dropped or clipped
    so far, by rule. Where each image is a file of its own, a reader also has `image_file(index)`, the file's path,
    and `annotation_files(index)`, those that its objects are read from: a resumed run compares their contents.
    Where the annotations number their classes otherwise than 1 to K, a data set also has `category_ids`, parallel to
    `class_names`: ask `category_ids_of`.
    """

    class_names: tuple[str, ...]
    has_masks: bool

    @property
    def image_ids(self) -> list[int]: ...

    @property
    def image_names(self) -> list[str]: ...

    @property
    def counts(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image [3, H, W] and its instances, with ids, and with masks where the data has them.

        The image is uint8, or uint16 or float32 in [0, 1] where it has more bits.

        UserError, naming the file, for an image or annotation that cannot be read.
        """
        ...


def category_ids_of(dataset: DetectionDataset) -> tuple[int, ...]:
    """Return the ids that the annotations give the classes, parallel to `class_names`; 1 to K where they give none."""
    ids: tuple[int, ...] | None = getattr(dataset, "category_ids", None)
    return tuple(range(1, len(dataset.class_names) + 1)) if ids is None else tuple(ids)
