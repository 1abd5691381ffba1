"""Views of an image for use: each an invertible affine map, and perhaps a change of values.

A view shows the image to a detector, and brings what is found there back to the image. Flips, quarter turns and
tiles that are not scaled do that exactly. `augment.prediction.predict` runs them and merges.
"""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from augment.affine import (
    Size,
    fitted,
    identity,
    map_boxes,
    matrix,
    mirror,
    rotation,
    scaling,
    then,
    translation,
    transposition,
)
from augment.config import ViewsConfig
from augment.geometry import Edges, warp_instances
from augment.values import as_float
from maskrcnn.config import UserError
from maskrcnn.ops.affine import inverse_of
from maskrcnn.ops.images import warp_image
from maskrcnn.structures.instances import Instances

MARGIN = 2  # pixels that interpolation may ask for beyond what a view shows
LEAST_OVERLAP = 6  # px of the image that tiles share at least: what they found is compared there


class Pixels(Protocol):
    """An image that is read in parts, so that it need not fit into memory."""

    @property
    def size(self) -> Size:
        """(H, W)"""
        ...

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """`[3, height, width]`, uint8 or float32 in [0, 1]: the window at the pixel (row y, column x), all inside."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A tensor `[3, H, W]` as `Pixels`."""

    image: Tensor

    @property
    def size(self) -> Size:
        """(H, W)"""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        """`[3, height, width]` at the pixel (row y, column x), a view of the tensor."""
        return self.image[:, y : y + height, x : x + width]


@dataclass(frozen=True, eq=False)
class View:
    """What a detector is shown of an image.

    matrix: `[2, 3]` from the image's to the view's coordinates (see `augment.affine`).
    size: (H, W) of the view.
    change: of the pixels after that; None: none.
    tile: x1 y1 x2 y2, the pixels of the image for which the view stands, if it is one of a grid of tiles.
    grid: name that the tiles of one grid share; what they find is joined at their borders.
    image_size: (H, W) of the image that it is a view of; None: of any.

    Raises ValueError for a map that is singular or not finite, and for a size without pixels.
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
            inverse_of(self.matrix)
        except ValueError as error:
            raise ValueError(f"view {self.name} does not invert: {error}") from error
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"view {self.name}: size must be a height and a width of at least 1, got {self.size}")

    def show(self, pixels: Pixels) -> Tensor:
        """`[3, *size]`: the view; only what it shows is read."""
        x1, y1, x2, y2 = self.window(pixels.size, 0 if _is_shift(self.matrix) else MARGIN)
        part = pixels.read(x1, y1, y2 - y1, x2 - x1)
        moved = then(translation(x1, y1), self.matrix)
        image = warp_image(part, moved, self.size) if _moves(moved, part, self.size) else part
        return image if self.change is None else self.change(image)

    def restore(self, found: Instances, size: Size) -> Instances:
        """What was found in the view as objects of the image of `size` (H, W); those outside are dropped."""
        return warp_instances(found, inverse_of(self.matrix), size, Edges(cut="keep"))

    def window(self, size: Size, margin: int = 0) -> tuple[int, int, int, int]:
        """The pixels x1 y1 x2 y2 of an image of `size` that the view shows whole, grown by `margin`; one at least."""
        canvas = matrix([[0, 0, self.size[1], self.size[0]]])
        x1, y1, x2, y2 = map_boxes(inverse_of(self.matrix), canvas)[0].tolist()
        (x1, x2), (y1, y2) = (
            _whole_pixels(low, high, length, margin) for low, high, length in ((x1, x2, size[1]), (y1, y2, size[0]))
        )
        return x1, y1, x2, y2


def _whole_pixels(low: float, high: float, length: int, margin: int) -> tuple[int, int]:
    first = min(max(math.ceil(low - 1e-6) - margin, 0), length - 1)
    return first, max(min(math.floor(high + 1e-6) + margin, length), first + 1)


def _is_shift(map_: Tensor) -> bool:
    """Whether nothing is resampled: the image is moved by whole pixels."""
    return torch.equal(map_[:, :2], identity()[:, :2]) and torch.equal(map_, map_.round())


def _moves(moved: Tensor, part: Tensor, size: Size) -> bool:
    return tuple(part.shape[1:]) != tuple(size) or not torch.equal(moved, identity())


def whole(size: Size) -> list[View]:
    """The image as it is."""
    return [View("image", identity(), size, image_size=size)]


def flips(size: Size) -> list[View]:
    """The image, and it mirrored left to right, upside down, and both."""
    switches = ((False, False, "image"), (True, False, "hflip"), (False, True, "vflip"), (True, True, "hvflip"))
    return [View(name, mirror(size, x, y), size, image_size=size) for x, y, name in switches]


def quarter_turns(size: Size) -> list[View]:
    """The image turned by 0, 90, 180 and 270 degrees."""
    return [
        View(f"rot{degrees}" if degrees else "image", *fitted(rotation(degrees), size), image_size=size)
        for degrees in (0, 90, 180, 270)
    ]


def d4(size: Size) -> list[View]:
    """The eight orientations of a square."""
    turned = (size[1], size[0])
    return flips(size) + [
        replace(view, name=f"transposed {view.name}", matrix=then(view.matrix, transposition()), size=turned)
        for view in flips(size)
    ]


def affine(size: Size, count: int, seed: int = 0, scale: float = 1.2, shear: float = 0.1) -> list[View]:
    """The image, and `count` − 1 affine views spread over all angles, with factors from 1 / `scale` to `scale` and
    shears up to `shear`, drawn by `seed`. All of the image is in each.

    Raises ValueError for a count below 1, a scale that is not positive, and numbers that are not finite.
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
        map_ = then(rotation(360 * (k + turn - 0.5) / count), sheared)
        views.append(View(f"affine{k}/{count}", *fitted(map_, size), image_size=size))
    return views


def scales(size: Size, factors: Sequence[float]) -> list[View]:
    """The image at several scales. Raises ValueError for factors that are not positive numbers."""
    return [view for factor in factors for view in _scaled(size, factor)]


def _scaled(size: Size, factor: float) -> list[View]:
    if not 0 < factor < math.inf:
        raise ValueError(f"scales must be positive numbers, got {factor}")
    if factor == 1:
        return whole(size)
    return [View(f"x{factor:g}", *fitted(scaling(factor, factor), size), image_size=size)]


def gammas(size: Size, exponents: Sequence[float]) -> list[View]:
    """The image with its values in 0..1 raised to several powers. Raises ValueError for any not positive."""
    for exponent in exponents:
        if not 0 < exponent < math.inf:
            raise ValueError(f"gammas must be positive numbers, got {exponent}")
    return [replace(view, name=f"gamma{g:g}", change=_Gamma(g)) for g in exponents for view in whole(size)]


@dataclass(frozen=True)
class _Gamma:
    exponent: float

    def __call__(self, image: Tensor) -> Tensor:
        return as_float(image) ** self.exponent


def tiles(size: Size, tile: int, overlap: float = 0.2, factor: float = 1.0, stride: int = 1) -> list[View]:
    """Tiles of `tile` × `tile` pixels that cover the image scaled by `factor`, evenly spread.

    overlap: the least overlap of neighbours, as a share of a tile; they share `LEAST_OVERLAP` pixels of the image at
        least, where a tile is as large.
    stride: the coarsest stride of the detector, the least size of a tile.

    Raises ValueError for an overlap outside [0, 1), a tile smaller than `stride`, or a factor that is not positive.
    """
    if tile < max(1, stride):
        least = f"{stride} pixels, the detector's coarsest stride" if stride > 1 else "1 pixel"
        raise ValueError(f"tile must be at least {least}, got {tile}")
    (scaled,) = _scaled(size, factor)
    (height, width), step = scaled.size, tile_step(tile, overlap, factor)
    views = [
        View(
            f"{scaled.name} tile {x},{y}",
            then(scaled.matrix, translation(-x, -y)),
            (min(tile, height), min(tile, width)),
            grid=f"{scaled.name} tiles {tile} overlap {overlap:g}",
            image_size=size,
        )
        for y in _starts(height, tile, step)
        for x in _starts(width, tile, step)
    ]
    return [replace(view, tile=view.window(size)) for view in views]


def tile_step(tile: int, overlap: float, factor: float = 1.0) -> int:
    """The most pixels, of the image scaled by `factor`, from one tile to the next; arguments and errors of `tiles`."""
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap of tiles must be at least 0 and below 1, got {overlap}")
    return max(1, tile - math.ceil(max(tile * overlap, LEAST_OVERLAP * factor)))


def _starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along an axis: the first at 0, the last at the end, evenly spread."""
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / step)
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def views_of_tiles(grid: Iterable[View], views: Callable[[Size], list[View]]) -> list[View]:
    """Every tile of a grid seen in several ways, `views` of its size; each way is a grid of its own."""
    return [
        replace(
            tile,
            name=f"{tile.name} {view.name}",
            matrix=then(tile.matrix, view.matrix),
            size=view.size,
            change=view.change,
            grid=f"{tile.grid} {view.name}",
        )
        for tile in grid
        for view in views(tile.size)
    ]


def make_views(config: ViewsConfig, size: Size, stride: int = 1) -> list[View]:
    """The views of an image of `size` (H, W) that the settings describe; `stride` is the detector's coarsest.

    Raises `UserError`, naming the setting, where one makes no sense.
    """
    make = _parsed(config.views)
    if not config.tile_scales:
        raise UserError("tile_scales: give at least one scale, 1.0 for the image as it is")
    if config.tile == 0 and (config.full_image or config.tile_scales != (1.0,)):
        raise UserError(f"{'full_image' if config.full_image else 'tile_scales'}: goes with tiles; add --tile=512")
    try:
        tile_step(config.tile, config.overlap)  # without tiles, too: a wrong overlap is said at once
        if config.tile == 0:
            return make(size)
        scales = dict.fromkeys(config.tile_scales)
        grids = [tiles(size, config.tile, config.overlap, factor, stride) for factor in scales]
        views = [view for grid in grids for view in views_of_tiles(grid, make)]
        return views + make(size) if config.full_image else views
    except ValueError as error:
        raise UserError(str(error)) from error


_WITHOUT_NUMBERS: dict[str, Callable[[Size], list[View]]] = {
    "none": whole,
    "flips": flips,
    "rot90": quarter_turns,
    "d4": d4,
}
_WITH_NUMBERS: dict[str, Callable[[Size, list[float]], list[View]]] = {
    "affine": lambda size, numbers: affine(size, int(numbers[0])),
    "scales": scales,
    "gamma": gammas,
}


def _parsed(text: str) -> Callable[[Size], list[View]]:
    """`d4+scales:0.5,2` as a function that gives the views of an image of a size, each once."""
    kinds = [_parsed_kind(kind.strip()) for kind in text.split("+")]

    def make(size: Size) -> list[View]:
        return list({_shown(view): view for kind in kinds for view in kind(size)}.values())

    return make


def _shown(view: View) -> tuple[Any, ...]:
    """What two views that show the same have in common."""
    return (*map(tuple, view.matrix.tolist()), view.size, view.change)


def _parsed_kind(text: str) -> Callable[[Size], list[View]]:
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
    return functools.partial(_of_numbers, name, numbers)


def _of_numbers(name: str, numbers: list[float], size: Size) -> list[View]:
    try:
        return _WITH_NUMBERS[name](size, numbers)
    except ValueError as error:
        raise UserError(f"views: {error}") from error
