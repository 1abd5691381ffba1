"""Images read by window: of a large image, a random crop needs only the pixels that it shows."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from augment.affine import Size, compose, map_boxes, translation
from maskrcnn.ops.affine import inverse_of

MARGIN = 2  # pixels around a window that interpolation and rounding may touch


class WindowedImage(Protocol):
    """Image `[3, H, W]` of which parts are read when they are needed."""

    @property
    def size(self) -> Size:
        """Size (H, W)."""
        ...

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """Read the window at pixel (row y, column x), inside the image: `[3, height, width]`."""
        ...


def read_whole(image: Tensor | WindowedImage) -> Tensor:
    """Return the pixels of the whole image."""
    return image if isinstance(image, Tensor) else image.read(0, 0, *image.size)


def read_canvas(image: WindowedImage, matrix: Tensor, size: Size, pad_mode: str) -> tuple[Tensor, Tensor]:
    """Read what a canvas shows of an image.

    Args:
        image: the image.
        matrix: `[2, 3]`, from coordinates of the image to those of the canvas.
        size: size of the canvas (H, W).
        pad_mode: what is shown beyond the edges of the image, as in `augment.geometry.Edges`.

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
