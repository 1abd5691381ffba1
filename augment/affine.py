"""Affine maps of continuous pixel coordinates.

A map is a float64 `[2, 3]` tensor from old to new coordinates `(x, y)`, where the pixel (row i, column j) covers
[j, j + 1) × [i, i + 1). Flips, transposes and quarter turns of whole pixels are exact. Sizes are (H, W).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]


def matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    """The numbers as float64."""
    return torch.tensor(rows, dtype=torch.float64)


def identity() -> Tensor:
    """The map that moves nothing."""
    return matrix([[1, 0, 0], [0, 1, 0]])


def translation(x: float, y: float) -> Tensor:
    """By `x` to the right and `y` down."""
    return matrix([[1, 0, x], [0, 1, y]])


def scaling(x: float, y: float) -> Tensor:
    """About the corner (0, 0)."""
    return matrix([[x, 0, 0], [0, y, 0]])


def rotation(degrees: float) -> Tensor:
    """About the corner (0, 0), clockwise as seen (y points down); exact for quarter turns."""
    if degrees % 90 == 0:
        cosine, sine = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(degrees % 360) // 90]
    else:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return matrix([[cosine, -sine, 0], [sine, cosine, 0]])


def mirror(size: Size, horizontal: bool = False, vertical: bool = False) -> Tensor:
    """Left to right, upside down or both, of an image of `size`."""
    x = (-1, size[1]) if horizontal else (1, 0)
    y = (-1, size[0]) if vertical else (1, 0)
    return matrix([[x[0], 0, x[1]], [0, y[0], y[1]]])


def transposition() -> Tensor:
    """x and y exchanged."""
    return matrix([[0, 1, 0], [1, 0, 0]])


def then(*maps: Tensor) -> Tensor:
    """One map that does what `maps` do one after the other, the first one first."""
    result = identity()
    for each in maps:
        linear = each[:, :2] @ result[:, :2]
        result = torch.cat([linear, each[:, :2] @ result[:, 2:] + each[:, 2:]], dim=1)
    return result


def about_centre(map_: Tensor, size: Size) -> Tensor:
    """The map with the centre of an image of `size` as its origin."""
    x, y = size[1] / 2, size[0] / 2
    return then(translation(-x, -y), map_, translation(x, y))


def is_axis_aligned(map_: Tensor) -> bool:
    """Whether rectangles stay rectangles with sides along the axes."""
    (a, b, _), (c, d, _) = map_.tolist()
    return (b == 0 and c == 0) or (a == 0 and d == 0)


def area_factor(map_: Tensor) -> float:
    """How many new square pixels one old square pixel becomes."""
    (a, b, _), (c, d, _) = map_.tolist()
    return float(abs(a * d - b * c))


def map_points(map_: Tensor, points: Tensor) -> Tensor:
    """Points `[..., 2]` (x, y), float64."""
    x, y = points.to(torch.float64).unbind(-1)
    return torch.stack([row[0] * x + row[1] * y + row[2] for row in map_.tolist()], dim=-1)


def map_boxes(map_: Tensor, boxes: Tensor) -> Tensor:
    """Boxes `[N, 4]` around the mapped corners, not clipped; of the boxes' dtype."""
    corners = map_points(map_, boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2))
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1).to(boxes.dtype)


def map_round_boxes(map_: Tensor, boxes: Tensor) -> Tensor:
    """Boxes `[N, 4]` around the mapped ellipses that fill the boxes: for objects without masks and for predictions.

    The same as `map_boxes` where rectangles stay upright. Under rotation it neither grows with every view, as the
    corners' box does, nor leaves a round object's true box.
    """
    centre = map_points(map_, (boxes[:, :2] + boxes[:, 2:]) / 2)
    half = (boxes[:, 2:] - boxes[:, :2]).to(torch.float64) / 2
    reach = torch.stack([((half * half.new_tensor(row[:2])) ** 2).sum(dim=1).sqrt() for row in map_.tolist()], dim=1)
    return torch.cat([centre - reach, centre + reach], dim=1).to(boxes.dtype)


def map_margins(linear: Tensor, margins: Tensor) -> Tensor:
    """Margins `[N, 4]` (left, top, right, bottom; signed as coordinates are) beside an object, under a linear map.

    `linear` is float64 `[2, 2]`, or `[N, 2, 2]` where each object has its own. Scales, flips, transposes and 90°
    rotations move each side's margin exactly; in between, an equal margin all around stays equal.
    """
    linear = linear.to(margins.device)
    squares = linear**2
    lengths = squares.sum(dim=-1).sqrt()
    weights = squares / lengths.clamp(min=1e-12)[..., None]
    low, high = margins[:, None, :2].double(), margins[:, None, 2:].double()
    turned = linear < 0  # the right side becomes a left one, and outward changes its sign
    first = (weights * torch.where(turned, -high, low)).sum(dim=-1)
    second = (weights * torch.where(turned, -low, high)).sum(dim=-1)
    return torch.cat([first, second], dim=1)


def fitted(map_: Tensor, size: Size) -> tuple[Tensor, Size]:
    """The map moved so that all of an image of `size` lies on a canvas, and that canvas's least size."""
    x1, y1, x2, y2 = map_boxes(map_, matrix([[0, 0, size[1], size[0]]]))[0].tolist()
    canvas = max(1, math.ceil(y2 - y1 - 1e-9)), max(1, math.ceil(x2 - x1 - 1e-9))
    return then(map_, translation(-x1, -y1)), canvas
