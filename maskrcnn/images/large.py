"""Image files read by window, so that they need not fit into memory.

TIFF (BigTIFF, too) is decoded by the tile or strip, or mapped into memory where it is not compressed; NumPy's `.npy`
is mapped; every other format, and the rarer kinds of TIFF, are read whole by Pillow when the first window is asked for.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.images.decoding import check_kind, check_regular, decode, is_deep, opened, upright_size
from maskrcnn.images.levels import Levels, combine, scale_levels, value_range
from maskrcnn.images.samples import Mapped, Samples, Values, check_not_empty, in_words
from maskrcnn.images.tiff import STARTS, open_tiff

MAX_MEASURED = 64  # images, evenly spaced
MAX_WINDOWS = 16  # of an image, evenly spaced
WINDOW = 1024  # side in pixels
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
CACHE_BYTES = 256 << 20  # decoded segments kept: neighbouring windows share them
_NPY_START = b"\x93NUMPY"


class LargeImage:
    """An image file that is read by window; `close` it, or use it in a `with` block."""

    def __init__(self, path: Path, samples: Samples, levels: Levels | None = None) -> None:
        self.path = path
        self.samples = samples
        self.levels = levels

    def __enter__(self) -> LargeImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.samples.shape[:2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W), as of the tensor that the whole image would be."""
        return (3, *self.size)

    @property
    def is_by_window(self) -> bool:
        """Whether a window costs what it touches, not the whole image."""
        return not isinstance(self.samples, _Whole)

    @property
    def is_deep(self) -> bool:
        """Whether the file holds more than 8 bits a channel."""
        return bool(self.samples.dtype.itemsize > 1)

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """RGB pixels `[3, height, width]` of the window at the pixel (row y, column x).

        uint8, or uint16 where the file holds more than 8 bits; with `levels`, float32 in [0, 1] instead of uint16.
        Alpha is left out, gray is repeated.

        Raises:
            UserError: a window that is not inside, pixels that cannot be decoded.
        """
        if not (0 <= x < x + width <= self.size[1] and 0 <= y < y + height <= self.size[0]):
            window = f"[{x}, {y}, {x + width}, {y + height}]"
            raise UserError(f"{self.path}: window {window} is not inside the image of {in_words(self.size)} pixels")
        with _in_one_line(self.path):
            values = self.samples.read(x, y, height, width)
            pixels = np.empty((3, height, width), values.dtype.newbyteorder("="))
            pixels[:] = values.transpose(2, 0, 1)
        image = torch.from_numpy(pixels)
        return image if self.levels is None or image.dtype != torch.uint16 else scale_levels(image, self.levels)

    def close(self) -> None:
        """Closes the file and forgets what was decoded."""
        self.samples.close()


def open_pixels(path: str | Path, cache_bytes: int = CACHE_BYTES, levels: Levels | None = None) -> LargeImage:
    """The image in a file, of which only headers are read so far; of a pyramid, the first and largest page.

    cache_bytes: decoded tiles or strips of a TIFF that are kept.
    levels: the gray levels of an image of more than 8 bits that become 0 and 1.

    Raises:
        UserError: missing, not a regular file, not an image, broken, truncated, a stack, of a kind or a number of
            channels that cannot be read, or too large to be decoded whole where that is the only way.
    """
    path = Path(path)
    with _in_one_line(path):
        check_regular(path)
        with path.open("rb") as file:
            start = file.read(len(_NPY_START))
        samples: Samples
        if start[:4] in STARTS:
            samples = open_tiff(path, cache_bytes) or _Whole(path, quiet=True)
        else:
            samples = _mapped_npy(path) if start == _NPY_START else _Whole(path)
        return LargeImage(path, samples, levels)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Whatever broken files make NumPy and tifffile raise, which promise no common type, as a UserError."""
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
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a readable image, broken or truncated ({reason}); check or remove it") from error
    finally:
        logger.disabled = was_disabled


# ---- whole files


class _Whole:
    """What Pillow decodes, kept from the first window on."""

    def __init__(self, path: Path, quiet: bool = False) -> None:
        self.path = path
        self.guard = _without_libtiff_messages if quiet else nullcontext
        with self.guard(), opened(path) as image:
            check_kind(path, image)
            self.shape = (*upright_size(image), 3)
            self.dtype = np.dtype(np.uint16 if is_deep(path, image) else np.uint8)
        self._pixels: Values | None = None

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        if self._pixels is None:
            with self.guard(), opened(self.path) as image:
                self._pixels = decode(self.path, image)
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        self._pixels = None


@contextmanager
def _without_libtiff_messages() -> Iterator[None]:
    """Pillow's libtiff writes to the process's stderr what is wrong with a file, beside the error that is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# ---- files mapped into memory


def _mapped_npy(path: Path) -> Mapped:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise UserError(f"{path}: its array is {list(values.shape)}; save one of [H, W] or [H, W, 3]")
    if values.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise UserError(f"{path}: its numbers are {values.dtype}; save uint8 or uint16")
    check_not_empty(path, values.shape)
    return Mapped(values)


# ---- gray levels


def measure_levels(paths: Sequence[Path]) -> Levels | None:
    """The gray levels of the images with more than 8 bits among some of these; None where there are none.

    Of each image, a few values at each end do not count (`levels.value_range`); files that cannot be read are left
    out, since the error is raised where they are used.
    """
    ranges = []
    for path in paths[:: max(1, -(-len(paths) // MAX_MEASURED))]:
        with suppress(UserError), open_pixels(path) as image:
            if image.is_deep:
                ranges += [value_range(window.numpy()) for window in _windows(image)]
    return combine(ranges)


def _windows(image: LargeImage) -> Iterator[Tensor]:
    height, width = image.size
    corners = [(x, y) for y in range(0, height, WINDOW) for x in range(0, width, WINDOW)]
    for x, y in corners[:: -(-len(corners) // MAX_WINDOWS)]:
        yield image.read(x, y, min(WINDOW, height - y), min(WINDOW, width - x))
