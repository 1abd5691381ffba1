"""What each operation on images computes, in plain PyTorch, as `reference.py` does for boxes and features."""

from collections.abc import Callable

import torch
from torch import Tensor

from maskrcnn.ops.reference import CHUNK

CONSTANT, REFLECT, REPLICATE = range(3)  # borders, as the operation numbers them
FAR = 2.0**30  # coordinates are held within, so that they fit integers; beyond the largest image


def mean_of_samples(
    matrix: Tensor, x: Tensor, y: Tensor, samples: int, value: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The mean of `value(u, v)`, float32, over samples × samples regular positions in new pixels (x, y).

    `matrix` float64 `[2, 3]` leads from new to old continuous coordinates; u and v count old pixels' centres.
    """
    total = None
    for i in range(samples):
        for j in range(samples):
            at = x.double() + (j + 0.5) / samples, y.double() + (i + 0.5) / samples
            one = value(*_old(matrix, *at))
            total = one if total is None else total + one
    assert total is not None
    return total / samples**2


def _old(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # Term by term: a matrix product may round otherwise.
    u, v = ((row[0] * x + row[1] * y + row[2] - 0.5).float() for row in matrix)
    return u.nan_to_num(-FAR).clamp(-FAR, FAR), v.nan_to_num(-FAR).clamp(-FAR, FAR)


def warp_image(image: Tensor, matrix: Tensor, height: int, width: int, border: int, samples: int) -> Tensor:
    """`matrix` float64 `[2, 3]` leads from new to old continuous coordinates."""
    result = image.new_empty(len(image), height, width)
    x = torch.arange(width, device=image.device)
    rows = max(1, CHUNK // (8 * max(1, len(image) * width)))
    for first in range(0, height, rows):
        y = torch.arange(first, min(first + rows, height), device=image.device)[:, None]
        values = mean_of_samples(matrix, x, y, samples, lambda u, v: _bilinear(image, u, v, border))
        values = values.round().clamp(0, 255) if image.dtype == torch.uint8 else values
        result[:, first : first + rows] = values.to(image.dtype)
    return result


def _bilinear(image: Tensor, u: Tensor, v: Tensor, border: int) -> Tensor:
    """The image at coordinates where pixel j has its centre at j; float32 `[C, *u.shape]`."""
    left, top = u.floor(), v.floor()
    fx, fy = u - left, v - top
    left, top = left.long(), top.long()
    upper = _pixels(image, left, top, border) * (1 - fx) + _pixels(image, left + 1, top, border) * fx
    lower = _pixels(image, left, top + 1, border) * (1 - fx) + _pixels(image, left + 1, top + 1, border) * fx
    return upper * (1 - fy) + lower * fy


def _pixels(image: Tensor, x: Tensor, y: Tensor, border: int) -> Tensor:
    height, width = image.shape[1:]
    found = image[:, _inside(y, height, border), _inside(x, width, border)]
    if border != CONSTANT:
        return found
    return torch.where((x >= 0) & (x < width) & (y >= 0) & (y < height), found, 0)


def _inside(at: Tensor, length: int, border: int) -> Tensor:
    """The pixel of an axis that is seen at `at`."""
    if border == REFLECT and length > 1:
        period = 2 * (length - 1)
        at = at.remainder(period)
        return torch.minimum(at, period - at)
    return at.clamp(0, length - 1)
