"""TIFF files read by window: tiles and strips are decoded on demand, and uncompressed files are memory-mapped."""

from __future__ import annotations

import importlib.util
import math
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.images.decoding import check_declared_size
from maskrcnn.images.options import get_image_options
from maskrcnn.images.samples import MappedSamples, Samples, Values, check_not_empty, format_size

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PLAIN_COMPRESSIONS = (1, 8, 32773, 32946, 34925)  # none, deflate (2 codes), PackBits, LZMA: need no imagecodecs
_WHITE_IS_ZERO, _GRAY, _RGB, _YCBCR, _JPEG = 0, 1, 2, 6, 7
_ALPHA = ((1,), (2,))


def open_tiff(path: Path, cache_bytes: int) -> Samples | None:
    """Open the first page of a TIFF file; return None if Pillow has to read it.

    Raises:
        UserError: If the file is a stack, has floating-point pixels, is neither gray nor RGB, or is truncated.
    """
    import tifffile  # takes a tenth of a second to import

    tiff = tifffile.TiffFile(path)
    try:
        page = tiff.pages.first
        check_not_empty(path, (page.imagelength, page.imagewidth))
        _check_pixel_type(path, tiff, page)
        if not _is_by_window(page):
            tiff.close()
            _check_decodable_size(path, page)
            return None
        channels = _count_channels(page)
        _check_segments(path, page)
        samples: Samples
        if page.is_memmappable:
            samples = MappedSamples(_map_tiff(path, page)[:, :, :channels])
        else:
            samples = SegmentedSamples(tiff, page, channels, cache_bytes)
        return InvertedSamples(samples) if page.photometric == _WHITE_IS_ZERO and samples.dtype.kind == "u" else samples
    except BaseException:
        tiff.close()
        raise


def _check_pixel_type(path: Path, tiff: Any, page: Any) -> None:
    """Raise a UserError for floating-point pixels and for stacks; pages of other sizes are levels of a pyramid."""
    if page.dtype is not None and page.dtype.kind in "fc" and page.dtype != np.float32:
        raise UserError(f"{path}: its data type is {page.dtype}; save uint8, uint16 or float32")
    count = len(tiff.pages) if len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape else 1
    if tiff.is_imagej:  # may store all images after the first page
        count = max(count, (tiff.imagej_metadata or {}).get("images", 1))
    if count > 1:
        raise UserError(f"{path}: is a stack of {count} images; save each as a separate file")


def _is_by_window(page: Any) -> bool:
    """Return whether the page can be read by window; Pillow reads the others."""
    plain = page.photometric in (_WHITE_IS_ZERO, _GRAY, _RGB) or (
        page.photometric == _YCBCR and page.compression == _JPEG
    )
    upright = page.tags.valueof(274, 1) == 1
    known = page.dtype in (np.uint8, np.uint16, np.float32) and page.bitspersample in (8, 16, 32)
    return plain and upright and known and page.imagedepth == 1 and _is_decodable(page)


def _is_decodable(page: Any) -> bool:
    """Return whether tifffile can decode the page with the installed packages."""
    if importlib.util.find_spec("imagecodecs") is not None:
        return True
    return page.compression in _PLAIN_COMPRESSIONS and page.predictor in (1, 2)


def _check_decodable_size(path: Path, page: Any) -> None:
    """Raise a UserError for a page too large to be decoded as a whole, with a hint how to read it by window."""
    try:
        check_declared_size(path, (page.imagewidth, page.imagelength))
    except UserError as error:
        name = getattr(page.compression, "name", page.compression)
        fix = "save it as gray or RGB with 8 or 16 bits"
        if not _is_decodable(page):
            fix = f"for {name} compression install imagecodecs (pip install imagecodecs), or save it with deflate"
        size = format_size((page.imagelength, page.imagewidth))
        raise UserError(
            f"{path}: {size} pixels are too many to be read as a whole (--max_megapixels); to read it by window, {fix}"
        ) from error


def _count_channels(page: Any) -> int:
    """Return the number of channels, without alpha unless `ImageOptions.channels` asks for it."""
    count = int(page.samplesperpixel)
    if count == get_image_options().channels:
        return count
    is_alpha = (count == 4 and page.photometric == _RGB) or (count in (2, 4) and tuple(page.extrasamples) in _ALPHA)
    return count - 1 if is_alpha else count


def _check_segments(path: Path, page: Any) -> None:
    """Raise a UserError if the file is shorter than its tables declare, or too short for the image size."""
    offsets, counts = page.dataoffsets, page.databytecounts
    needed, end = math.prod(page.chunked), path.stat().st_size
    segment = math.prod(page.chunks) * page.dtype.itemsize
    if page.is_memmappable and page.dataoffsets[0] + page.nbytes <= end:
        return
    if page.is_memmappable or min(len(offsets), len(counts)) < needed or _exceed_file(offsets, counts, end):
        raise UserError(f"{path}: is truncated: pixels are missing at its end; check or remove it")
    if segment > 1 << 30 and any(0 < count * 5000 < segment for count in counts):
        raise UserError(f"{path}: claims an absurd size ({format_size(page.shape)} pixels); check or remove it")


def _exceed_file(offsets: Any, counts: Any, end: int) -> bool:
    return any(offset + count > end for offset, count in zip(offsets, counts, strict=False))


def _map_tiff(path: Path, page: Any) -> NDArray[Any]:
    """Map the pixels of an uncompressed page, [H, W, samples]."""
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    is_planar = page.planarconfig == 2 and samples > 1
    values: NDArray[Any] = np.memmap(
        path,
        page.dtype.newbyteorder(page.parent.byteorder),
        "r",
        page.dataoffsets[0],
        (samples, height, width) if is_planar else (height, width, samples),
    )
    page.parent.close()
    return values.transpose(1, 2, 0) if is_planar else values


class InvertedSamples:
    """Samples where 0 is white."""

    def __init__(self, samples: Samples) -> None:
        self.samples, self.shape, self.dtype = samples, samples.shape, samples.dtype

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        inverted: Values = np.invert(self.samples.read(x, y, height, width))
        return inverted

    def close(self) -> None:
        """Close the file."""
        self.samples.close()


class SegmentedSamples:
    """Tiles or strips of a TIFF page, decoded on demand, with a cache of the most recently used ones."""

    def __init__(self, tiff: Any, page: Any, channels: int, cache_bytes: int) -> None:
        self.tiff, self.page, self.cache_bytes = tiff, page, cache_bytes
        height, width = page.imagelength, page.imagewidth
        self.shape = (height, width, channels)
        self.dtype = np.dtype(page.dtype)
        self.is_planar = page.planarconfig == 2 and page.samplesperpixel > 1
        self.side = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        self.tables = (
            {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression == _JPEG else {}
        )
        self.grid = (math.ceil(height / self.side[0]), math.ceil(width / self.side[1]))
        self._kept: OrderedDict[int, Values | None] = OrderedDict()
        self._bytes = 0

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window; missing tiles are 0."""
        window = np.zeros((height, width, self.shape[2]), self.dtype)
        for plane in range(self.shape[2] if self.is_planar else 1):
            part = window[:, :, plane : plane + 1] if self.is_planar else window
            for row in range(y // self.side[0], math.ceil((y + height) / self.side[0])):
                for column in range(x // self.side[1], math.ceil((x + width) / self.side[1])):
                    segment = self._segment((plane * self.grid[0] + row) * self.grid[1] + column)
                    if segment is not None:
                        _copy(segment, (row * self.side[0] - y, column * self.side[1] - x), self.side, part)
        return window

    def _segment(self, index: int) -> Values | None:
        """Return a segment [h, w, channels], clipped at the edge of the image; None if it is missing in the file."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        segment = self._kept[index] = self._decode(index)
        self._bytes += 0 if segment is None else segment.nbytes
        planes = self.shape[2] if self.is_planar else 1
        while self._bytes > self.cache_bytes and len(self._kept) > planes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= 0 if oldest is None else oldest.nbytes
        return segment

    def _decode(self, index: int) -> Values | None:
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        if offset == 0 or count == 0:
            return None
        self.tiff.filehandle.seek(offset)
        data = self.tiff.filehandle.read(count)  # before decoding, which moves the file position
        decoded = self.page.decode(data, index, **self.tables)[0]
        values: Values = np.ascontiguousarray(decoded[0, :, :, : 1 if self.is_planar else self.shape[2]])
        return values

    def close(self) -> None:
        """Close the file, and clear the cache."""
        self._kept.clear()
        with suppress(OSError):
            self.tiff.close()


def _copy(segment: Values, at: tuple[int, int], side: tuple[int, int], window: Values) -> None:
    """Copy the part of a segment inside a window [h, w, channels]; `at` is its top left (row, column) there."""
    there, here = [], []
    for start, length, end in zip(at, side, window.shape, strict=False):
        low, high = max(start, 0), min(start + length, end)
        there.append(slice(low, high))
        here.append(slice(low - start, high - start))
    window[there[0], there[1]] = segment[here[0], here[1]]
