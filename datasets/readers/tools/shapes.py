"""Shapes as annotation tools store them: outlines, boxes and bitmaps, converted to masks and boxes.

Outlines are filled by the even-odd rule, as the COCO API fills polygons: where an outline crosses itself, what it
encloses twice is outside. Several outlines of one object are joined.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.checks import Tally
from datasets.readers.coco_segmentation import MAX_OUTLINE
from maskrcnn.structures.masks import CroppedMasks, fill_polygons

Points = NDArray[np.float64]  # [P, 2], x and y in pixels
MAX_BITMAP = 1 << 27  # pixels
CLIPPED = "outlines clipped to the image"
CROSSING = "self-intersecting outlines filled by the even-odd rule"
NO_AREA = "lines and points dropped, which have no area"
TOO_FEW = "polygons of fewer than three points dropped"
ANY_CLASS = ""  # class of ignored regions, in which objects of every class are ignored
_NOT_FINITE = "has a coordinate that is not finite (NaN or infinite)"
_MIN_CURVE_POINTS = 16
_PAIRS_AT_ONCE = 1 << 20
_MAX_PAIRS = 1 << 26  # of sides that are compared in one image, about two seconds; scribbles may have more


@dataclass(frozen=True)
class Bitmap:
    """A mask bool [h, w] whose top left pixel is at column `x` and row `y` of the image."""

    x: int
    y: int
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """One object of an image, or a part of one.

    Attributes:
        number: number in the file, from 1; the instance id.
        name: name of its class; `ANY_CLASS` for an ignored region.
        outlines: closed polygons [P, 2]; polygons with holes as `join_holes` returns them.
        bitmaps: masks that are part of the object, too.
        box: x1, y1, x2, y2 in pixels, if the shape is a box without an outline.
        group: shapes of one class with the same group, other than None, are one object.
        ignore: whether the object is neither a target nor a negative.
    """

    number: int
    name: str
    outlines: tuple[Points, ...] = ()
    bitmaps: tuple[Bitmap, ...] = ()
    box: tuple[float, float, float, float] | None = None
    group: Hashable = None
    ignore: bool = False

    @property
    def has_outline(self) -> bool:
        """Whether it has a mask."""
        return bool(self.outlines or self.bitmaps)


@dataclass
class Annotation:
    """The annotation of one image.

    Attributes:
        size: image size (H, W), if the file names it.
        shapes: its objects.
        dropped: number of shapes that were dropped, by rule (see `datasets.checks.RULES`).
        invalid: what is wrong with each invalid shape, such as "shape 3: has a coordinate that is not finite".
        embedded: contents of the image file, if it is stored in the annotation file.
    """

    size: tuple[int, int] | None = None
    shapes: list[Shape] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)
    embedded: bytes | None = None

    def drop(self, rule: str, count: int = 1) -> None:
        """Count shapes that are dropped."""
        if count:
            self.dropped[rule] = self.dropped.get(rule, 0) + count

    def add_outlines(self, shape: Shape, outlines: Iterable[Points]) -> None:
        """Add a shape with outlines; those of fewer than three points are dropped and counted."""
        given = list(outlines)
        kept = tuple(each for each in given if len(each) >= 3)
        self.drop(TOO_FEW, len(given) - len(kept))
        if kept:
            self.shapes.append(replace(shape, outlines=kept))


# ---- values of files


def to_points(values: Any) -> Points:
    """Convert a list of points [[x, y], …] from a file, whose further coordinates are dropped.

    Raises:
        ValueError: If it is not a list of points, or a coordinate is not a finite number or too large.
    """
    try:
        points = np.array(values)
    except (ValueError, OverflowError):  # of differing lengths
        points = np.zeros(0)
    if isinstance(values, list) and points.dtype.kind in "if" and points.ndim == 2 and points.shape[1] >= 2:
        return _check_points(points[:, :2].astype(np.float64))
    # Slower, but it finds out what is wrong.
    if not isinstance(values, list) or not all(isinstance(each, list) and len(each) >= 2 for each in values):
        raise ValueError("its points must be a list of [x, y]")
    return to_outline([each[0] for each in values], [each[1] for each in values])


def to_outline(x: Any, y: Any) -> Points:
    """Convert the x and the y coordinates of points from a file.

    Raises:
        ValueError: If they are not two lists of one length, or one is not a finite number or too large.
    """
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        raise ValueError("its points must be as many x as y coordinates")
    return _check_points(np.array([to_numbers(x), to_numbers(y)], np.float64).T.reshape(-1, 2))


def _check_points(points: Points) -> Points:
    if not np.isfinite(points).all():
        raise ValueError(_NOT_FINITE)
    reach = np.abs(points).max(initial=0)
    if reach * max(1, 2 * len(points)) > MAX_OUTLINE:  # an outline that could be too long
        steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1)
        if max(reach, steps.sum()) > MAX_OUTLINE:
            raise ValueError(f"has coordinates or an outline of more than {MAX_OUTLINE:,} pixels")
    return points


def to_numbers(values: Sequence[Any]) -> list[float]:
    """Convert numbers from a file.

    Raises:
        ValueError: If one is not a finite number.
    """
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        wrong = next(each for each in values if not isinstance(each, int | float) or isinstance(each, bool))
        raise ValueError(f"has a coordinate that is not a number, {str(wrong)[:40]!r}")
    try:
        numbers = [float(each) for each in values]
    except OverflowError as error:
        raise ValueError("has a coordinate out of range") from error
    if not np.isfinite(numbers).all():
        raise ValueError(_NOT_FINITE)
    return numbers


# ---- geometry


def make_ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Points:
    """Return the outline of an ellipse, within .05 px of it.

    Args:
        x: x of its center.
        y: y of its center.
        radius_x: semi-axis along x before the rotation.
        radius_y: semi-axis along y before the rotation.
        angle: rotation from the x toward the y axis, that is, clockwise on screen, in radians.

    Raises:
        ValueError: If a semi-axis is not positive, or a value is out of range.
    """
    x, y, radius_x, radius_y, angle = to_numbers([x, y, radius_x, radius_y, angle])
    if min(radius_x, radius_y) <= 0 or max(radius_x, radius_y, abs(x), abs(y)) > MAX_OUTLINE / 8:
        raise ValueError(f"has a radius or center out of range ({radius_x:g}, {radius_y:g} at {x:g}, {y:g})")
    # A chord of angle a lies within r a² / 8 of its arc.
    count = max(_MIN_CURVE_POINTS, int(np.ceil(2 * np.pi * np.sqrt(max(radius_x, radius_y) / 0.4))))
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return rotate(np.stack([x + radius_x * np.cos(turn), y + radius_y * np.sin(turn)], axis=1), angle, (x, y))


def make_rectangle(box: Sequence[float]) -> Points:
    """Return the outline of a box x1, y1, x2, y2."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def rotate(points: Points, angle: float, center: tuple[float, float]) -> Points:
    """Rotate points about a center from the x toward the y axis, by an angle in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Points = (points - center) @ np.array([[cosine, sine], [-sine, cosine]]) + center
    return turned


def join_holes(rings: Sequence[Points]) -> Points:
    """Join an outer ring and its holes to one outline, which the even-odd rule fills as the one without the others.

    From the first point of the outer ring, a line leads to each hole and the same way back, which encloses nothing.
    """
    start = rings[0][:1]
    return np.concatenate([part for ring in rings for part in (ring, ring[:1], start)])


def find_crossing(outlines: Sequence[Points]) -> NDArray[np.bool_]:
    """Return for each outline whether two of its sides are found to cross, bool [N]; sides that only touch do not."""
    crossing = np.zeros(len(outlines), bool)
    if not any(map(len, outlines)):
        return crossing
    owner = np.repeat(np.arange(len(outlines)), [len(each) for each in outlines])
    start = np.concatenate(outlines)
    end = np.concatenate([np.roll(each, -1, axis=0) for each in outlines])
    # Outlines side by side, so that one sweep over x compares only sides of the same one.
    low = np.array([each[:, 0].min(initial=0) for each in outlines])
    shift = np.cumsum([0.0, *(each[:, 0].max(initial=0) - x + 1 for each, x in zip(outlines, low, strict=True))])[:-1]
    place = shift[owner] - low[owner]
    first, last = np.minimum(start[:, 0], end[:, 0]) + place, np.maximum(start[:, 0], end[:, 0]) + place
    order = np.argsort(first, kind="stable")
    first, last, start, end, owner = first[order], last[order], start[order], end[order], owner[order]
    counts = np.searchsorted(first, last, side="right") - np.arange(len(first)) - 1
    ends = np.cumsum(counts)
    limits = np.arange(_PAIRS_AT_ONCE, min(int(ends[-1]), _MAX_PAIRS), _PAIRS_AT_ONCE)
    for chunk in np.split(
        np.arange(min(len(first), int(np.searchsorted(ends, _MAX_PAIRS)) + 1)), np.searchsorted(ends, limits)
    ):
        one = np.repeat(chunk, counts[chunk])
        starts = np.cumsum(counts[chunk]) - counts[chunk]
        other = one + 1 + np.arange(len(one)) - np.repeat(starts, counts[chunk])
        crossing[owner[one[_cross(start[one], end[one], start[other], end[other])]]] = True
    return crossing


def _cross(a: Points, b: Points, c: Points, d: Points) -> NDArray[np.bool_]:
    """Return whether the inner points of lines a b and c d cross, bool [N]."""

    def side(p: Points, q: Points, r: Points) -> NDArray[np.float64]:
        signs: NDArray[np.float64] = np.sign(
            (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])
        )
        return signs

    found: NDArray[np.bool_] = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return found


# ---- objects


def merge_groups(shapes: Iterable[Shape]) -> list[Shape]:
    """Merge the shapes of each group into one object, with the number of the first."""
    merged: dict[Hashable, Shape] = {}
    for shape in shapes:
        key = shape.number if shape.group is None else (shape.name, shape.group)
        merged[key] = _merge(merged[key], shape) if key in merged else shape
    return list(merged.values())


def _merge(one: Shape, other: Shape) -> Shape:
    ignore = one.ignore and other.ignore
    if not (one.has_outline or other.has_outline):
        assert one.box is not None and other.box is not None
        low, high = np.minimum(one.box[:2], other.box[:2]), np.maximum(one.box[2:], other.box[2:])
        return replace(one, box=(*low.tolist(), *high.tolist()), ignore=ignore)
    outlines = [o for each in (one, other) for o in (each.outlines or _outline_box(each))]
    return replace(one, outlines=tuple(outlines), bitmaps=one.bitmaps + other.bitmaps, box=None, ignore=ignore)


def _outline_box(shape: Shape) -> list[Points]:
    return [] if shape.box is None else [make_rectangle(shape.box)]


def expand_regions(shapes: Sequence[Shape], class_names: Sequence[str]) -> list[Shape]:
    """Replace each region of any class by one ignored object per class, with numbers that are not used."""
    step = max((shape.number for shape in shapes), default=0)
    return [
        copy
        for shape in shapes
        for copy in (
            [replace(shape, number=shape.number + step * k, name=name) for k, name in enumerate(class_names)]
            if shape.name == ANY_CLASS
            else [shape]
        )
    ]


def draw_masks(shapes: Sequence[Shape], size: tuple[int, int], tally: Tally, where: str) -> CroppedMasks:
    """Draw the mask of each object.

    Args:
        shapes: N objects.
        size: image size (H, W).
        tally: where outlines that cross themselves or reach out of the image are counted.
        where: file, for the log.

    Returns:
        N masks; those of boxes are empty.
    """
    drawn = [place for place, shape in enumerate(shapes) if shape.outlines]
    outlines = [outline for place in drawn for outline in shapes[place].outlines]
    tally.add(CROSSING, where, int(find_crossing(outlines).sum()))
    tally.add(CLIPPED, where, sum(_reaches_out(outline, size) for outline in outlines))
    codes = [fill_polygons([outline.ravel() for outline in shapes[place].outlines], size) for place in drawn]
    filled = CroppedMasks.from_rle(codes, size)
    pasted = [(place, bitmap) for place, shape in enumerate(shapes) for bitmap in shape.bitmaps]
    tally.add(CLIPPED, where, sum(_exceeds(bitmap, size) for _, bitmap in pasted))
    owners = [*drawn, *(place for place, _ in pasted)]
    parts = CroppedMasks.cat([filled, _paste([bitmap for _, bitmap in pasted], size)])
    return _join(parts, owners, len(shapes))


def _reaches_out(points: Points, size: tuple[int, int]) -> bool:
    return bool((points < 0).any() or (points > (size[1], size[0])).any())


def _exceeds(bitmap: Bitmap, size: tuple[int, int]) -> bool:
    height, width = bitmap.inside.shape
    return bitmap.x < 0 or bitmap.y < 0 or bitmap.x + width > size[1] or bitmap.y + height > size[0]


def _paste(bitmaps: Sequence[Bitmap], size: tuple[int, int]) -> CroppedMasks:
    windows, levels = [], []
    for each in bitmaps:
        height, width = each.inside.shape
        x1, x2 = (min(max(x, 0), size[1]) for x in (each.x, each.x + width))
        y1, y2 = (min(max(y, 0), size[0]) for y in (each.y, each.y + height))
        windows.append([x1, y1, x2, y2])
        inside = each.inside[y1 - each.y : y2 - each.y, x1 - each.x : x2 - each.x] if x2 > x1 and y2 > y1 else None
        levels.append(
            torch.from_numpy(np.zeros((y2 - y1, x2 - x1), np.uint8) if inside is None else inside * np.uint8(255))
        )
    return CroppedMasks.from_windows(torch.tensor(windows, dtype=torch.int32).reshape(-1, 4), levels, size)


def _join(parts: CroppedMasks, owners: Sequence[int], count: int) -> CroppedMasks:
    """Join the masks of each of `count` objects; `owners` has the object of each mask."""
    members: list[list[int]] = [[] for _ in range(count)]
    for place, owner in enumerate(owners):
        members[owner].append(place)
    several = [places for places in members if len(places) > 1]
    nothing = CroppedMasks.from_windows(torch.zeros(1, 4), [torch.zeros(0, 0)], parts.size)
    pool = CroppedMasks.cat([parts, _unite(parts, several), nothing])
    united = iter(range(len(parts), len(parts) + len(several)))
    chosen = [next(united) if len(places) > 1 else (places or [len(pool) - 1])[0] for places in members]
    return pool[torch.tensor(chosen, dtype=torch.int64)]


def _unite(parts: CroppedMasks, several: Sequence[Sequence[int]]) -> CroppedMasks:
    from faster_coco_eval import mask as coco_mask

    codes = [coco_mask.merge(parts[torch.tensor(places)].to_rle()) for places in several]
    return CroppedMasks.from_rle(codes, parts.size)
