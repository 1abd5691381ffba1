"""Decoding of image files by Pillow; errors are `UserError`s of one line that name the file."""

import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maskrcnn.config import UserError
from maskrcnn.images.options import get_image_options
from maskrcnn.images.options import limit_megapixels as limit_megapixels
from maskrcnn.images.samples import MAX_LEVEL, convert_values
from maskrcnn.text import describe_error

_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")
_GRAY_MODES = ("1", "L", "LA", "La")
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_ANIMATIONS = ("GIF", "WEBP")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MAX_JPEG2000_HEADER = 1 << 16
_PNG_DEPTH = 24  # offset of the bit depth; the color type follows
_MAX_DEFLATE_RATIO = 1032  # maximum compression factor of deflate (zlib technical details)
_PHOTOMETRIC, _BITS, _ORIENTATION = 262, 258, 0x0112  # TIFF tags, the last one also of EXIF
_MAX_ORIENTATION = 8
_MIN_TRANSPOSED = 5
# Pillow's decoders raise these for invalid files; it guarantees no common type.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    zlib.error,
)


@contextmanager
def open_image_file(path: Path) -> Iterator[Image.Image]:
    """Open an image file and check its size; its pixels can be decoded within the block.

    Raises:
        UserError: If the file is missing, not a regular file, not an image, truncated, above the limit of megapixels,
            or declares more pixels than its bytes can contain.
    """
    try:
        check_regular(path)
        # Opened by file object, not by name: for names Pillow maps memory, and then misreads rotated TIFF files.
        with path.open("rb") as file, disable_pillow_limit(), Image.open(file) as image:
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
    except _DECODING_ERRORS as error:
        reason = describe_error(error)
        raise UserError(f"{path}: not a readable image, broken or truncated ({reason}); check or remove it") from error


def check_regular(path: Path) -> None:
    """Raise a UserError for a pipe, device or socket, which could block; OSError if the file is missing."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: is not a regular file; use an image file")


def check_declared_size(path: Path, size: tuple[int, int]) -> None:
    """Raise a UserError for an image size (W, H) above the limit of megapixels."""
    limit = get_image_options().max_megapixels
    if size[0] * size[1] > limit * 1_000_000:
        raise UserError(
            f"{path}: claims an absurd size ({size[0]} x {size[1]} pixels; more than {limit} megapixels); check it, "
            "raise --max_megapixels, or save it as a tiled TIFF, which is read by window"
        )


def _check_png_size(path: Path, image: Image.Image) -> None:
    """Raise a UserError for a PNG that declares more pixels than its bytes can contain."""
    bits = {"1": 1, "P": 1, "L": 1, "I;16": 16, "LA": 16, "RGB": 24, "RGBA": 32}.get(image.mode, 1)
    size, needed = path.stat().st_size, image.width * image.height * bits / 8
    if needed > size * _MAX_DEFLATE_RATIO:
        raise UserError(
            f"{path}: claims an absurd size ({image.width} x {image.height} pixels in {size} bytes); check or remove it"
        )


@contextmanager
def disable_pillow_limit() -> Iterator[None]:
    """Disable Pillow's limit of image sizes, which `check_declared_size` replaces."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# ---- pixels


def decode(path: Path, image: Image.Image) -> NDArray[Any]:
    """Decode an open file, applying the EXIF orientation; alpha is dropped unless `keeps_alpha` is true for the file.

    Returns:
        uint8, or uint16 if the file has more than 8 bits: [H, W, 1] gray, [H, W, 3] RGB, or [H, W, 4] RGBA.

    Raises:
        UserError: For floating-point or negative pixels, more than 16 bits, animations, and colors of more than 8 bits
            that cannot be decoded without loss.
    """
    check_pixel_format(path, image)
    values: NDArray[Any]
    if image.mode in _DEEP_MODES:
        values = _decode_deep_gray(path, image)
    elif is_deep_png(path, image):
        values = _decode_deep_png(path, image)
    else:
        values = _decode_8_bits(image)
    return _apply_orientation(values, get_orientation(image))


def keeps_alpha(image: Image.Image) -> bool:
    """Return whether alpha is read as a fourth channel: only if four channels are asked for."""
    return image.mode in ("RGBA", "RGBa") and get_image_options().channels == 4


def count_channels(path: Path, image: Image.Image) -> int:
    """Return the number of channels that `decode` returns, from the header."""
    if image.mode in _GRAY_MODES or image.mode in _DEEP_MODES:
        return 1
    return 4 if keeps_alpha(image) else 3


def _decode_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in _GRAY_MODES:
        return np.asarray(image if image.mode == "L" else image.convert("L"))[:, :, None]
    mode = "RGBA" if keeps_alpha(image) else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def check_pixel_format(path: Path, image: Image.Image) -> None:
    """Raise a UserError for an open file whose header declares unsupported pixels."""
    if image.mode == "F":
        raise UserError(f"{path}: has floating-point pixels; save it with 8 or 16 bits per channel")
    if image.format in _ANIMATIONS and getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{path}: is an animation; save each image as a separate file")
    if image.mode not in _DEEP_MODES and _is_deep_color(image):
        fix = "save it as PNG, or as TIFF without compression or with deflate"
        raise UserError(f"{path}: has colors of more than 8 bits, of which only 8 would be read; {fix}")


def is_deep(path: Path, image: Image.Image) -> bool:
    """Return whether an open file has more than 8 bits per channel."""
    return image.mode in _DEEP_MODES or is_deep_png(path, image)


def is_deep_png(path: Path, image: Image.Image) -> bool:
    """Return whether an open file is a 16-bit PNG with color or alpha, of which Pillow reads only the upper 8 bits."""
    if image.format != "PNG" or image.mode in _DEEP_MODES:
        return False
    with path.open("rb") as file:
        start = file.read(_PNG_DEPTH + 1)
    return start.startswith(_PNG_START) and start[_PNG_DEPTH:] == b"\x10"


def _is_deep_color(image: Image.Image) -> bool:
    bits = getattr(image, "tag_v2", {}).get(_BITS, (8,))
    if max(bits if isinstance(bits, tuple) else (bits,), default=8) > 8:
        return True
    if image.format == "JPEG2000" and image.mode in ("RGB", "RGBA"):
        return _get_jpeg2000_bits(image) > 8
    tiles = getattr(image, "tile", [])
    return (
        image.format == "PPM" and image.mode == "RGB" and bool(tiles) and tiles[0][0] == "ppm" and tiles[0][3][1] > 255
    )


def _get_jpeg2000_bits(image: Image.Image) -> int:
    """Return the bits per channel by the marker SIZ of the codestream (ISO/IEC 15444-1, A.5.1); 8 if it is missing."""
    file = getattr(image, "fp", None)
    if file is None:
        return 8
    place = file.tell()
    file.seek(0)
    start = file.read(_MAX_JPEG2000_HEADER)
    file.seek(place)
    marker = start.find(b"\xff\x4f\xff\x51")
    depth = start[marker + 42 : marker + 43] if marker >= 0 else b""
    return (depth[0] & 0x7F) + 1 if depth else 8


def _decode_deep_gray(path: Path, image: Image.Image) -> NDArray[np.uint16]:
    values: NDArray[Any] = convert_values(path, np.asarray(image))[:, :, None]
    is_inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return MAX_LEVEL - values if is_inverted else values


def _decode_deep_png(path: Path, image: Image.Image) -> NDArray[np.uint16]:
    from torchvision.io import ImageReadMode, decode_image  # takes seconds to import

    contents = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    try:
        values = decode_image(contents, ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    count = 1 if len(values) < 3 else min(len(values), 4 if keeps_alpha(image) else 3)
    colors: NDArray[np.uint16] = values[:count].permute(1, 2, 0).numpy()
    return colors


def get_stored_values(image: Image.Image) -> NDArray[Any]:
    """Return the stored values of a single-channel file, [H, W], regardless of palettes and white-is-zero.

    Both only define how values are displayed. Pillow inverts 1-bit and 8-bit TIFF files where 0 is white, as written by
    Fiji with an inverting lookup table and by tifffile for boolean arrays; that is undone.
    """
    values = np.array(image)
    is_inverted = image.mode in ("1", "L") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return ~values if is_inverted else values


def is_lossy(image: Image.Image) -> bool:
    """Return whether an open file may be lossy, so that levels differ from the saved ones. WebP may be lossy."""
    return image.format in _LOSSY_FORMATS or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


# ---- orientation


def get_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open file: 1 is upright, 5 and above are transposed.

    It is 1 for TIFF, which Pillow rotates itself, and for invalid headers.
    """
    try:
        return int(image.getexif().get(_ORIENTATION, 1)) if "exif" in image.info else 1
    except Exception:  # Pillow raises various errors, but the pixels can still be read
        return 1


def get_upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the size (H, W) of an open file with EXIF orientation applied."""
    return (
        (image.width, image.height)
        if _MIN_TRANSPOSED <= get_orientation(image) <= _MAX_ORIENTATION
        else image.size[::-1]
    )


def _apply_orientation(values: NDArray[Any], get_orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation to pixels [H, W, C]."""
    if _MIN_TRANSPOSED <= get_orientation <= _MAX_ORIENTATION:
        values = values.swapaxes(0, 1)
    if get_orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if get_orientation in (3, 4, 7, 8) else values
