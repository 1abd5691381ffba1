"""Image files, opened safely: whatever is wrong with one is a UserError of one line that names it."""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn.config import UserError

MAX_LABEL = 65_535
MAX_LEVEL = 65_535  # of an image's pixels
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
_DEEP_MODES = {"I", "I;16", "I;16B", "I;16L"}
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_PHOTOMETRIC = 262  # the TIFF tag; its value 0 is "white is zero"
_ORIENTATION = 0x0112  # the EXIF tag, and what its values above 1 ask for
_TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
_FIRST_SIDEWAYS = 5
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
            # Not by its name: Pillow would map it into memory, and then reads a TIFF that is to be turned wrongly.
            with path.open("rb") as file, Image.open(file) as image:
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
    """RGB pixels, uint8 [3, H, W], turned as EXIF says. Alpha is left out, grey is repeated, 16 bits lose `bits_lost`.

    UserError for a file that is no image of whole numbers up to 65,535.
    """
    with opened(path) as image:
        if image.mode == "F":
            raise UserError(f"{path}: its numbers are floats; save 8 or 16 bits")
        turn = _TURNS.get(orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if image.mode in _DEEP_MODES:
            grey = np.asarray(upright)
            most = int(grey.max(initial=0))
            if most > MAX_LEVEL:
                raise UserError(f"{path}: has pixels of {most}, more than 16 bits hold; save 8 or 16 bits")
            grey = (grey.clip(0) >> bits_lost(most)).astype(np.uint8)
            pixels = np.repeat(grey[:, :, None], 3, axis=2)
        else:
            pixels = np.array(upright if image.mode == "RGB" else upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def is_deep(path: Path) -> bool:
    """Whether a grey image holds more than 8 bits."""
    with opened(path) as image:
        return image.mode in _DEEP_MODES


def bits_lost(most: int) -> int:
    """Low bits that an image of 16-bit values, of which the highest is ``most``, loses on the way to 8 bits.

    None or 4 where it uses 8 or 12 bits alone, as cameras give them, else 8. So images of one camera keep their
    relative brightness, unless one of them has nothing above 255.
    """
    return 0 if most < 1 << 8 else 4 if most < 1 << 12 else 8


def orientation(image: Image.Image) -> int:
    """How the header of an open file says that its pixels lie, as EXIF counts: 1 upright, from 5 on sideways.

    For TIFF 1: Pillow turns it. A broken header says nothing.
    """
    try:
        return int(image.getexif().get(_ORIENTATION, 1)) if "exif" in image.info else 1
    except Exception:  # Pillow promises none; the pixels are there all the same
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of what `read_image` gives for an open file."""
    return (image.width, image.height) if _FIRST_SIDEWAYS <= orientation(image) <= max(_TURNS) else image.size[::-1]


def stored_values(image: Image.Image) -> NDArray[Any]:
    """The numbers of one channel of an open file, [H, W], as they are stored: palettes and white-is-zero are ignored.

    Both say how numbers are shown, and Pillow inverts 1 and 8 bits of TIFF where 0 is white: Fiji's inverting lookup
    table, and tifffile for arrays of bool.
    """
    values = np.array(image)
    is_inverted = image.mode in ("1", "L") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return ~values if is_inverted else values


def is_lossy(image: Image.Image) -> bool:
    """Whether an open file may hold other levels than were saved, around edges above all. WebP may, so it counts."""
    return image.format in _LOSSY_FORMATS or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


def read_labels(path: Path) -> Tensor:
    """Instance numbers, int32 [H, W], 0 for background; gaps between them are fine.

    Raises:
        UserError: as ``opened``; a colour image; a number below 0 or above 65,535.
    """
    with opened(path) as image:
        if image.mode not in _LABEL_MODES:
            raise UserError(f"{path}: labels must be one channel of instance numbers, this is {image.mode}")
        numbers = stored_values(image).astype(np.int32)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= MAX_LABEL:
        wrong = numbers.max() if numbers.max() > MAX_LABEL else numbers.min()
        raise UserError(f"{path}: instance number {wrong} is out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(numbers)
