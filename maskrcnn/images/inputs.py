"""Images as users have them, in files and in memory, as pixels for a detector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.images.formats.ome_zarr import is_zarr
from maskrcnn.images.large import open_pixels, read_windows
from maskrcnn.images.levels import (
    FULL_RANGE,
    MAX_LEVEL,
    Levels,
    combine_ranges,
    measure_image_levels,
    measure_range,
    scale_levels,
)
from maskrcnn.images.options import SelectedFile, get_image_options, use_image_options
from maskrcnn.structures.pixels import InMemory, Pixels, is_channels_first
from maskrcnn.text import format_count

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor | Pixels
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@contextmanager
def open_image(
    image: ImageLike, levels: Levels | None = None, name: str = "image", as_stored: bool = False, channels: int = 3
) -> Iterator[Pixels]:
    """Open an image for reading, whole or window by window.

    Args:
        image: a path, a PIL image, a NumPy array `[H, W]` or `[H, W, C]`, a tensor `[C, H, W]`, or `Pixels`, which
            are returned and stay open.
        levels: the values of an image with more than 8 bits that become 0 and 1; default: measured on the image.
        name: begins the message of an error about an image in memory.
        as_stored: leave images with more than 8 bits as they are, for a detector with gray levels of its own.
        channels: number of channels; gray is repeated to three, and a fourth is alpha where three are needed; 0: three
            for these, and that of the image for others.

    Raises:
        UserError: an unreadable file; an image of another type, shape or range.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        if path.is_dir() and not is_zarr(path):
            raise UserError(
                f"{path}: is a folder; give its image files, such as sorted(Path({str(path)!r}).glob('*.png'))"
            )
        options = image.options if isinstance(image, SelectedFile) else get_image_options()
        with use_image_options(replace(options, channels=channels)):
            opened = open_pixels(path)
        with opened as file:
            if file.is_deep and not as_stored:
                file.levels = levels or measure_image_levels(read_windows(file))
            yield file
        return
    if hasattr(image, "read") and hasattr(image, "size"):
        yield cast(Pixels, image)
        return
    tensor = to_tensor(image, name, as_stored, channels)
    if tensor.dtype == torch.uint16 and not as_stored:
        tensor = scale_levels(tensor, levels or combine_ranges([measure_range(tensor.numpy())]) or FULL_RANGE)
    yield InMemory(tensor)


def to_tensor(image: Any, name: str = "image", as_stored: bool = False, channels: int = 3) -> Tensor:
    """Convert an image in memory to `[C, H, W]`, uint8, uint16 or float32 in [0, 1].

    Args:
        image: as in `Predictor.predict`, but no path.
        name: begins the message of an error.
        as_stored: floats are values as stored, in any range.
        channels: as in `open_image`.

    Raises:
        UserError: another type, shape or range.
    """
    if isinstance(image, Image.Image):
        if image.mode not in ("I;16", "I;16L", "I;16B", "I", "F"):  # Pillow would clip their values to 8 bits
            image = image.convert(_PIL_MODES.get(channels, image.mode))
        is_deep = image.mode == "I" and 0 <= min(image.getextrema()) <= max(image.getextrema()) <= MAX_LEVEL
        image = np.array(image, np.uint16 if is_deep else None)
    if isinstance(image, np.ndarray):
        image = _from_numpy(image, name, channels)
    if not isinstance(image, Tensor):
        raise UserError(
            f"{name}: must be a path, a PIL image, a NumPy array or a tensor, not {type(image).__module__}."
            f"{type(image).__name__}"
        )
    if image.ndim == 3 and 0 in image.shape:
        raise UserError(f"{name}: has no pixels, its shape is {list(image.shape)}")
    if not is_channels_first(image):
        raise UserError(f"{name}: tensors must be [C, H, W], got {list(image.shape)}")
    if image.is_floating_point():
        return _check_range(image.detach().to("cpu", torch.float32), name, as_stored)
    if image.dtype not in (torch.uint8, torch.uint16):
        raise UserError(
            f"{name}: must be uint8, uint16 or float in [0, 1], got {str(image.dtype).removeprefix('torch.')}"
        )
    return image.detach().cpu()


def _from_numpy(array: NDArray[Any], name: str, channels: int) -> Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    if channels == 0 and array.ndim == 3:
        channels = 3 if array.shape[2] in (1, 3, 4) else array.shape[2]
    allowed = (1, 3, 4) if channels in (0, 3) else (channels,)
    if array.ndim != 3 or array.shape[2] not in allowed:
        channels_first = array.ndim == 3 and array.shape[0] in allowed
        hint = "; transpose it with np.moveaxis(image, 0, -1)" if channels_first else ""
        needed = "1, 3 or 4 channels" if channels in (0, 3) else format_count(channels, "channels")
        raise UserError(
            f"{name}: NumPy images must be [H, W], or [H, W, C] with {needed}, got {list(array.shape)}{hint}"
        )
    if array.dtype == np.bool_ or array.dtype.kind not in "uf" or array.dtype.itemsize > 8:
        raise UserError(f"{name}: must be uint8, uint16 or float in [0, 1], got {array.dtype}")
    array = array[:, :, :channels]
    array = np.repeat(array, channels, axis=2) if array.shape[2] < channels else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=array.dtype.newbyteorder("=")))


def _check_range(image: Tensor, name: str, as_stored: bool) -> Tensor:
    low, high = image.aminmax()
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise UserError(f"{name}: has values that are not finite (NaN or infinity)")
    if not as_stored and (low < -1e-3 or high > 1 + 1e-3):
        raise UserError(
            f"{name}: float images must be in [0, 1], this one is in [{float(low):g}, {float(high):g}]; divide it by "
            "255, or give uint8"
        )
    return image
