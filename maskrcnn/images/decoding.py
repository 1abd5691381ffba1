"""Image files decoded by Pillow: whatever is wrong with one is a UserError of one line that names it."""

import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maskrcnn.config import UserError

MAX_LEVEL = 65_535  # of an image's pixels
MAX_MEGAPIXELS = 256  # default limit of what is decoded whole
_max_megapixels: ContextVar[int] = ContextVar("max_megapixels", default=MAX_MEGAPIXELS)
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_ANIMATIONS = ("GIF", "WEBP")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # offset of the bit depth; the color type follows
_MAX_DEFLATE_RATIO = 1032  # zlib, technical details: no stream of its format is compressed further
_PHOTOMETRIC, _BITS, _ORIENTATION = 262, 258, 0x0112  # TIFF tags, the last one also of EXIF
_LAST_ORIENTATION = 8
_FIRST_SIDEWAYS = 5
# What Pillow's decoders raise for broken files, as far as seen: it promises no common type.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, zlib.error)


@contextmanager
def megapixel_limit(limit: int) -> Iterator[None]:
    """Images of more megapixels are not decoded whole within the block."""
    token = _max_megapixels.set(limit)
    try:
        yield
    finally:
        _max_megapixels.reset(token)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image file, open and its size checked; its pixels may be decoded within the block.

    Raises:
        UserError: missing, not a regular file, not an image, truncated, above the limit of megapixels, or larger than
            its bytes can hold.
    """
    try:
        check_regular(path)
        # Not by its name: Pillow would map it into memory, and then reads a TIFF that is to be turned wrongly.
        with path.open("rb") as file, without_pillows_limit(), Image.open(file) as image:
            check_declared_size(path, image.size)
            if image.format == "PNG":
                _check_png_size(path, image)
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image file") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; check or remove it") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a readable image, broken or truncated ({reason}); check or remove it") from error


def check_regular(path: Path) -> None:
    """UserError for a pipe, a device or a socket, which could be waited for forever; OSError where nothing is there."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: is no regular file; give an image file")


def check_declared_size(path: Path, size: tuple[int, int]) -> None:
    """UserError for an image (W, H) with more pixels than are decoded whole."""
    limit = _max_megapixels.get()
    if size[0] * size[1] > limit * 1_000_000:
        raise UserError(
            f"{path}: claims an absurd size ({size[0]} x {size[1]} pixels; more than {limit} megapixels); check it, "
            "raise --max_megapixels, or save it as a tiled TIFF, which is read by window"
        )


def _check_png_size(path: Path, image: Image.Image) -> None:
    """UserError for a PNG that claims more pixels than deflate can hold in its bytes."""
    bits = {"1": 1, "P": 1, "L": 1, "I;16": 16, "LA": 16, "RGB": 24, "RGBA": 32}.get(image.mode, 1)
    size, needed = path.stat().st_size, image.width * image.height * bits / 8
    if needed > size * _MAX_DEFLATE_RATIO:
        raise UserError(
            f"{path}: claims an absurd size ({image.width} x {image.height} pixels in {size} bytes); check or remove it"
        )


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Pillow's guard against small files that claim to be huge is replaced by `check_declared_size`."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# ---- pixels


def decode(path: Path, image: Image.Image) -> NDArray[Any]:
    """Pixels of an open file, upright: uint8 [H, W, 3] RGB, or uint16 [H, W, 1 or 3] where it has more than 8 bits.

    Alpha is left out. UserError for floats, negative numbers, more than 16 bits, animations, and colors of more than 8
    bits that cannot be decoded without loss.
    """
    check_kind(path, image)
    if image.mode in _DEEP_MODES:
        values = _deep_gray(path, image)
    elif is_deep_png(path, image):
        values = _deep_png(path)
    else:
        values = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return _upright(values, orientation(image))


def check_kind(path: Path, image: Image.Image) -> None:
    """UserError for an open file whose pixels are not read, found from its header."""
    if image.mode == "F":
        raise UserError(f"{path}: its pixels are floating-point numbers; save it with 8 or 16 bits a channel")
    if image.format in _ANIMATIONS and getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{path}: is an animation; save each image as a file of its own")
    if image.mode not in _DEEP_MODES and _is_deep_color(image):
        way_out = "save it as PNG, or as TIFF without compression or with deflate"
        raise UserError(f"{path}: its colors have more than 8 bits, of which only 8 would be read; {way_out}")


def is_deep(path: Path, image: Image.Image) -> bool:
    """Whether an open file holds more than 8 bits a channel."""
    return image.mode in _DEEP_MODES or is_deep_png(path, image)


def is_deep_png(path: Path, image: Image.Image) -> bool:
    """Whether an open file is a PNG of 16 bits with colors or alpha, of which Pillow reads the upper 8."""
    if image.format != "PNG" or image.mode in _DEEP_MODES:
        return False
    with path.open("rb") as file:
        start = file.read(_PNG_DEPTH + 1)
    return start.startswith(_PNG_START) and start[_PNG_DEPTH:] == b"\x10"


def _is_deep_color(image: Image.Image) -> bool:
    bits = getattr(image, "tag_v2", {}).get(_BITS, (8,))
    if max(bits if isinstance(bits, tuple) else (bits,), default=8) > 8:
        return True
    tiles = getattr(image, "tile", [])
    return (
        image.format == "PPM" and image.mode == "RGB" and bool(tiles) and tiles[0][0] == "ppm" and tiles[0][3][1] > 255
    )


def _deep_gray(path: Path, image: Image.Image) -> NDArray[np.uint16]:
    gray = np.asarray(image)
    low, high = int(gray.min(initial=0)), int(gray.max(initial=0))
    if high > MAX_LEVEL:
        raise UserError(f"{path}: has pixels of {high}, more than 16 bits hold; save 8 or 16 bits")
    if low < 0:
        raise UserError(f"{path}: has negative pixels (down to {low}); save it as unsigned 16 bits with an offset")
    is_inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    values = gray.astype(np.uint16)[:, :, None]
    return MAX_LEVEL - values if is_inverted else values


def _deep_png(path: Path) -> NDArray[np.uint16]:
    from torchvision.io import ImageReadMode, decode_image  # takes seconds to import

    contents = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    try:
        values = decode_image(contents, ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    colors: NDArray[np.uint16] = values[: 1 if len(values) < 3 else 3].permute(1, 2, 0).numpy()
    return colors


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


# ---- orientation


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
    return (
        (image.width, image.height) if _FIRST_SIDEWAYS <= orientation(image) <= _LAST_ORIENTATION else image.size[::-1]
    )


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels [H, W, C] turned as EXIF says."""
    if _FIRST_SIDEWAYS <= orientation <= _LAST_ORIENTATION:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if orientation in (3, 4, 7, 8) else values
