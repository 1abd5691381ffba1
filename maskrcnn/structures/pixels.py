"""Pixel values of images `[C, H, W]`: uint8, uint16 or float32, as stored.

Integers mean their full range and floats [0, 1], unless gray levels are given: the two stored values that mean 0 and 1
in uint16 and float32 images of a data set (`maskrcnn.images.levels`). They never apply to uint8.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from maskrcnn.ops.affine import invert
from maskrcnn.structures.affine import Size, compose, map_boxes, translation

Levels = tuple[float, float]
_FULL_RANGE = {torch.uint8: 255, torch.uint16: 65_535}
MARGIN = 2  # pixels around a window that interpolation and rounding may touch


def draw_uniform(generator: Generator, *size: int) -> Tensor:
    """Draw random numbers in [0, 1), always float32, so that the default dtype does not change the draws of a seed."""
    return torch.rand(size, generator=generator, dtype=torch.float32)


def is_channels_first(image: Tensor) -> bool:
    """Return whether the shape is that of an image `[C, H, W]`, and not clearly `[H, W, C]`."""
    return image.ndim == 3 and 0 not in image.shape and not (image.shape[2] in (1, 3, 4) and image.shape[0] > 4)


def to_float(image: Tensor) -> Tensor:
    """Convert an image to float32 in [0, 1]; a floating-point image is returned as float32 unscaled."""
    full = _FULL_RANGE.get(image.dtype)
    return image.float() if full is None else image.to(torch.float32).div_(full)


def to_unit(image: Tensor, levels: Levels | None = None) -> Tensor:
    """Convert an image to float32 in which the gray levels are 0 and 1; values beyond them are kept.

    Without levels, or for uint8, `to_float`.
    """
    if levels is None or image.dtype == torch.uint8:
        return to_float(image)
    low, high = levels
    return (image.float() - low).div_(high - low)


def from_unit(values: Tensor, dtype: torch.dtype, levels: Levels | None = None) -> Tensor:
    """Convert float32 values back to stored values of a dtype, the inverse of `to_unit`; integers round and clip."""
    full = _FULL_RANGE.get(dtype)
    if levels is not None and dtype != torch.uint8:
        values = values * (levels[1] - levels[0]) + levels[0]
    elif full is not None:
        values = values * full
    return values.to(dtype) if full is None else values.round().clamp_(0, full).to(dtype)


def to_uint8(values: Tensor) -> Tensor:
    """Convert float values in [0, 1] to uint8, rounded and clipped."""
    return values.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def match_dtype(pixels: Tensor, image: Tensor) -> Tensor:
    """Convert pixels to the dtype of another image, by the full range of both."""
    return pixels if pixels.dtype == image.dtype else from_unit(to_float(pixels), image.dtype)


class Pixels(Protocol):
    """Image that is read by window, so it does not need to fit into memory."""

    @property
    def size(self) -> Size:
        """Size (H, W)."""
        ...

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """Read the window at pixel (row y, column x), inside the image.

        Returns:
            `[C, height, width]`, uint8, uint16 or float32.
        """
        ...


@dataclass(frozen=True)
class InMemory:
    """Tensor `[C, H, W]` as `Pixels`.

    Args:
        image: the tensor.
    """

    image: Tensor

    @property
    def size(self) -> Size:
        """Size (H, W)."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """Return the window at pixel (row y, column x), `[C, height, width]`, as a view of the tensor."""
        return self.image[:, y : y + height, x : x + width]


def read_whole(image: Tensor | Pixels) -> Tensor:
    """Return the pixels of the whole image."""
    return image if isinstance(image, Tensor) else image.read(0, 0, *image.size)


def read_canvas(image: Pixels, matrix: Tensor, size: Size, pad_mode: str) -> tuple[Tensor, Tensor]:
    """Read the part of an image that is visible on a canvas.

    Args:
        image: the image.
        matrix: `[2, 3]`, from coordinates of the image to those of the canvas.
        size: size of the canvas (H, W).
        pad_mode: padding beyond the edges of the image, see `maskrcnn.structures.edges.Edges`.

    Returns:
        The window of the image, and the map from the window to the canvas.
    """
    canvas = torch.tensor([[0.0, 0.0, size[1], size[0]]], dtype=torch.float64)
    x1, y1, x2, y2 = map_boxes(invert(matrix), canvas)[0].tolist()
    top, bottom = _find_visible_range(y1, y2, image.size[0], pad_mode)
    left, right = _find_visible_range(x1, x2, image.size[1], pad_mode)
    window = image.read(left, top, bottom - top, right - left)
    return window, compose(translation(left, top), matrix)


def _find_visible_range(start: float, end: float, length: int, pad_mode: str) -> tuple[int, int]:
    """Find the pixels of one axis visible in [start, end), including the edge if the range extends beyond it."""
    first, last = int(start // 1) - MARGIN, int(-(-end // 1)) + MARGIN
    if pad_mode == "reflect":
        if last - first >= length or first < -length or last > 2 * length:
            return 0, length
        first, last = min(first, 2 * length - last - MARGIN), max(last, MARGIN - first) if first < 0 else last
    first, last = min(max(first, 0), length - 1), max(min(last, length), 1)
    return first, max(last, first + 1)
