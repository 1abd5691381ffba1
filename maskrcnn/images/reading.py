"""Reading of image and label files as tensors, for training and inference."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.images.decoding import get_orientation as get_orientation
from maskrcnn.images.decoding import get_stored_values as get_stored_values
from maskrcnn.images.decoding import get_upright_size
from maskrcnn.images.decoding import is_lossy as is_lossy
from maskrcnn.images.decoding import open_image_file as open_image_file
from maskrcnn.images.large import open_pixels

MAX_LABEL = 65_535
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


MIN_WINDOWED_PIXELS = 1 << 25  # smaller images are read as a whole, because decoding each crop again would be slower
_leaves_large_images_open: ContextVar[bool] = ContextVar("leaves_large_images_open", default=False)


@contextmanager
def keep_large_images_open() -> Iterator[None]:
    """Make `read_image` return a `LargeImage` within the block for large images that can be read by window."""
    token = _leaves_large_images_open.set(True)
    try:
        yield
    finally:
        _leaves_large_images_open.reset(token)


def read_image(path: Path, whole: bool = False) -> Tensor:
    """Read an image file with EXIF orientation applied.

    Gray is repeated to three channels and alpha is dropped, unless `ImageOptions.channels` asks for others.

    Args:
        path: the file.
        whole: read the whole image even within `keep_large_images_open`.

    Returns:
        `[C, H, W]`, uint8, or uint16 or float32 if the file has more than 8 bits.

    Raises:
        UserError: If the file cannot be read, as in `open_pixels`.
    """
    image = open_pixels(path)
    is_large = image.is_by_window and image.size[0] * image.size[1] >= MIN_WINDOWED_PIXELS
    if is_large and not whole and _leaves_large_images_open.get():
        return cast(Tensor, image)  # readers use only its shape
    with image:
        return image.read(0, 0, *image.size)


def describe_rotation(path: Path) -> str:
    """Return the end of an error message about an image size: the effect of EXIF orientation, or what to do."""
    sizes = _get_exif_sizes(path)
    if sizes is None:
        return "; correct one of them"
    stored, shown = (f"{size[1]} x {size[0]}" for size in sizes)
    rotation = f"stored as {stored}, shown as {shown} because of its EXIF orientation"
    return f" ({rotation}: annotate the image as it is shown, or save it without EXIF)"


def check_boxes_fit_upright(path: Path, boxes: NDArray[np.float64], size: tuple[int, int], where: str) -> None:
    """Raise a UserError if boxes exceed the upright image, but fit the stored image before EXIF rotation.

    Args:
        path: the image file.
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels.
        size: size (H, W) of the upright image.
        where: file and image, for the error message.
    """
    reach = np.nan_to_num(boxes[:, [3, 2]]).max(axis=0, initial=0)
    if (reach <= np.add(size, 1)).all():  # boxes may exceed the image by a pixel
        return
    sizes = _get_exif_sizes(path)
    if sizes is not None and (reach <= np.add(sizes[0], 1)).all():
        raise UserError(f"{where}: boxes fit {path} as it is stored, not as it is shown{describe_rotation(path)}")


def _get_exif_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the sizes (H, W) as stored and as shown; None if EXIF orientation does not change the size."""
    with open_image_file(path) as image:
        stored, shown = (image.height, image.width), get_upright_size(image)
    return (stored, shown) if stored != shown else None


def read_labels(path: Path) -> Tensor:
    """Read a label image.

    Returns:
        Instance numbers int32 [H, W], 0 for background; they may have gaps.

    Raises:
        UserError: If the file cannot be read, is a color image, or has a number below 0 or above 65,535.
    """
    with open_image_file(path) as image:
        if image.mode not in _LABEL_MODES:
            raise UserError(f"{path}: labels must have one channel of instance numbers; the mode is {image.mode}")
        numbers = get_stored_values(image).astype(np.int32)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= MAX_LABEL:
        wrong = numbers.max() if numbers.max() > MAX_LABEL else numbers.min()
        raise UserError(f"{path}: instance number {wrong} is out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(numbers)
