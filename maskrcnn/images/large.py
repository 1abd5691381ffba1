"""Image files read by window, so that they need not fit into memory.

TIFF (including BigTIFF) is decoded by tile or strip, or memory-mapped if it is not compressed. NumPy's `.npy` is
memory-mapped. OME-Zarr and files of microscopes are read by libraries (extras `zarr` and `microscopy`). Other formats
and rare kinds of TIFF are decoded as a whole by Pillow when the first window is read.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.images.decoding import (
    check_pixel_format,
    check_regular,
    count_channels,
    decode,
    get_upright_size,
    is_deep,
    open_image_file,
)
from maskrcnn.images.formats import microscopy
from maskrcnn.images.formats.ome_zarr import is_zarr, open_zarr, read_zarr_metadata
from maskrcnn.images.formats.tiff import STARTS, open_tiff
from maskrcnn.images.levels import Levels, combine_ranges, measure_range, scale_levels
from maskrcnn.images.metadata import ImageMetadata, read_tiff_metadata
from maskrcnn.images.options import get_image_options, use_image_options
from maskrcnn.images.samples import (
    MAX_CHANNELS,
    ChosenChannels,
    MappedSamples,
    Samples,
    StackSamples,
    Values,
    check_not_empty,
    format_size,
)
from maskrcnn.images.selection import count_words, select_channels
from maskrcnn.text import describe_error, format_count

MAX_MEASURED = 64  # images, evenly spaced
MAX_WINDOWS = 16  # per image, evenly spaced
WINDOW = 1024  # side in pixels
SUFFIXES = (
    ".bmp", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
    *microscopy.SUFFIXES,
)  # fmt: skip
ZARR_SUFFIX = ".zarr"  # of a folder
CACHE_BYTES = 256 << 20  # of decoded tiles or strips, which neighboring windows share
Item = TypeVar("Item")
_NPY_START = b"\x93NUMPY"


class LargeImage:
    """An image file that is read by window; use it in a `with` block, or call `close`."""

    def __init__(self, path: Path, samples: Samples, levels: Levels | None = None) -> None:
        self.path = path
        self.samples = samples
        self.levels = levels
        self.channels = get_image_options().channels or max(samples.shape[2], 3 * (samples.shape[2] == 1))

    def __enter__(self) -> LargeImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> tuple[int, int]:
        """Size (H, W)."""
        return self.samples.shape[:2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the whole image as a tensor."""
        return (self.channels, *self.size)

    @cached_property
    def metadata(self) -> ImageMetadata:
        """Pixel size, channel names and georeference that the file stores; nothing of invalid entries."""
        return read_metadata(self.path)

    @property
    def is_by_window(self) -> bool:
        """Whether reading a window does not require decoding the whole image."""
        return not isinstance(self.samples, _WholeImage)

    @property
    def is_deep(self) -> bool:
        """Whether the file has more than 8 bits per channel."""
        return bool(self.samples.dtype.itemsize > 1)

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """Read a window; gray is repeated to three channels.

        Args:
            x: left column.
            y: top row.
            height: height in pixels.
            width: width in pixels.

        Returns:
            `[C, height, width]`: uint8, uint16 or float32 as stored, or if `levels` are given and the file has more
            than 8 bits, float32 in [0, 1].

        Raises:
            UserError: If the window is not inside the image, or pixels cannot be decoded.
        """
        if not (0 <= x < x + width <= self.size[1] and 0 <= y < y + height <= self.size[0]):
            window = f"[{x}, {y}, {x + width}, {y + height}]"
            raise UserError(f"{self.path}: window {window} is not inside the image of {format_size(self.size)} pixels")
        with _convert_errors(self.path):
            values = self.samples.read(x, y, height, width)
            pixels = np.empty((self.channels, height, width), values.dtype.newbyteorder("="))
            pixels[:] = values.transpose(2, 0, 1)
            _check_finite(self.path, pixels)
        image = torch.from_numpy(pixels)
        return image if self.levels is None or image.dtype == torch.uint8 else scale_levels(image, self.levels)

    def as_stored(self) -> LargeImage:
        """Return the same open file without `levels`, so that pixels are read as stored."""
        stored = copy(self)
        stored.levels = None
        return stored

    def close(self) -> None:
        """Close the file, and free decoded pixels."""
        self.samples.close()


def open_pixels(path: str | Path, cache_bytes: int = CACHE_BYTES, levels: Levels | None = None) -> LargeImage:
    """Open an image file and read its header; of a pyramid, the first and largest page.

    Args:
        path: the file.
        cache_bytes: memory for decoded tiles or strips of TIFF files.
        levels: values that are mapped to 0 and 1 if the image has more than 8 bits.

    Raises:
        UserError: If the file is missing, not a regular file, invalid, truncated, a stack, of an unsupported kind or
            number of channels, or too large to be decoded as a whole where that is required.
    """
    path = Path(path)
    with _convert_errors(path):
        check_regular(path)
        samples: Samples
        if is_zarr(path):
            samples = open_zarr(path)
        elif path.suffix.lower() in microscopy.SUFFIXES:
            samples = microscopy.open_microscopy(path)
        elif (start := _read_start(path))[:4] in STARTS:
            samples = open_tiff(path, cache_bytes) or _WholeImage(path, quiet=True)
        else:
            samples = _map_npy(path) if start == _NPY_START else _WholeImage(path)
        samples = _choose_channels(path, samples)
        _check_channels(path, samples.shape[2])
        return LargeImage(path, samples, levels)


def _check_finite(path: Path, pixels: Values) -> None:
    """Raise a UserError for floating-point pixels that are NaN or infinite."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return
    nan, infinite = int(np.isnan(pixels).sum()), int(np.isinf(pixels).sum())
    raise UserError(f"{path}: has {nan} NaN and {infinite} infinite pixel values; replace them, for example by 0")


def _choose_channels(path: Path, samples: Samples) -> Samples:
    """Choose channels, unless they were planes of a stack, which are chosen already."""
    selection = get_image_options().selection
    is_chosen = isinstance(samples, StackSamples) and samples.has_chosen
    numbers = None if is_chosen else select_channels(str(path), selection, samples.shape[2])
    for axis, value in ({} if isinstance(samples, StackSamples) else selection.planes).items():
        if value not in (0, "max", "mean"):
            raise UserError(f"{path}: --select {axis}={value}: it has {count_words(axis, 1)}")
    return samples if numbers is None else ChosenChannels(samples, numbers)


def _check_channels(path: Path, found: int) -> None:
    """Raise a UserError if the file has not the channels that the options ask for; gray may be repeated to three."""
    wanted = get_image_options().channels
    if wanted not in (0, found) and (found, wanted) != (1, 3):
        raise UserError(f"{path}: has {format_count(found, 'channels')}, and {wanted} are needed")


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_NPY_START))


def read_metadata(path: Path) -> ImageMetadata:
    """Read the metadata of an image file; empty if the format has none, or if it is invalid."""
    with suppress(UserError), _convert_errors(path):
        if is_zarr(path):
            return read_zarr_metadata(path)
        if path.suffix.lower() in microscopy.SUFFIXES:
            return microscopy.read_microscopy_metadata(path)
        if _read_start(path)[:4] in STARTS:
            return read_tiff_metadata(path)
    return ImageMetadata()


@contextmanager
def _convert_errors(path: Path) -> Iterator[None]:
    """Convert the errors of NumPy and tifffile, which have no common type, to a UserError."""
    logger = logging.getLogger("tifffile")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; save it as a tiled TIFF, or check it") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image file") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        reason = describe_error(error)
        raise UserError(f"{path}: not a readable image, broken or truncated ({reason}); check or remove it") from error
    finally:
        logger.disabled = was_disabled


# ---- whole files


class _WholeImage:
    """An image decoded as a whole by Pillow when the first window is read, by the options that it was opened with."""

    def __init__(self, path: Path, quiet: bool = False) -> None:
        self.path, self.options = path, get_image_options()
        self.guard = _mute_libtiff if quiet else nullcontext
        with self.guard(), open_image_file(path) as image:
            check_pixel_format(path, image)
            self.shape = (*get_upright_size(image), count_channels(path, image))
            self.dtype = np.dtype(np.uint16 if is_deep(path, image) else np.uint8)
        self._pixels: Values | None = None

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window [height, width, C]."""
        if self._pixels is None:
            with self.guard(), use_image_options(self.options), open_image_file(self.path) as image:
                self._pixels = decode(self.path, image)
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Free the pixels."""
        self._pixels = None


@contextmanager
def _mute_libtiff() -> Iterator[None]:
    """Mute stderr, because Pillow's libtiff prints messages in addition to raising an error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# ---- memory-mapped files


def _map_npy(path: Path) -> MappedSamples:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] > MAX_CHANNELS:
        raise UserError(f"{path}: its array has shape {list(values.shape)}; save [H, W] or [H, W, channels]")
    if values.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.float32):
        raise UserError(f"{path}: its data type is {values.dtype}; save uint8, uint16 or float32")
    check_not_empty(path, values.shape)
    return MappedSamples(values)


# ---- gray levels


def sample(items: Sequence[Item]) -> Sequence[Item]:
    """Return at most `MAX_MEASURED` items, evenly spaced."""
    return items[:: max(1, -(-len(items) // MAX_MEASURED))]


def measure_levels(paths: Sequence[Path]) -> Levels | None:
    """Measure the gray levels of images with more than 8 bits, from a sample of the files.

    A few outliers at each end are ignored (`levels.measure_range`). Unreadable files are skipped; the error is
    raised when they are used.

    Returns:
        The gray levels; None if no image has more than 8 bits.
    """
    ranges, is_float = [], False
    for path in sample(paths):
        with suppress(UserError), open_pixels(path) as image:
            if image.is_deep:
                is_float |= image.samples.dtype.kind == "f"
                ranges += [measure_range(window.numpy()) for window in read_windows(image)]
    return combine_ranges(ranges, is_float)


def read_windows(image: LargeImage) -> Iterator[Tensor]:
    """Read at most `MAX_WINDOWS` windows of an open file, evenly spaced."""
    height, width = image.size
    corners = [(x, y) for y in range(0, height, WINDOW) for x in range(0, width, WINDOW)]
    for x, y in corners[:: -(-len(corners) // MAX_WINDOWS)]:
        yield image.read(x, y, min(WINDOW, height - y), min(WINDOW, width - x))
