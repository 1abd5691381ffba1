"""Outlines of masks along the edges of their pixels: exact, so that filling them gives the mask again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Ring = NDArray[np.int64]
"""Corners x, y of a closed line, int64 [K, 2], without the first one repeated at the end."""
Point = tuple[int, int]
Polygon = list[Ring]
"""The outer ring, with the inside on its right as x goes right and y down, and the rings of holes, the other way."""


def trace_outlines(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Trace the outlines of a mask.

    Pixels that touch at a corner alone belong to different polygons, and no ring touches itself: polygons are valid by
    OGC Simple Features.

    Args:
        mask: bool [h, w].

    Returns:
        A polygon for each part (4 neighbors), with its holes.
    """
    parts, count = ndimage.label(mask)
    outer: list[Ring | None] = [None] * count
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring, (x, y) in _trace_rings(mask):
        part = int(parts[y, x]) - 1
        for simple in _split_at_touches(ring):
            if _measure_area(simple) > 0:
                outer[part] = simple
            else:
                holes[part].append(simple)
    return [[ring, *inner] for ring, inner in zip(outer, holes, strict=True) if ring is not None]


def join_rings(polygons: list[Polygon]) -> Ring:
    """Join all rings to one by lines there and back, which enclose nothing.

    Filled by the even-odd rule it is the same mask, for formats whose objects have one outline.
    """
    rings = sorted((ring for polygon in polygons for ring in polygon), key=len, reverse=True)
    joined, waiting = rings[0], rings[1:]
    while waiting:
        tree = KDTree(joined)
        nearest = [tree.query(ring) for ring in waiting]
        chosen = int(np.argmin([distances.min() for distances, _ in nearest]))
        ring, (distances, places) = waiting.pop(chosen), nearest[chosen]
        start = int(distances.argmin())
        at = int(places[start])
        turned = np.roll(ring, -start, axis=0)
        joined = np.concatenate([joined[: at + 1], turned, turned[:1], joined[at:]])
    return joined


def _trace_rings(mask: NDArray[np.bool_]) -> list[tuple[Ring, Point]]:
    """Trace all rings, with the inside on the right; returns each with a pixel x, y inside next to it."""
    padded = np.pad(mask, 1).astype(np.int8)
    rows, columns = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    steps: dict[Point, list[Point]] = {}
    for condition, start, step in (
        (rows > 0, (0, 0), (1, 0)),  # upper edges lead right, lower ones left
        (rows < 0, (1, 0), (-1, 0)),
        (columns > 0, (0, 1), (0, -1)),  # left edges lead up, right ones down
        (columns < 0, (0, 0), (0, 1)),
    ):
        ys, xs = np.nonzero(condition)
        for x, y in zip((xs + start[0]).tolist(), (ys + start[1]).tolist(), strict=True):
            steps.setdefault((x, y), []).append(step)
    rings = []
    while steps:
        first = next(iter(steps))
        corners, at, step = [], first, steps[first][-1]
        inside = _find_inside(first, step)
        before: Point | None = None
        while at in steps:
            choices = steps[at]
            # Where two pixels touch at a corner, turn right, and so stay at the same pixel.
            right = None if before is None else (-before[1], before[0])
            step = right if right in choices and len(choices) > 1 else choices[-1]
            choices.remove(step)
            if not choices:
                del steps[at]
            if step != before:
                corners.append(at)
            before, at = step, (at[0] + step[0], at[1] + step[1])
            if at == first and _closes(steps, at, before):
                break
        ring = np.array(corners, np.int64)
        rings.append((ring[1:] if _is_straight(ring) else ring, inside))
    return rings


def _split_at_touches(ring: Ring) -> list[Ring]:
    """Split a ring that passes corners twice into rings that pass each corner once."""
    found: list[Ring] = []
    path: list[tuple[int, ...]] = []
    places: dict[tuple[int, ...], int] = {}  # of the corners in the path
    for corner in map(tuple, ring.tolist()):
        if corner in places:
            start = places[corner]
            found.append(np.array(path[start:], np.int64))
            for dropped in path[start:]:
                del places[dropped]
            del path[start:]
        places[corner] = len(path)
        path.append(corner)
    return [*found, np.array(path, np.int64)]


def _closes(steps: dict[Point, list[Point]], at: Point, before: Point) -> bool:
    """Whether a ring ends where it began: unless it passes this corner twice, as its next step is still there."""
    return (-before[1], before[0]) not in steps.get(at, ())


def _find_inside(at: Point, step: Point) -> Point:
    """Return the pixel x, y on the right of a step."""
    (x, y), (dx, dy) = at, step
    return (x if dx > 0 else x - 1 if dx < 0 else x if dy < 0 else x - 1), (y if dx > 0 or dy > 0 else y - 1)


def _is_straight(ring: Ring) -> bool:
    """Whether the first corner is on the line between the last and the second."""
    before, after = ring[0] - ring[-1], ring[1] - ring[0]
    return bool(before[0] * after[1] == before[1] * after[0])


def _measure_area(ring: Ring) -> int:
    """Return twice the signed area, above 0 if the inside is on the right as y goes down."""
    after = np.roll(ring, -1, axis=0)
    return int((ring[:, 0] * after[:, 1] - ring[:, 1] * after[:, 0]).sum())
