"""TIFF files read by window: tiles and strips are decoded on demand, and uncompressed files are memory-mapped.

`ImageOptions.selection` selects the planes of stacks (multi-page files, ImageJ hyperstacks, OME-TIFF).
"""

from __future__ import annotations

import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.images.decoding import check_declared_size
from maskrcnn.images.formats.tiff_segments import SegmentedSamples
from maskrcnn.images.options import get_image_options
from maskrcnn.images.samples import (
    ConvertedSamples,
    InvertedSamples,
    MappedSamples,
    Samples,
    StackSamples,
    check_not_empty,
    format_size,
)
from maskrcnn.images.selection import Selection, Stack, select_planes

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CODECS = "install imagecodecs (pip install imagecodecs)"
_PLAIN_COMPRESSIONS = (1, 8, 32773, 32946, 34925)  # none, deflate (2 codes), PackBits, LZMA: need no imagecodecs
_WHITE_IS_ZERO, _GRAY, _RGB, _YCBCR, _JPEG = 0, 1, 2, 6, 7
_ALPHA = ((1,), (2,))
_AXES = {"C": "c", "Z": "z", "T": "t"}
_MAX_PLANES = 65_536


def open_tiff(path: Path, cache_bytes: int) -> Samples | None:
    """Open the first image of a TIFF file, which may be a stack; return None if Pillow has to read it.

    Raises:
        UserError: If the file is a stack of which too little is selected, has complex pixels, or is truncated.
    """
    import tifffile  # takes a tenth of a second to import

    tiff = tifffile.TiffFile(path, _multifile=False)  # OME-TIFF may name other files
    try:
        page = tiff.pages.first
        check_not_empty(path, (page.imagelength, page.imagewidth))
        if page.dtype is not None and page.dtype.kind == "c":
            raise UserError(f"{path}: its data type is {page.dtype}; save uint8, uint16 or float32")
        if (count := _count_planes(tiff, page)) > 1:
            return _open_stack(path, tiff, cache_bytes, count)
        if not _is_by_window(page):
            tiff.close()
            _check_decodable_size(path, page)
            return None
        return _open_page(path, tiff, page, cache_bytes, get_image_options().selection)
    except BaseException:
        tiff.close()
        raise


def _count_planes(tiff: Any, page: Any) -> int:
    """Return the number of planes of the first image; pages of other sizes are levels of a pyramid."""
    count = len(tiff.pages) if len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape else 1
    if tiff.is_imagej:  # may store all planes after the first page
        count = max(count, int((tiff.imagej_metadata or {}).get("images", 1)))
    return count


# ---- stacks


def _open_stack(path: Path, tiff: Any, cache_bytes: int, count: int) -> Samples:
    """Open the first series of a file with several planes."""
    series = tiff.series[0]
    page = series.keyframe
    if not _is_by_window(page):
        name = getattr(page.compression, "name", page.compression)
        fix = CODECS if not _is_decodable(page) else "save it as gray or RGB with 8, 16 or 32 bits"
        raise UserError(f"{path}: its stack with {name} compression cannot be read; {fix}, or save it with deflate")
    selection = get_image_options().selection
    axes, shape = _find_axes(path, series)
    if math.prod(shape) < count:
        raise UserError(f"{path}: is truncated: it has {math.prod(shape)} of its {count} planes; check or remove it")
    stack = Stack(axes, shape, selection, str(path), page.samplesperpixel > 1)
    stack.check((page.imagelength, page.imagewidth))
    planes = stack.find_planes()
    if "c" in stack.named_axes:
        if _count_channels(page, selection) > 1:
            raise UserError(f"{path}: has both {len(planes)} channels and colors; save it with one of them")
        selection = Selection(None, selection.planes)
    open_plane = partial(_open_plane, path, tiff, series, max(1, cache_bytes // max(1, len(planes))), selection)
    if series.dataoffset is not None and page.compression == 1 and page.predictor == 1 and not page.is_tiled:
        open_plane = partial(_slice_plane, path, _map_series(path, series, page), page, selection)
    chosen = select_planes(planes, get_image_options().selection, "c" in stack.named_axes, str(path))
    return StackSamples(chosen, stack.reductions, open_plane, tiff.close, "c" in stack.named_axes)


def _find_axes(path: Path, series: Any) -> tuple[str, tuple[int, ...]]:
    """Return the letters and lengths of the axes of a series' planes."""
    found = [
        (_AXES.get(axis, "?"), int(length))
        for axis, length in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS" and length > 1
    ]
    axes, shape = "".join(axis for axis, _ in found), tuple(length for _, length in found)
    if math.prod(shape) > _MAX_PLANES:
        raise UserError(f"{path}: claims an absurd number of planes ({math.prod(shape)}); check or remove it")
    return axes, shape


def _map_series(path: Path, series: Any, page: Any) -> NDArray[Any]:
    """Map the planes of a series that are stored one after another without compression, [P, *page shape]."""
    shape = (series.size // math.prod(page.shape), *page.shape)
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    values: NDArray[Any] = np.memmap(path, dtype, "r", series.dataoffset, shape)
    return values


def _slice_plane(path: Path, values: NDArray[Any], page: Any, selection: Selection, number: int) -> Samples:
    plane = values[number]
    if plane.ndim == 2:
        plane = plane[:, :, None]
    elif page.planarconfig == 2:
        plane = plane.transpose(1, 2, 0)
    return _finish(path, MappedSamples(plane[:, :, : _count_channels(page, selection)]), page)


def _open_plane(path: Path, tiff: Any, series: Any, cache_bytes: int, selection: Selection, number: int) -> Samples:
    page = series.pages[number]
    if page is None:
        raise UserError(f"{path}: plane {number} of its stack is missing")
    page = page.aspage()
    if page.shape != series.keyframe.shape or page.dtype != series.keyframe.dtype or not _is_by_window(page):
        raise UserError(f"{path}: plane {number} of its stack is of another kind; save each as a separate file")
    return _open_page(path, tiff, page, cache_bytes, selection)


# ---- pages


def _open_page(path: Path, tiff: Any, page: Any, cache_bytes: int, selection: Selection) -> Samples:
    channels = _count_channels(page, selection)
    _check_segments(path, page)
    if page.is_memmappable:
        return _finish(path, MappedSamples(_map_tiff(path, page)[:, :, :channels]), page)
    return _finish(path, SegmentedSamples(tiff, page, channels, cache_bytes), page)


def _finish(path: Path, samples: Samples, page: Any) -> Samples:
    """Convert samples to a supported data type, in which 0 is black."""
    if samples.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.float32):
        samples = ConvertedSamples(samples, path)
    inverted = page.photometric == _WHITE_IS_ZERO and page.dtype.kind == "u"
    return InvertedSamples(samples) if inverted else samples


def _is_by_window(page: Any) -> bool:
    """Return whether the page can be read by window; Pillow reads the others."""
    plain = page.photometric in (_WHITE_IS_ZERO, _GRAY, _RGB) or (
        page.photometric == _YCBCR and page.compression == _JPEG
    )
    upright = page.tags.valueof(274, 1) == 1
    known = page.dtype is not None and page.dtype.kind in "uif" and page.bitspersample == 8 * page.dtype.itemsize
    return plain and upright and known and page.imagedepth == 1 and _is_decodable(page)


def _count_channels(page: Any, selection: Selection) -> int:
    """Return the number of channels, without alpha unless `ImageOptions` ask for it."""
    count = int(page.samplesperpixel)
    if count == get_image_options().channels or selection.channels is not None:
        return count
    is_alpha = (count == 4 and page.photometric == _RGB) or (count in (2, 4) and tuple(page.extrasamples) in _ALPHA)
    return count - 1 if is_alpha else count


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
            fix = f"for {name} compression {CODECS}, or save it with deflate"
        size = format_size((page.imagelength, page.imagewidth))
        raise UserError(
            f"{path}: {size} pixels are too many to be read as a whole (--max_megapixels); to read it by window, {fix}"
        ) from error


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
    return values.transpose(1, 2, 0) if is_planar else values
