"""Shapes on a canvas: their outlines, their placement, and the pixels that they cover."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import ObjectsConfig, SceneConfig
from datasets.synthetic.streams import round_parameter
from maskrcnn.config import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# ---- outlines around the origin, scaled to the area of the unit circle

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


# ---- placed shapes, before rasterization


@dataclass(frozen=True)
class Shapes:
    """N shapes in pixels; pixel (row i, column j) covers [j, j + 1) × [i, i + 1).

    Parameters are rounded by the caller (`streams.round_parameter`). Every shape has the area pi a b.

    Attributes:
        centers: float64 [N, 2] (x, y).
        semi_axes: float64 [N, 2], along and across the direction.
        directions: float64 [N, 2], cosine and sine of the angle from x toward y.
        outlines: N outlines for semi-axes of 1, None for ellipses; () if all are ellipses.
    """

    centers: Floats
    semi_axes: Floats
    directions: Floats
    outlines: tuple[Outline | None, ...] = ()

    def __len__(self) -> int:
        return len(self.centers)

    def half_extents(self) -> Floats:
        """Compute half width and half height of a box around the center that contains the shape, float64 [N, 2].

        Tight for ellipses.
        """
        along, across = self.semi_axes[:, 0] ** 2, self.semi_axes[:, 1] ** 2
        cosine, sine = self.directions[:, 0] ** 2, self.directions[:, 1] ** 2
        extents = np.sqrt(np.stack([along * cosine + across * sine, along * sine + across * cosine], axis=1))
        edges, owner = self.edges()
        if len(owner):
            first = np.flatnonzero(np.diff(owner, prepend=-1))
            reach = np.abs(edges[:, :2] - self.centers[owner])
            extents[owner[first]] = np.maximum.reduceat(reach, first)
        return extents

    def edges(self) -> tuple[Floats, Ints]:
        """Return the edges of all outlines on the canvas, float64 [E, 4], and their shapes, ascending, int64 [E]."""
        outlined = [(i, each.edges) for i, each in enumerate(self.outlines) if each is not None]
        if not outlined:
            return np.zeros((0, 4)), np.zeros(0, np.int64)
        owner = np.repeat([i for i, _ in outlined], [len(edges) for _, edges in outlined])
        edges = np.concatenate([edges for _, edges in outlined])
        (cosine, sine), (along, across) = self.directions[owner].T[:, :, None], self.semi_axes[owner].T[:, :, None]
        x, y = edges[:, 0::2] * along, edges[:, 1::2] * across
        placed = np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=2) + self.centers[owner][:, None]
        return placed.reshape(-1, 4), owner

    def take(self, index: Ints) -> "Shapes":
        """Select the shapes `index`, in this order."""
        outlines = tuple(self.outlines[i] for i in index.tolist()) if self.outlines else ()
        return Shapes(self.centers[index], self.semi_axes[index], self.directions[index], outlines)

    @staticmethod
    def cat(parts: "list[Shapes]") -> "Shapes":
        """Concatenate shapes."""
        outlined = any(part.outlines for part in parts)
        outlines = tuple(each for part in parts for each in part.outlines or (None,) * len(part)) if outlined else ()
        return Shapes(
            np.concatenate([part.centers for part in parts]),
            np.concatenate([part.semi_axes for part in parts]),
            np.concatenate([part.directions for part in parts]),
            outlines,
        )


# ---- coverage of pixels, stored as levels in windows

INSIDE = 128  # minimum level of a pixel that belongs to its object


@dataclass(frozen=True)
class ShapeCoverage:
    """Coverage levels of N shapes, each in its own window, stored as in `CroppedMasks`.

    Attributes:
        windows: int32 [N, 4] (x1, y1, x2, y2, exclusive end), clipped to the canvas; empty windows are zero.
        offsets: int64 [N + 1], offsets into `data`.
        data: uint8 [sum of window areas], row-major, 0..255; a pixel is inside if its level is at least 128.
        areas: float64 [N] in px, including parts beyond the canvas.
    """

    windows: NDArray[np.int32]
    offsets: Ints
    data: NDArray[np.uint8]
    areas: Floats

    @functools.cached_property
    def pixels(self) -> tuple[Ints, Ints, Ints]:
        """Shape, column, and row of every level in `data`, int64 [P] each."""
        return window_pixels(self.windows)[:3]

    def window(self, index: int) -> tuple[slice, slice, NDArray[np.uint8]]:
        """Return rows, columns, and levels [h, w] of one shape."""
        x1, y1, x2, y2 = self.windows[index].tolist()
        levels = self.data[self.offsets[index] : self.offsets[index + 1]].reshape(y2 - y1, x2 - x1)
        return slice(y1, y2), slice(x1, x2), levels


def window_pixels(windows: NDArray[np.int32]) -> tuple[Ints, Ints, Ints, Ints]:
    """List the pixels of all windows, one window after the other, row-major.

    Returns:
        Window, column, and row of each pixel (int64 [P] each), and offsets int64 [N + 1].
    """
    widths = (windows[:, 2] - windows[:, 0]).astype(np.int64)
    areas = widths * (windows[:, 3] - windows[:, 1])
    owner, inside, offsets = expand_ragged(areas)
    row = inside // widths[owner]
    return owner, windows[owner, 0] + inside - row * widths[owner], windows[owner, 1] + row, offsets


def expand_ragged(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """List the elements of N rows with `counts` elements: row and index within it, and the rows' offsets [N + 1]."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(offsets[-1]) - offsets[owner], offsets
