"""Files of label images: integers of any type, whole floats, ids coded as colors, and one mask per page."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.checks import Tally, check_size
from maskrcnn.config import UserError
from maskrcnn.images.reading import get_stored_values, open_image_file
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.text import describe_error

TIFF = (".tif", ".tiff")
MAX_LABEL = 2**53  # that float64 holds exactly
FROM_COLORS = "label images in color, read as numbers R + 256 G + 65,536 B"
_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F"}
_COLORS = {"RGB", "RGBA"}
_LOSSY = ("JPEG", "MPO")
_ORIENTATION = 274
_DESCRIPTION = 270  # TIFF tag in which ImageJ stores the number of images in the file
_TO_NUMBER = np.array([1, 256, 65_536], np.int32)


class SeveralPages(UserError):  # noqa: N818  # callers catch it and read the pages
    """A label image has several pages."""


class Labels(NamedTuple):
    """Object numbers int32 or int64 [H, W], and whether they were coded as colors."""

    numbers: NDArray[np.integer]
    is_color: bool = False


def read_label_file(path: Path) -> Labels:
    """Read the object numbers of a label image of any bit depth; floating-point files must have integer values.

    The number of a color is R + 256 G + 65,536 B, as in COCO panoptic; where it is transparent, it is 0. Gray stored as
    color is read as gray.

    Raises:
        SeveralPages: If the file has several pages.
        UserError: If the file is unreadable or a JPEG, or a value is not an integer from -1 to 2⁵³.
    """
    values = _tiff_values(path) if path.suffix.lower() in TIFF else None
    if values is None:
        values = _read_values(path)
    if values.ndim == 3:
        return _to_numbers(values)
    values = values.astype(np.float64) if values.dtype == np.float16 else values
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise UserError(f"{path}: instance numbers must be integers; save them as an integer type")
    if values.size and not (values.min() >= -1 and values.max() <= MAX_LABEL):
        raise make_range_error(path)
    is_small = values.size == 0 or values.max() <= np.iinfo(np.int32).max
    return Labels(values.astype(np.int32 if is_small else np.int64))


def read_numbers(path: Path) -> Tensor:
    """Read the object numbers of a label image, int32 or int64 [H, W]; see `read_label_file`."""
    return torch.from_numpy(read_label_file(path).numbers)


def make_range_error(path: Path) -> UserError:
    """Return the error about numbers that are negative or too large."""
    return UserError(f"{path}: has instance numbers out of range: use 1 to {MAX_LABEL}, 0 for background")


def _to_numbers(colors: NDArray[np.uint8]) -> Labels:
    """Convert colors uint8 [H, W, 3 or 4]."""
    visible = colors[..., 3] > 0 if colors.shape[2] == 4 else np.True_
    if (colors[..., :3] == colors[..., :1]).all():
        return Labels((colors[..., 0] * visible).astype(np.int32))
    return Labels(((colors[..., :3] @ _TO_NUMBER) * visible).astype(np.int32), is_color=True)


def _read_values(path: Path) -> NDArray[Any]:
    """Return the values of a single-channel image [H, W], or colors [H, W, 3 or 4]."""
    with open_image_file(path) as image:
        check_pages(path, image)
        if image.format in _LOSSY:
            raise UserError(f"{path}: JPEG alters instance numbers; save the labels as PNG or TIFF instead")
        if image.mode not in _MODES | _COLORS:
            raise UserError(f"{path}: labels must have one channel of instance numbers; the mode is {image.mode}")
        return np.asarray(image) if image.mode in _COLORS else get_stored_values(image)


def _tiff_values(path: Path) -> NDArray[Any] | None:
    """Return the stored values of a TIFF with one page and channel; None for any other file or compression."""
    import tifffile  # takes a tenth of a second to import

    logger = logging.getLogger("tifffile")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.pages) > 1:
                raise _make_pages_error(path)
            page = tiff.pages.first
            is_plain = page.samplesperpixel == 1 and len(page.shape) == 2 and page.tags.valueof(_ORIENTATION, 1) == 1
            if not is_plain or page.size > (Image.MAX_IMAGE_PIXELS or 0):
                return None
            _check_imagej(path, page.description)
            values = np.asarray(page.asarray())
            return values if values.ndim == 2 and values.dtype.kind in "biuf" else None
    except UserError:
        raise
    except Exception:  # invalid files raise many kinds; Pillow's error is reported instead
        return None
    finally:
        logger.disabled = was_disabled


# ---- several pages


def check_pages(path: Path, image: Image.Image) -> None:
    """Raise `SeveralPages` if a file has several pages."""
    _check_imagej(path, getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))
    if getattr(image, "n_frames", 1) > 1:
        raise _make_pages_error(path)


def _check_imagej(path: Path, description: object) -> None:
    """Raise `SeveralPages` if the description that ImageJ stores on the first page counts several images."""
    imagej = re.match(r"ImageJ=[^\0]*?\bimages=(\d{1,9})\b", description) if isinstance(description, str) else None
    if imagej is not None and int(imagej[1]) > 1:
        raise _make_pages_error(path)


def _make_pages_error(path: Path) -> UserError:
    return SeveralPages(f"{path}: has several pages; save each page as a separate file (stacks are not supported)")


def read_stack(path: Path, size: tuple[int, int], tally: Tally) -> tuple[CroppedMasks, Tensor]:
    """Read a TIFF file whose pages are the masks of one object each, one page in memory at a time.

    Args:
        path: the file.
        size: image size (H, W).
        tally: where empty pages are counted.

    Returns:
        The N masks that are not empty, and the numbers of their pages from 1, int64 [N].

    Raises:
        UserError: If the file is unreadable, or a page has another size or several values besides 0.
    """
    windows: list[list[int]] = []
    levels: list[Tensor] = []
    ids: list[int] = []
    number = 0
    for number, page in enumerate(_read_pages(path), start=1):
        if page.ndim != 2:
            raise UserError(f"{path}: page {number} is in color; save each object's mask as one channel")
        check_size(path, page.shape, size)
        rows, columns = np.flatnonzero((page != 0).any(axis=1)), np.flatnonzero((page != 0).any(axis=0))
        if not len(rows):
            continue
        x1, y1, x2, y2 = window = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        inside = page[y1:y2, x1:x2]
        if len(np.unique(inside[inside != 0])) > 1:
            raise UserError(
                f"{path}: page {number} has several numbers; a file of several pages must have the mask of one object "
                "on each (label volumes are not supported: save each slice as a separate file)"
            )
        windows.append(window)
        levels.append(torch.from_numpy((inside != 0).astype(np.uint8) * 255))
        ids.append(number)
    tally.add("empty masks dropped", str(path), number - len(ids))
    boxes = torch.tensor(windows, dtype=torch.int32).reshape(-1, 4)
    return CroppedMasks.from_windows(boxes, levels, size), torch.tensor(ids, dtype=torch.int64)


def _read_pages(path: Path) -> Iterator[NDArray[Any]]:
    import tifffile

    logger = logging.getLogger("tifffile")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.pages) > 1:
                for page in tiff.pages:
                    yield np.asarray(page.asarray())
            else:  # ImageJ describes large stacks on one page, uncompressed
                stack = tifffile.memmap(path, mode="r")
                yield from stack.reshape(-1, *stack.shape[-2:])
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # invalid files raise many kinds
        reason = describe_error(error)
        raise UserError(f"{path}: not a readable image, broken or truncated ({reason}); check or remove it") from error
    finally:
        logger.disabled = was_disabled
