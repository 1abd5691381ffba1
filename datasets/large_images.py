"""Image files read by window, so that they need not fit into memory.

TIFF (BigTIFF, too) is decoded by the tile or strip, or mapped into memory where it is not compressed; NumPy's `.npy`
is mapped; every other format, and the rarer kinds of TIFF, are read whole by Pillow when the first window is asked for.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.images import bits_lost, opened, read_image, upright_size
from maskrcnn.config import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
CACHE_BYTES = 256 << 20  # decoded segments kept: neighbouring windows share them
_LARGEST_WHOLE_TIFF = 1 << 27  # pixels: above, one that cannot be read by segment is refused
_SCANNED = 1024  # side of the windows in which the range of 16-bit values is looked for
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY_START = b"\x93NUMPY"
_PLAIN_COMPRESSIONS = (1, 8, 32773, 32946, 34925)  # none, deflate (two numbers), PackBits, LZMA: need no imagecodecs
_GREY, _RGB, _YCBCR, _JPEG = 1, 2, 6, 7
_ALPHA = ((1,), (2,))

Values = NDArray[np.uint8] | NDArray[np.uint16]


class Samples(Protocol):
    """The colour channels of an image as they are stored: (H, W, 1 or 3) uint8 or uint16."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """[height, width, channels] at the pixel (row y, column x), all inside."""
        ...

    def close(self) -> None: ...


class LargeImage:
    """An image file that is read by window; `close` it, or use it in a `with` block."""

    def __init__(self, path: Path, samples: Samples) -> None:
        self.path = path
        self.samples = samples

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

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """RGB pixels uint8 `[3, height, width]` of the window at the pixel (row y, column x).

        As `datasets.images.read_image` has them: alpha is left out, grey is repeated, 16 bits lose as many as the whole
        image allows (of colours too, of which `read_image` keeps the upper 8 always, as Pillow does).

        Raises:
            UserError: a window that is not inside, pixels that cannot be decoded.
        """
        if not (0 <= x < x + width <= self.size[1] and 0 <= y < y + height <= self.size[0]):
            window = f"[{x}, {y}, {x + width}, {y + height}]"
            raise UserError(f"{self.path}: window {window} is not inside the image of {_in_words(self.size)} pixels")
        with _in_one_line(self.path):
            values = self.samples.read(x, y, height, width)
            if values.dtype == np.uint16:
                values = (values >> self._shift).astype(np.uint8)
            pixels = np.empty((3, height, width), np.uint8)
            pixels[:] = values.transpose(2, 0, 1)
            return torch.from_numpy(pixels)

    @cached_property
    def _shift(self) -> int:
        """Bits that 16-bit values lose; where that is 8, it is mostly found at once."""
        height, width, _ = self.samples.shape
        windows = ((x, y) for y in range(0, height, _SCANNED) for x in range(0, width, _SCANNED))
        lost = 0
        for x, y in windows:
            part = self.samples.read(x, y, min(_SCANNED, height - y), min(_SCANNED, width - x))
            lost = max(lost, bits_lost(int(part.max())))
            if lost == 8:
                break
        return lost

    def close(self) -> None:
        """Closes the file and forgets what was decoded."""
        self.samples.close()


def open_pixels(path: str | Path, cache_bytes: int = CACHE_BYTES) -> LargeImage:
    """The image in a file, of which only headers are read so far; the first page, where there are several.

    cache_bytes: decoded tiles or strips of a TIFF that are kept.

    Raises:
        UserError: missing, not an image, broken, truncated, of a kind or a number of channels that cannot be read.
    """
    path = Path(path)
    with _in_one_line(path):
        with path.open("rb") as file:
            start = file.read(len(_NPY_START))
        if start[:4] in _TIFF_STARTS:
            return LargeImage(path, _tiff(path, cache_bytes))
        return LargeImage(path, _mapped_npy(path) if start == _NPY_START else _Whole(path))


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


def _in_words(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size[:2]))


def _check_size(path: Path, size: tuple[int, ...]) -> None:
    if 0 in size:
        raise UserError(f"{path}: has no pixels ({_in_words(size)})")


# ---- whole files


class _Whole:
    """What Pillow reads, kept from the first window on."""

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, quiet: bool = False) -> None:
        self.path = path
        self.guard = _without_libtiff_messages if quiet else nullcontext
        with self.guard(), _without_pixel_limit(), opened(path) as image:
            if image.mode == "F":
                raise UserError(f"{path}: its pixels are floating-point numbers; save it with 8 or 16 bits a channel")
            self.shape = (*upright_size(image), 3)
        self._pixels: Tensor | None = None

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        if self._pixels is None:
            with self.guard(), _without_pixel_limit():
                self._pixels = read_image(self.path)
        part: Values = self._pixels[:, y : y + height, x : x + width].permute(1, 2, 0).numpy()
        return part

    def close(self) -> None:
        self._pixels = None


@contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Pillow's guard against small files that claim to be huge is not for a file that the user named."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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


class _Mapped:
    """An array [H, W, channels] that lies in a file."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.shape = values.shape[:3]
        self.dtype = values.dtype

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        part: Values = self.values[y : y + height, x : x + width].astype(self.dtype.newbyteorder("="))
        return part

    def close(self) -> None:
        self.values = np.zeros((0, 0, 1), self.dtype)


def _mapped_npy(path: Path) -> _Mapped:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise UserError(f"{path}: its array is {list(values.shape)}; save one of [H, W] or [H, W, 3]")
    if values.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise UserError(f"{path}: its numbers are {values.dtype}; save uint8 or uint16")
    _check_size(path, values.shape)
    return _Mapped(values)


# ---- TIFF


def _tiff(path: Path, cache_bytes: int) -> Samples:
    import tifffile  # takes a tenth of a second to import

    tiff = tifffile.TiffFile(path)
    try:
        page = tiff.pages.first
        _check_size(path, (page.imagelength, page.imagewidth))
        _check_kind(path, tiff, page)
        if not _is_by_window(page):
            tiff.close()
            return _whole_tiff(path, page)
        channels = _colour_channels(path, page)
        _check_segments(path, page)
        if page.is_memmappable:
            return _Mapped(_mapped_tiff(path, page)[:, :, :channels])
        return _Segments(tiff, page, channels, cache_bytes)
    except BaseException:
        tiff.close()
        raise


def _check_kind(path: Path, tiff: Any, page: Any) -> None:
    """UserError for numbers that are no pixels, and for a stack: pages of other sizes are smaller copies."""
    if page.dtype is not None and page.dtype.kind in "fc":
        raise UserError(f"{path}: its numbers are {page.dtype}; save uint8 or uint16")
    if len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape:
        raise UserError(f"{path}: is a stack of {len(tiff.pages)} images; save each as a file of its own")


def _is_by_window(page: Any) -> bool:
    """Whether the page is of a kind that is read here; Pillow knows the others."""
    plain = page.photometric in (_GREY, _RGB) or (page.photometric == _YCBCR and page.compression == _JPEG)
    upright = page.tags.valueof(274, 1) == 1
    known = page.dtype in (np.uint8, np.uint16) and page.bitspersample in (8, 16)
    return plain and upright and known and page.imagedepth == 1 and _is_decodable(page)


def _is_decodable(page: Any) -> bool:
    """Whether tifffile decodes the page with what is installed."""
    if importlib.util.find_spec("imagecodecs") is not None:
        return True
    return page.compression in _PLAIN_COMPRESSIONS and page.predictor in (1, 2)


def _whole_tiff(path: Path, page: Any) -> _Whole:
    if page.imagelength * page.imagewidth > _LARGEST_WHOLE_TIFF:
        name = getattr(page.compression, "name", page.compression)
        way_out = "once saved as grey or RGB of 8 or 16 bits"
        if not _is_decodable(page):
            way_out = f"{name} compression with imagecodecs (pip install imagecodecs), or once saved with deflate"
        size = _in_words((page.imagelength, page.imagewidth))
        raise UserError(f"{path}: {size} pixels are too many to be read whole, and by window only {way_out}")
    return _Whole(path, quiet=True)


def _colour_channels(path: Path, page: Any) -> int:
    """1 or 3; alpha comes after them."""
    count = page.samplesperpixel
    if (count == 4 and page.photometric == _RGB) or (count in (2, 4) and tuple(page.extrasamples) in _ALPHA):
        count -= 1
    if count not in (1, 3):
        raise UserError(f"{path}: has {count} channels; save grey, RGB or RGBA")
    return int(count)


def _check_segments(path: Path, page: Any) -> None:
    """UserError unless the file is as long as its tables say, and holds what the size needs."""
    offsets, counts = page.dataoffsets, page.databytecounts
    needed, end = math.prod(page.chunked), path.stat().st_size
    segment = math.prod(page.chunks) * page.dtype.itemsize
    if page.is_memmappable and page.dataoffsets[0] + page.nbytes <= end:
        return
    if page.is_memmappable or min(len(offsets), len(counts)) < needed or _reach_beyond(offsets, counts, end):
        raise UserError(f"{path}: is truncated: pixels are missing at its end; check or remove it")
    if segment > 1 << 30 and any(0 < count * 5000 < segment for count in counts):
        raise UserError(f"{path}: claims an absurd size ({_in_words(page.shape)} pixels); check or remove it")


def _reach_beyond(offsets: Any, counts: Any, end: int) -> bool:
    return any(offset + count > end for offset, count in zip(offsets, counts, strict=False))


def _mapped_tiff(path: Path, page: Any) -> NDArray[Any]:
    """[H, W, samples]"""
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    apart = page.planarconfig == 2 and samples > 1
    values: NDArray[Any] = np.memmap(
        path,
        page.dtype.newbyteorder(page.parent.byteorder),
        "r",
        page.dataoffsets[0],
        (samples, height, width) if apart else (height, width, samples),
    )
    page.parent.close()
    return values.transpose(1, 2, 0) if apart else values


class _Segments:
    """The tiles or strips of a TIFF page, each decoded when a window touches it; those used last are kept."""

    def __init__(self, tiff: Any, page: Any, channels: int, cache_bytes: int) -> None:
        self.tiff, self.page, self.cache_bytes = tiff, page, cache_bytes
        height, width = page.imagelength, page.imagewidth
        self.shape = (height, width, channels)
        self.dtype = np.dtype(page.dtype)
        self.apart = page.planarconfig == 2 and page.samplesperpixel > 1
        self.side = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        self.tables = (
            {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression == _JPEG else {}
        )
        self.grid = (math.ceil(height / self.side[0]), math.ceil(width / self.side[1]))
        self._kept: OrderedDict[int, Values | None] = OrderedDict()
        self._bytes = 0

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        window = np.zeros((height, width, self.shape[2]), self.dtype)
        for plane in range(self.shape[2] if self.apart else 1):
            part = window[:, :, plane : plane + 1] if self.apart else window
            for row in range(y // self.side[0], math.ceil((y + height) / self.side[0])):
                for column in range(x // self.side[1], math.ceil((x + width) / self.side[1])):
                    segment = self._segment((plane * self.grid[0] + row) * self.grid[1] + column)
                    if segment is not None:
                        _copy(segment, (row * self.side[0] - y, column * self.side[1] - x), self.side, part)
        return window

    def _segment(self, index: int) -> Values | None:
        """[h, w, channels], h and w as `side` or less at the image's end; None where the file holds nothing there."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        segment = self._kept[index] = self._decode(index)
        self._bytes += 0 if segment is None else segment.nbytes
        planes = self.shape[2] if self.apart else 1
        while self._bytes > self.cache_bytes and len(self._kept) > planes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= 0 if oldest is None else oldest.nbytes
        return segment

    def _decode(self, index: int) -> Values | None:
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        if offset == 0 or count == 0:
            return None
        self.tiff.filehandle.seek(offset)
        data = self.tiff.filehandle.read(count)  # first, because what the decoder looks up moves the place in the file
        decoded = self.page.decode(data, index, **self.tables)[0]
        values: Values = np.ascontiguousarray(decoded[0, :, :, : 1 if self.apart else self.shape[2]])
        return values

    def close(self) -> None:
        self._kept.clear()
        with suppress(OSError):
            self.tiff.close()


def _copy(segment: Values, at: tuple[int, int], side: tuple[int, int], window: Values) -> None:
    """What a window [h, w, channels] sees of a segment whose upper left pixel lies at (row, column) of it."""
    there, here = [], []
    for start, length, end in zip(at, side, window.shape, strict=False):
        low, high = max(start, 0), min(start + length, end)
        there.append(slice(low, high))
        here.append(slice(low - start, high - start))
    window[there[0], there[1]] = segment[here[0], here[1]]
