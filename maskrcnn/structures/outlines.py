"""Outlines of masks along the edges of their pixels."""

from collections.abc import Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Edge(NamedTuple):
    """A side of a pixel, from (x, y) to (x + dx, y + dy), with the inside of the mask on its right."""

    x: int
    y: int
    dx: int
    dy: int


# For each side of a pixel, clockwise: where the pixel beyond is, where the side starts, and its direction.
_SIDES = (
    ((0, -1), (0, 0), (1, 0)),
    ((1, 0), (1, 0), (0, 1)),
    ((0, 1), (1, 1), (-1, 0)),
    ((-1, 0), (0, 1), (0, -1)),
)


def trace_outlines(inside: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Trace the outer outlines of a mask bool `[H, W]`; holes are not traced.

    Returns:
        For each part (pixels that touch at a side) the corners (x, y) of its outline, clockwise, at least four.
    """
    edges = _find_edges(inside)
    outlines, remaining = [], dict.fromkeys(edges)
    while remaining:
        ring = _follow(edges.keys(), next(iter(remaining)))
        for edge in ring:
            del remaining[edge]
        x, y, dx, dy = np.array(ring).T
        if (x * dy - y * dx).sum() > 0:  # twice the area, which is negative for the outlines of holes
            turns = (dx != np.roll(dx, 1)) | (dy != np.roll(dy, 1))
            outlines.append([(int(x), int(y)) for x, y in zip(x[turns], y[turns], strict=True)])
    return outlines


def _find_edges(inside: NDArray[np.bool_]) -> dict[Edge, None]:
    padded = np.pad(inside, 1)
    height, width = inside.shape
    edges: dict[Edge, None] = {}
    for (right, down), (x0, y0), step in _SIDES:
        beyond = padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        edges.update({Edge(x + x0, y + y0, *step): None for y, x in np.argwhere(inside & ~beyond).tolist()})
    return edges


def _follow(edges: Set[Edge], first: Edge) -> list[Edge]:
    """Follow an outline; where two pixels touch at a corner it turns right, so that they stay apart."""
    ring = [first]
    while True:
        x, y, dx, dy = ring[-1]
        turns = ((-dy, dx), (dx, dy), (dy, -dx))  # right, straight on, left
        edge = next(each for turn in turns if (each := Edge(x + dx, y + dy, *turn)) in edges)
        if edge == first:
            return ring
        ring.append(edge)
