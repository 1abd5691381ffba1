"""Interface of all data sets."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from maskrcnn.structures.instances import Instances


class DetectionDataset(Protocol):
    """Images with their objects, read on demand.

    If each image is a separate file, a data set also has methods `image_file(index)`, the path of the image, and
    `annotation_files(index)`, the paths of the files its objects are read from; a resumed run compares their contents.
    If the annotations do not number the classes 1 to K, a data set also has `category_ids`, parallel to `class_names`;
    use `get_category_ids`. If the annotations have no ids of images and objects, `has_ids` is false, and the
    ids are numbers.

    Attributes:
        class_names: name of label k + 1 at index k.
        has_masks: false if the annotations have only boxes.
    """

    class_names: tuple[str, ...]
    has_masks: bool

    @property
    def image_ids(self) -> list[int]:
        """Unique id of each image."""
        ...

    @property
    def image_names(self) -> list[str]:
        """Name of each image."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of dropped or corrected annotations so far, by rule."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, or uint16 or float32 if it has more bits; and its instances, with ids, and
            with masks if the data set has them.

        Raises:
            UserError: If the image or its annotations cannot be read.
        """
        ...


def read_objects(dataset: DetectionDataset, index: int) -> Instances:
    """Read the objects of an image, without the pixels of a large image that can be read by window."""
    image, instances = getattr(dataset, "read_by_window", dataset.__getitem__)(index)
    if not isinstance(image, Tensor):
        image.close()
    found: Instances = instances
    return found


def get_category_ids(dataset: DetectionDataset) -> tuple[int, ...]:
    """Return the ids that the annotations give the classes, parallel to `class_names`; 1 to K where they give none."""
    ids: tuple[int, ...] | None = getattr(dataset, "category_ids", None)
    return tuple(range(1, len(dataset.class_names) + 1)) if ids is None else tuple(ids)
