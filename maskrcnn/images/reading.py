"""Image files as tensors: the one reader of training and prediction."""

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
from maskrcnn.images.decoding import is_lossy as is_lossy
from maskrcnn.images.decoding import opened as opened
from maskrcnn.images.decoding import orientation as orientation
from maskrcnn.images.decoding import stored_values as stored_values
from maskrcnn.images.decoding import upright_size
from maskrcnn.images.large import open_pixels

MAX_LABEL = 65_535
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


MIN_WINDOWED_PIXELS = 1 << 25  # smaller images are read whole: decoding again for each crop would cost more
_leaves_large_images_open: ContextVar[bool] = ContextVar("leaves_large_images_open", default=False)


@contextmanager
def large_images_left_open() -> Iterator[None]:
    """Large images that can be read by window are not read within the block: `read_image` returns a `LargeImage`."""
    token = _leaves_large_images_open.set(True)
    try:
        yield
    finally:
        _leaves_large_images_open.reset(token)


def read_image(path: Path, whole: bool = False) -> Tensor:
    """RGB pixels `[3, H, W]`, turned as EXIF says: uint8, or uint16 where the file holds more than 8 bits.

    Alpha is left out, gray is repeated. With `whole`, also where large images are left open. UserError as
    `open_pixels`.
    """
    image = open_pixels(path)
    is_large = image.is_by_window and image.size[0] * image.size[1] >= MIN_WINDOWED_PIXELS
    if is_large and not whole and _leaves_large_images_open.get():
        return cast(Tensor, image)  # readers ask for its shape only
    with image:
        return image.read(0, 0, *image.size)


def describe_turn(path: Path) -> str:
    """The end of an error about the size of an image: what EXIF does to it, or just what to do."""
    sizes = _sizes_under_exif(path)
    if sizes is None:
        return "; correct one of them"
    stored, shown = (f"{size[1]} x {size[0]}" for size in sizes)
    turn = f"stored as {stored}, its EXIF orientation shows it as {shown}"
    return f" ({turn}: annotate the image as it is shown, or save it without EXIF)"


def check_boxes_as_shown(path: Path, boxes: NDArray[np.float64], size: tuple[int, int], where: str) -> None:
    """UserError where boxes x1 y1 x2 y2 leave the image of `size` (H, W), but fit it as stored before EXIF turns it."""
    reach = np.nan_to_num(boxes[:, [3, 2]]).max(axis=0, initial=0)
    if (reach <= np.add(size, 1)).all():  # boxes may reach out by a pixel
        return
    sizes = _sizes_under_exif(path)
    if sizes is not None and (reach <= np.add(sizes[0], 1)).all():
        raise UserError(f"{where}: its boxes fit {path} as it is stored, not as it is shown{describe_turn(path)}")


def _sizes_under_exif(path: Path) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(H, W) as stored and as shown; None where EXIF does not exchange them."""
    with opened(path) as image:
        stored, shown = (image.height, image.width), upright_size(image)
    return (stored, shown) if stored != shown else None


def read_labels(path: Path) -> Tensor:
    """Instance numbers, int32 [H, W], 0 for background; gaps between them are fine.

    Raises:
        UserError: as `opened`; a colour image; a number below 0 or above 65,535.
    """
    with opened(path) as image:
        if image.mode not in _LABEL_MODES:
            raise UserError(f"{path}: labels must be one channel of instance numbers, this is {image.mode}")
        numbers = stored_values(image).astype(np.int32)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= MAX_LABEL:
        wrong = numbers.max() if numbers.max() > MAX_LABEL else numbers.min()
        raise UserError(f"{path}: instance number {wrong} is out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(numbers)
