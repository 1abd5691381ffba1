"""Values of images, which are uint8, uint16 (both of their full range), or float32 in [0, 1]."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from maskrcnn.ops.affine import inverse_of
from maskrcnn.structures.affine import Size, compose, map_boxes, translation

MARGIN = 2  # pixels around a window that interpolation and rounding may touch


def draw_uniform(generator: Generator, *size: int) -> Tensor:
    """Random numbers in [0, 1), float32 whatever PyTorch's default dtype, so that a seed means the same draws."""
    return torch.rand(size, generator=generator, dtype=torch.float32)


def as_float(image: Tensor) -> Tensor:
    """float32 in [0, 1]; what is float already stays."""
    full = {torch.uint8: 255, torch.uint16: 65_535}.get(image.dtype)
    return image.float() if full is None else image.to(torch.float32).div_(full)


def as_bytes(values: Tensor) -> Tensor:
    """uint8 of float values in [0, 1], rounded; those beyond are clipped."""
    return values.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def in_type_of(pixels: Tensor, image: Tensor) -> Tensor:
    """Pixels in the type of another image."""
    if pixels.dtype == image.dtype:
        return pixels
    return as_bytes(as_float(pixels)) if image.dtype == torch.uint8 else as_float(pixels)


class Pixels(Protocol):
    """Image that is read in parts, so that it need not fit into memory."""

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
    """Read what a canvas shows of an image.

    Args:
        image: the image.
        matrix: `[2, 3]`, from coordinates of the image to those of the canvas.
        size: size of the canvas (H, W).
        pad_mode: what is shown beyond the edges of the image, as in `maskrcnn.structures.warping.Edges`.

    Returns:
        The window of the image, and the map from it to the canvas, which shows the same as that of the whole image.
    """
    canvas = torch.tensor([[0.0, 0.0, size[1], size[0]]], dtype=torch.float64)
    x1, y1, x2, y2 = map_boxes(inverse_of(matrix), canvas)[0].tolist()
    top, bottom = _needed(y1, y2, image.size[0], pad_mode)
    left, right = _needed(x1, x2, image.size[1], pad_mode)
    window = image.read(left, top, bottom - top, right - left)
    return window, compose(translation(left, top), matrix)


def _needed(start: float, end: float, length: int, pad_mode: str) -> tuple[int, int]:
    """Pixels of one axis that show in [start, end); where that reaches beyond an edge, the edge is among them."""
    first, last = int(start // 1) - MARGIN, int(-(-end // 1)) + MARGIN
    if pad_mode == "reflect":
        if last - first >= length or first < -length or last > 2 * length:
            return 0, length
        first, last = min(first, 2 * length - last - MARGIN), max(last, MARGIN - first) if first < 0 else last
    first, last = min(max(first, 0), length - 1), max(min(last, length), 1)
    return first, max(last, first + 1)
