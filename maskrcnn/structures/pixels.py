"""Pixel values of images: uint8 or uint16 with their full range, or float32 in [0, 1]."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from maskrcnn.ops.affine import invert
from maskrcnn.structures.affine import Size, compose, map_boxes, translation

MARGIN = 2  # pixels around a window that interpolation and rounding may touch


def draw_uniform(generator: Generator, *size: int) -> Tensor:
    """Draw random numbers in [0, 1), always float32, so that the default dtype does not change the draws of a seed."""
    return torch.rand(size, generator=generator, dtype=torch.float32)


def to_float(image: Tensor) -> Tensor:
    """Convert an image to float32 in [0, 1]; a floating-point image is returned as float32 unscaled."""
    full = {torch.uint8: 255, torch.uint16: 65_535}.get(image.dtype)
    return image.float() if full is None else image.to(torch.float32).div_(full)


def to_uint8(values: Tensor) -> Tensor:
    """Convert float values in [0, 1] to uint8, rounded and clipped."""
    return values.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def match_dtype(pixels: Tensor, image: Tensor) -> Tensor:
    """Convert pixels to the dtype of another image: uint8, otherwise float32."""
    if pixels.dtype == image.dtype:
        return pixels
    return to_uint8(to_float(pixels)) if image.dtype == torch.uint8 else to_float(pixels)


class Pixels(Protocol):
    """Image that is read by window, so it does not need to fit into memory."""

    @property
    def size(self) -> Size:
        """Size (H, W)."""
        ...

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """Read the window at pixel (row y, column x), inside the image.

        Returns:
            `[3, height, width]`, uint8 or float32 in [0, 1].
        """
        ...


@dataclass(frozen=True)
class InMemory:
    """Tensor `[3, H, W]` as `Pixels`.

    Args:
        image: the tensor.
    """

    image: Tensor

    @property
    def size(self) -> Size:
        """Size (H, W)."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """Return the window at pixel (row y, column x), `[3, height, width]`, as a view of the tensor."""
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
