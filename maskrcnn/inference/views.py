"""Views of an image for inference: invertible affine maps, optionally with a change of values.

A view is a transformed image for a detector; its detections are mapped back to the image. Flips, 90° rotations, and
unscaled tiles are exact. `maskrcnn.inference.prediction.predict` runs the detector on all views and merges the
detections.
"""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.ops.affine import invert
from maskrcnn.ops.images import warp_image
from maskrcnn.structures.affine import (
    Size,
    compose,
    fit_canvas,
    identity,
    map_boxes,
    matrix,
    mirror,
    rotation,
    scaling,
    translation,
    transposition,
)
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Levels, Pixels, from_unit, to_unit
from maskrcnn.structures.warping import warp_instances

MARGIN = 2  # pixels around a view that interpolation may need
MIN_OVERLAP = 6  # min. overlap of tiles (px of the image), in which their detections are compared


@dataclass(frozen=True, eq=False)
class View:
    """Transformed image that a detector is run on.

    Attributes:
        name: name of the view.
        matrix: `[2, 3]`, map from the image's to the view's coordinates (see `maskrcnn.structures.affine`).
        size: (H, W) of the view.
        change: change of the transformed pixels, if any.
        tile: for a tile of a grid, the pixels x1 y1 x2 y2 of the image that it covers.
        grid: name of the grid that a tile belongs to; detections are joined across the tiles of a grid.
        image_size: (H, W) of the image; None for any.

    Raises:
        ValueError: If the map is singular or not finite, or the size has no pixels.
    """

    name: str
    matrix: Tensor
    size: Size
    change: Callable[[Tensor], Tensor] | None = None
    tile: tuple[int, int, int, int] | None = None
    grid: str = ""
    image_size: Size | None = None

    def __post_init__(self) -> None:
        try:
            invert(self.matrix)
        except ValueError as error:
            raise ValueError(f"view {self.name} is not invertible: {error}") from error
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"view {self.name}: size must be a height and a width of at least 1, got {self.size}")

    def show(self, pixels: Pixels) -> Tensor:
        """Return the transformed image `[C, *size]`; only the pixels it needs are read."""
        x1, y1, x2, y2 = self.window(pixels.size, 0 if _is_integer_shift(self.matrix) else MARGIN)
        part = pixels.read(x1, y1, y2 - y1, x2 - x1)
        moved = compose(translation(x1, y1), self.matrix)
        image = warp_image(part, moved, self.size) if _needs_warp(moved, part, self.size) else part
        return image if self.change is None else self.change(image)

    def restore(self, detections: Instances, size: Size) -> Instances:
        """Map the detections in the view to the image of `size` (H, W), and drop those outside."""
        return warp_instances(detections, invert(self.matrix), size, Edges(cut="keep"))

    def window(self, size: Size, margin: int = 0) -> tuple[int, int, int, int]:
        """Return the pixels x1 y1 x2 y2 of an image of `size` that the view covers, plus `margin`; not empty."""
        canvas = matrix([[0, 0, self.size[1], self.size[0]]])
        x1, y1, x2, y2 = map_boxes(invert(self.matrix), canvas)[0].tolist()
        (x1, x2), (y1, y2) = (
            _round_outward(low, high, length, margin) for low, high, length in ((x1, x2, size[1]), (y1, y2, size[0]))
        )
        return x1, y1, x2, y2


def _round_outward(low: float, high: float, length: int, margin: int) -> tuple[int, int]:
    first = min(max(math.ceil(low - 1e-6) - margin, 0), length - 1)
    return first, max(min(math.floor(high + 1e-6) + margin, length), first + 1)


def _is_integer_shift(map_: Tensor) -> bool:
    """Return whether the map is a translation by whole pixels, which needs no interpolation."""
    return torch.equal(map_[:, :2], identity()[:, :2]) and torch.equal(map_, map_.round())


def _needs_warp(moved: Tensor, part: Tensor, size: Size) -> bool:
    return tuple(part.shape[1:]) != tuple(size) or not torch.equal(moved, identity())


def whole(size: Size) -> list[View]:
    """Return the unchanged image as a view."""
    return [View("image", identity(), size, image_size=size)]


def flips(size: Size) -> list[View]:
    """Return the image and its three flips."""
    switches = ((False, False, "image"), (True, False, "hflip"), (False, True, "vflip"), (True, True, "hvflip"))
    return [View(name, mirror(size, x, y), size, image_size=size) for x, y, name in switches]


def rotations_by_90(size: Size) -> list[View]:
    """Return the image rotated by 0, 90, 180, and 270 degrees."""
    return [
        View(f"rot{degrees}" if degrees else "image", *fit_canvas(rotation(degrees), size), image_size=size)
        for degrees in (0, 90, 180, 270)
    ]


def d4(size: Size) -> list[View]:
    """Return the eight orientations of the image."""
    turned = (size[1], size[0])
    return flips(size) + [
        replace(view, name=f"transposed {view.name}", matrix=compose(view.matrix, transposition()), size=turned)
        for view in flips(size)
    ]


def affine(size: Size, count: int, seed: int = 0, scale: float = 1.2, shear: float = 0.1) -> list[View]:
    """Return the image and `count` − 1 random affine views that show the whole image.

    Args:
        size: (H, W) of the image.
        count: number of views, at least 1.
        seed: random seed.
        scale: scale factors are in [1 / `scale`, `scale`]. Angles are spread over the full circle.
        shear: maximum shear.

    Returns:
        The views.

    Raises:
        ValueError: If `count` is below 1, `scale` is not positive, or an argument is not finite.
    """
    if count < 1:
        raise ValueError(f"count of affine views must be at least 1, got {count}")
    if not (0 < scale < math.inf and math.isfinite(shear)):
        raise ValueError(f"affine views need a scale above 0 and a finite shear, got {scale} and {shear}")
    generator = torch.Generator().manual_seed(seed)
    views = whole(size)
    for k in range(1, count):
        turn, factor, slant = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        factor = scale ** (2 * factor - 1)
        sheared = matrix([[factor, factor * shear * (2 * slant - 1), 0], [0, factor, 0]])
        map_ = compose(rotation(360 * (k + turn - 0.5) / count), sheared)
        views.append(View(f"affine{k}/{count}", *fit_canvas(map_, size), image_size=size))
    return views


def scales(size: Size, factors: Sequence[float]) -> list[View]:
    """Return the image at several scales.

    Raises:
        ValueError: If a factor is not a positive number.
    """
    return [view for factor in factors for view in _scaled(size, factor)]


def _scaled(size: Size, factor: float) -> list[View]:
    if not 0 < factor < math.inf:
        raise ValueError(f"scales must be positive numbers, got {factor}")
    if factor == 1:
        return whole(size)
    return [View(f"x{factor:g}", *fit_canvas(scaling(factor, factor), size), image_size=size)]


def gammas(size: Size, exponents: Sequence[float], levels: Levels | None = None) -> list[View]:
    """Return the image with its values, in [0, 1], raised to several powers.

    Args:
        size: (H, W) of the image.
        exponents: the powers.
        levels: gray levels of images with more than 8 bits, which are 0 and 1 here.

    Raises:
        ValueError: If an exponent is not a positive number.
    """
    for exponent in exponents:
        if not 0 < exponent < math.inf:
            raise ValueError(f"gammas must be positive numbers, got {exponent}")
    return [replace(view, name=f"gamma{g:g}", change=_Gamma(g, levels)) for g in exponents for view in whole(size)]


@dataclass(frozen=True)
class _Gamma:
    exponent: float
    levels: Levels | None = None

    def __call__(self, image: Tensor) -> Tensor:
        changed = to_unit(image, self.levels).clamp(0, 1) ** self.exponent
        return changed if image.dtype == torch.uint8 else from_unit(changed, image.dtype, self.levels)


def tiles(size: Size, tile: int, overlap: float = 0.2, factor: float = 1.0, stride: int = 1) -> list[View]:
    """Return a grid of evenly spaced tiles that cover the scaled image.

    Args:
        size: (H, W) of the image.
        tile: side of a tile in pixels of the scaled image.
        overlap: minimum overlap of adjacent tiles as a fraction of a tile. They overlap by at least `MIN_OVERLAP`
            pixels of the image if the tiles are that large.
        factor: scale factor of the image.
        stride: coarsest stride of the detector, the minimum side of a tile.

    Raises:
        ValueError: If the overlap is outside [0, 1), the tile is smaller than `stride`, or the factor is not positive.
    """
    if tile < max(1, stride):
        minimum = f"{stride} pixels, the detector's coarsest stride" if stride > 1 else "1 pixel"
        raise ValueError(f"tile must be at least {minimum}, got {tile}")
    (scaled,) = _scaled(size, factor)
    (height, width), step = scaled.size, tile_step(tile, overlap, factor)
    views = [
        View(
            f"{scaled.name} tile {x},{y}",
            compose(scaled.matrix, translation(-x, -y)),
            (min(tile, height), min(tile, width)),
            grid=f"{scaled.name} tiles {tile} overlap {overlap:g}",
            image_size=size,
        )
        for y in _starts(height, tile, step)
        for x in _starts(width, tile, step)
    ]
    return [replace(view, tile=view.window(size)) for view in views]


def tile_step(tile: int, overlap: float, factor: float = 1.0) -> int:
    """Return the maximum step from one tile to the next in pixels of the scaled image; see `tiles`.

    Raises:
        ValueError: If the overlap is outside [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap of tiles must be at least 0 and below 1, got {overlap}")
    return max(1, tile - math.ceil(max(tile * overlap, MIN_OVERLAP * factor)))


def _starts(length: int, tile: int, step: int) -> list[int]:
    """Return the evenly spaced starts of tiles along an axis, from 0 to the end."""
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / step)
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def expand_tiles(grid: Iterable[View], views: Callable[[Size], list[View]]) -> list[View]:
    """Apply views to every tile of a grid, given by `views(tile size)`; each of them becomes a separate grid."""
    return [
        replace(
            tile,
            name=f"{tile.name} {view.name}",
            matrix=compose(tile.matrix, view.matrix),
            size=view.size,
            change=view.change,
            grid=f"{tile.grid} {view.name}",
        )
        for tile in grid
        for view in views(tile.size)
    ]


def make_views(config: ViewsConfig, size: Size, stride: int = 1, levels: Levels | None = None) -> list[View]:
    """Make the views of an image of `size` (H, W) from the options.

    Args:
        config: options.
        size: (H, W) of the image.
        stride: maximum stride of the detector.
        levels: gray levels of images with more than 8 bits, for gamma.

    Returns:
        The views.

    Raises:
        UserError: If an option is invalid; names the option.
    """
    make = _parse_views(config.views, levels)
    if not config.tile_scales:
        raise UserError("tile_scales: at least one scale is required, 1.0 for the original image")
    if config.tile == 0 and (config.full_image or config.tile_scales != (1.0,)):
        raise UserError(f"{'full_image' if config.full_image else 'tile_scales'}: requires tiles; add --tile=512")
    try:
        tile_step(config.tile, config.overlap)  # also without tiles: an invalid overlap is reported at once
        if config.tile == 0:
            return make(size)
        scales = dict.fromkeys(config.tile_scales)
        grids = [tiles(size, config.tile, config.overlap, factor, stride) for factor in scales]
        views = [view for grid in grids for view in expand_tiles(grid, make)]
        return views + make(size) if config.full_image else views
    except ValueError as error:
        raise UserError(str(error)) from error


def rescale_views(views: Sequence[View], size: Size, scale: tuple[float, float]) -> list[View]:
    """Return views of an image of `size` (H, W), given views of the image scaled by factors (y, x)."""
    matrix_ = scaling(scale[1], scale[0])
    moved = [replace(view, matrix=compose(matrix_, view.matrix), image_size=size) for view in views]
    return [view if view.tile is None else replace(view, tile=view.window(size)) for view in moved]


_WITHOUT_NUMBERS: dict[str, Callable[[Size], list[View]]] = {
    "none": whole,
    "flips": flips,
    "rot90": rotations_by_90,
    "d4": d4,
}
_WITH_NUMBERS: dict[str, Callable[[Size, list[float]], list[View]]] = {
    "affine": lambda size, numbers: affine(size, int(numbers[0])),
    "scales": scales,
    "gamma": gammas,
}


def _parse_views(text: str, levels: Levels | None) -> Callable[[Size], list[View]]:
    """Parse text such as `d4+scales:0.5,2` into a function that makes distinct views of an image size."""
    kinds = [_parse_view(kind.strip(), levels) for kind in text.split("+")]

    def make(size: Size) -> list[View]:
        return list({_make_key(view): view for kind in kinds for view in kind(size)}.values())

    return make


def _make_key(view: View) -> tuple[Any, ...]:
    """Return a key that is equal for views with the same pixels."""
    return (*map(tuple, view.matrix.tolist()), view.size, view.change)


def _parse_view(text: str, levels: Levels | None) -> Callable[[Size], list[View]]:
    name, _, rest = text.partition(":")
    if name in _WITHOUT_NUMBERS and not rest:
        return _WITHOUT_NUMBERS[name]
    known = [*_WITHOUT_NUMBERS, *(f"{each}:NUMBERS" for each in _WITH_NUMBERS)]
    if name not in _WITH_NUMBERS:
        near = difflib.get_close_matches(name, [*_WITHOUT_NUMBERS, *_WITH_NUMBERS], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use {', '.join(known)}, joined by +"
        what = f"unknown view '{text}'" if text else "a name is missing"
        raise UserError(f"views: {what}: {hint}")
    try:
        numbers = [float(number) for number in rest.split(",")]
    except ValueError:
        raise UserError(
            f"views: '{text}' needs numbers, as in {name}:{'8' if name == 'affine' else '0.75,1.5'}"
        ) from None
    if name == "affine" and (len(numbers) != 1 or not numbers[0].is_integer() or numbers[0] < 1):
        raise UserError(f"views: '{text}' needs one whole number of at least 1, as in affine:8")
    make = functools.partial(gammas, levels=levels) if name == "gamma" else _WITH_NUMBERS[name]
    return functools.partial(_make_views_from_numbers, make, numbers)


def _make_views_from_numbers(
    make: Callable[[Size, list[float]], list[View]], numbers: list[float], size: Size
) -> list[View]:
    try:
        return make(size, numbers)
    except ValueError as error:
        raise UserError(f"views: {error}") from error
