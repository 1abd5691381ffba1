"""What every data set offers."""

from typing import Protocol

from torch import Tensor

from maskrcnn.structures.instances import Instances


class DetectionDataset(Protocol):
    """Images with their objects, read when asked for.

    ``class_names[k]`` is the name of label k + 1; ``image_ids`` and ``image_names`` have one entry an image.
    """

    class_names: tuple[str, ...]

    @property
    def image_ids(self) -> list[int]: ...

    @property
    def image_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its instances, with masks and ids. UserError for a file that cannot be read."""
        ...
