"""Image files, opened safely: whatever is wrong with one is a UserError of one line that names it."""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskrcnn.config import UserError

MAX_LABEL = 65_535
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
_DEEP_MODES = {"I", "I;16", "I;16B", "I;16L"}
# What Pillow's decoders raise for broken files, as far as seen: it promises no common type.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, zlib.error)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image file, open and its size checked; its pixels may be decoded within the block.

    Raises:
        UserError: missing, not an image, truncated, or so large that it may be a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise UserError(f"{path}: claims an absurd size (more than {limit} pixels); check or remove it") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image file") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; check or remove it") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a readable image, broken or truncated ({reason}); check or remove it") from error


def read_image(path: Path) -> Tensor:
    """RGB pixels, uint8 [3, H, W]. Alpha is left out, grey is repeated, 16 bits become the upper 8.

    UserError for a file that is no image of whole numbers.
    """
    with opened(path) as image:
        if image.mode == "F":
            raise UserError(f"{path}: its numbers are floats; save 8 or 16 bits")
        if image.mode in _DEEP_MODES:
            grey = np.asarray(image).astype(np.int64)
            grey = (grey >> 8 if grey.max(initial=0) > 255 else grey).clip(0, 255).astype(np.uint8)
            pixels = np.repeat(grey[:, :, None], 3, axis=2)
        else:
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_labels(path: Path) -> Tensor:
    """Instance numbers, int32 [H, W], 0 for background; gaps between them are fine.

    Raises:
        UserError: as ``opened``; a colour image; a number below 0 or above 65,535.
    """
    with opened(path) as image:
        if image.mode not in _LABEL_MODES:
            raise UserError(f"{path}: labels must be one channel of instance numbers, this is {image.mode}")
        numbers = np.array(image).astype(np.int32)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= MAX_LABEL:
        wrong = numbers.max() if numbers.max() > MAX_LABEL else numbers.min()
        raise UserError(f"{path}: instance number {wrong} is out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(numbers)


def list_images(folder: Path) -> list[Path]:
    """The PNG files of a folder, sorted by name, hidden ones left out. UserError if it is not there or not a folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a folder ({error.strerror}); check the data set") from error
