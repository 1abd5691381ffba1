"""Affine maps of continuous pixel coordinates.

A map is a float64 `[2, 3]` tensor that maps old to new coordinates `(x, y)`; pixel (row i, column j) covers [j, j + 1)
× [i, i + 1). Flips, transposes, and 90° rotations of whole images are exact. Sizes are (H, W).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]


def matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    """Convert nested numbers to a float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)


def identity() -> Tensor:
    """Return the identity map."""
    return matrix([[1, 0, 0], [0, 1, 0]])


def translation(x: float, y: float) -> Tensor:
    """Return the translation by `x` pixels to the right and `y` pixels down."""
    return matrix([[1, 0, x], [0, 1, y]])


def scaling(x: float, y: float) -> Tensor:
    """Return the scaling about the corner (0, 0)."""
    return matrix([[x, 0, 0], [0, y, 0]])


def rotation(degrees: float) -> Tensor:
    """Return the rotation about the corner (0, 0), clockwise as y points down; exact for multiples of 90°."""
    if degrees % 90 == 0:
        cosine, sine = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(degrees % 360) // 90]
    else:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return matrix([[cosine, -sine, 0], [sine, cosine, 0]])


def mirror(size: Size, horizontal: bool = False, vertical: bool = False) -> Tensor:
    """Return the flip of an image of `size`: left to right, upside down, or both."""
    x = (-1, size[1]) if horizontal else (1, 0)
    y = (-1, size[0]) if vertical else (1, 0)
    return matrix([[x[0], 0, x[1]], [0, y[0], y[1]]])


def transposition() -> Tensor:
    """Return the map that swaps x and y."""
    return matrix([[0, 1, 0], [1, 0, 0]])


def compose(*maps: Tensor) -> Tensor:
    """Compose maps; the first argument is applied first."""
    result = identity()
    for each in maps:
        linear = each[:, :2] @ result[:, :2]
        result = torch.cat([linear, each[:, :2] @ result[:, 2:] + each[:, 2:]], dim=1)
    return result


def compose_around_center(map_: Tensor, size: Size) -> Tensor:
    """Apply a map with the center of an image of `size` as its origin."""
    x, y = size[1] / 2, size[0] / 2
    return compose(translation(-x, -y), map_, translation(x, y))


def is_axis_aligned(map_: Tensor) -> bool:
    """Return whether rectangles stay rectangles with sides parallel to the axes."""
    (a, b, _), (c, d, _) = map_.tolist()
    return bool((b == 0 and c == 0) or (a == 0 and d == 0))


def area_factor(map_: Tensor) -> float:
    """Return the factor by which areas grow."""
    (a, b, _), (c, d, _) = map_.tolist()
    return float(abs(a * d - b * c))


def map_points(map_: Tensor, points: Tensor) -> Tensor:
    """Map points `[..., 2]` (x, y); returns float64."""
    x, y = points.to(torch.float64).unbind(-1)
    return torch.stack([row[0] * x + row[1] * y + row[2] for row in map_.tolist()], dim=-1)


def map_boxes(map_: Tensor, boxes: Tensor) -> Tensor:
    """Map boxes `[N, 4]` to the bounding boxes of their mapped corners, without clipping; returns the boxes' dtype."""
    corners = map_points(map_, boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2))
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1).to(boxes.dtype)


def map_round_boxes(map_: Tensor, boxes: Tensor) -> Tensor:
    """Map boxes `[N, 4]` to the bounding boxes of the mapped ellipses inscribed in them.

    This is used for objects without masks and for predictions. It equals `map_boxes` if the map keeps rectangles
    parallel to the axes. Under rotation, the result does not grow with each view, as the bounding box of the corners
    does, and it stays tight around round objects.
    """
    center = map_points(map_, (boxes[:, :2] + boxes[:, 2:]) / 2)
    half = (boxes[:, 2:] - boxes[:, :2]).to(torch.float64) / 2
    reach = torch.stack([((half * half.new_tensor(row[:2])) ** 2).sum(dim=1).sqrt() for row in map_.tolist()], dim=1)
    return torch.cat([center - reach, center + reach], dim=1).to(boxes.dtype)


def map_margins(linear: Tensor, margins: Tensor) -> Tensor:
    """Map the margins between the boxes of objects and their masks under a linear map.

    Scales, flips, transposes, and 90° rotations map the margin of each side exactly; under other rotations, a margin
    that is equal on all sides stays equal.

    Args:
        linear: float64 `[2, 2]`, or `[N, 2, 2]` with one map per object.
        margins: `[N, 4]` (left, top, right, bottom), signed like coordinates.

    Returns:
        float64 `[N, 4]`.
    """
    if not margins.any():
        return margins.double()
    linear = linear.to(margins.device)
    squares = linear**2
    lengths = squares.sum(dim=-1).sqrt()
    weights = squares / lengths.clamp(min=1e-12)[..., None]
    low, high = margins[:, None, :2].double(), margins[:, None, 2:].double()
    turned = linear < 0  # the right side becomes the left side, and the sign changes
    first = (weights * torch.where(turned, -high, low)).sum(dim=-1)
    second = (weights * torch.where(turned, -low, high)).sum(dim=-1)
    return torch.cat([first, second], dim=1)


def fit_canvas(map_: Tensor, size: Size) -> tuple[Tensor, Size]:
    """Shift a map so that the whole image of `size` is on the canvas; return it and the minimum size of the canvas."""
    x1, y1, x2, y2 = map_boxes(map_, matrix([[0, 0, size[1], size[0]]]))[0].tolist()
    canvas = max(1, math.ceil(y2 - y1 - 1e-9)), max(1, math.ceil(x2 - x1 - 1e-9))
    return compose(map_, translation(-x1, -y1)), canvas
