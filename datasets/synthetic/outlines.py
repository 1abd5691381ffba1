"""Outlines of shapes around the origin, scaled to the area of the unit circle."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import ObjectsConfig, SceneConfig
from datasets.synthetic.streams import round_parameter
from maskrcnn.config import UserError

Floats = NDArray[np.float64]
HARMONICS = 6  # number of harmonics of a blob's radius, from the second to the seventh
ELONGATED = ("ellipse", "rectangle", "triangle", "blob")  # shapes with an aspect ratio
_BLOB_CORNERS, _RING_CORNERS = 96, 128


@dataclass(frozen=True)
class Outline:
    """Closed polygons, filled by winding number.

    Attributes:
        edges: float64 [E, 4] (x0, y0, x1, y1).
    """

    edges: Floats

    @property
    def reach(self) -> float:
        """Maximum distance of the outline from the origin."""
        return float(np.sqrt((self.edges[:, :2] ** 2).sum(axis=1)).max(initial=0.0))


def make_outline(shape: str, objects: ObjectsConfig, variant: Floats) -> Outline | None:
    """Make the outline of one object; None for ellipses, which are drawn by their equation.

    Args:
        shape: name of the shape.
        objects: options of objects.
        variant: uniforms float64 [2 * HARMONICS] that select the blob or letter.
    """
    if shape in ("ellipse", "circle"):
        return None
    if shape == "blob":
        return _make_blob(objects.roughness, variant)
    if shape == "glyph":
        return _make_glyph(objects.letters[int(variant[0] * len(objects.letters))])
    return _make_fixed_outline(shape, objects.corners, objects.star_points, objects.hole)


def compute_reach(shape: str, objects: ObjectsConfig) -> float:
    """Compute the maximum distance of any object of a shape from its center, for semi-axes of 1."""
    if shape in ("ellipse", "circle"):
        return 1.0
    if shape == "blob":
        return 1.0 + 1.5 * objects.roughness
    if shape == "glyph":
        return max(_make_glyph(letter).reach for letter in objects.letters)
    return _make_fixed_outline(shape, objects.corners, objects.star_points, objects.hole).reach


@functools.cache
def _make_fixed_outline(shape: str, corners: int, star_points: int, hole: float) -> Outline:
    if shape == "star":
        radii = np.tile([1.0, 0.4], star_points)
        return _normalize([_make_circle(2 * star_points) * radii[:, None]])
    if shape == "ring":
        circle = _make_circle(_RING_CORNERS)
        return _normalize([circle, circle[::-1] * hole])
    counts = {"rectangle": 4, "square": 4, "triangle": 3, "polygon": corners}
    # A square has a horizontal side, a triangle points up.
    return _normalize([_make_circle(counts[shape], np.pi / 4 if counts[shape] == 4 else 0.0)])


def _make_circle(count: int, turn: float = 0.0) -> Floats:
    """Make points on the unit circle, float64 [count, 2], the first one at the top."""
    angle = np.arange(count) * (2 * np.pi / count) - np.pi / 2 + turn
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _make_blob(roughness: float, variant: Floats) -> Outline:
    """Make a closed curve whose radius is a sum of a few harmonics, weaker with increasing frequency."""
    angle = np.arange(_BLOB_CORNERS) * (2 * np.pi / _BLOB_CORNERS)
    radius = np.ones(_BLOB_CORNERS)
    for k in range(HARMONICS):
        size = roughness * 0.8 ** (k + 1) * variant[2 * k] / 2
        radius = radius + size * np.cos(angle * (k + 2) + 2 * np.pi * variant[2 * k + 1])
    radius = np.maximum(radius, 0.1)
    return _normalize([np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]])


def check_letters(config: SceneConfig) -> None:
    """Check that the font contains all letters, before anything is drawn.

    Raises:
        UserError: If a letter is missing.
    """
    if "glyph" in config.objects.shapes or (
        config.background.n_distractors and "glyph" in config.background.distractor_shapes
    ):
        for letter in config.objects.letters:
            _make_glyph(letter)


@functools.lru_cache(maxsize=1000)
def _make_glyph(letter: str) -> Outline:
    """Make the outline of a letter in the font that Matplotlib includes."""
    from matplotlib import font_manager, get_data_path
    from matplotlib.textpath import TextPath

    file = f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf"
    if not font_manager.get_font(file).get_char_index(ord(letter)):  # 0 is the box for missing glyphs
        raise UserError(f"letters: {letter!r} is not in matplotlib's font, DejaVu Sans Bold; leave it out")
    font = font_manager.FontProperties(fname=file)
    path = TextPath((0, 0), letter, size=100, prop=font)
    polygons = [np.asarray(each, np.float64) for each in path.to_polygons(closed_only=True)]
    if not polygons or not sum(abs(_compute_area(each)) for each in polygons) > 0:
        raise UserError(f"letters: {letter!r} has no outline; leave it out")
    flipped = [each[::-1] * np.array([1.0, -1.0]) for each in polygons]  # y points down; keep the orientation
    return _normalize([each[:-1] if (each[0] == each[-1]).all() else each for each in flipped])


def _compute_area(polygon: Floats) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _normalize(polygons: list[Floats]) -> Outline:
    """Center polygons at their centroid and scale them to an area of pi; rounded, as cosines differ between CPUs."""
    areas = [_compute_area(each) for each in polygons]
    total, moment = sum(areas), np.zeros(2)
    for polygon in polygons:
        following = np.roll(polygon, -1, axis=0)
        cross = polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]
        moment += ((polygon + following) * cross[:, None]).sum(axis=0) / 6
    sign = 1 if total > 0 else -1
    centred = [(each - moment / total) * np.sqrt(np.pi / abs(total)) for each in polygons]
    edges = [np.concatenate([each, np.roll(each, -1, axis=0)], axis=1) for each in centred]
    joined = round_parameter(np.concatenate(edges))
    return Outline(joined if sign > 0 else joined[:, [2, 3, 0, 1]])
