"""Random changes of training samples.

A transform is called as `transform(image, instances, generator)` and returns `(image, instances)`: image `[C, H, W]`
uint8 or float32 in [0, 1], and its `Instances`. Everything random comes from the given CPU generator, so a generator
keyed by (seed, epoch, sample) makes the sample independent of workers and order. Transforms are frozen dataclasses:
they print their settings, can be sent to worker processes, and compare by value (those of other libraries only with
themselves). Settings out of range raise ValueError. Samples may lie on a GPU, but for pasted objects and other
libraries' augmenters.

Geometric transforms only say which affine map they want (`draw`); `Compose` joins maps that follow one another and
resamples once. So what a crop leaves out is still there for a rotation after it, and nothing is blurred twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from augment.affine import (
    Size,
    about_centre,
    area_factor,
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
from augment.geometry import Edges, Sample, warp
from maskrcnn.ops.boxes import box_area
from maskrcnn.structures.instances import Instances


class Transform(Protocol):
    """Anything that changes a sample; it neither modifies what it is given nor keeps a random state."""

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the changed `(image, instances)`."""
        ...


class Warp(NamedTuple):
    """A map and the canvas it leads to: `matrix` `[2, 3]` (see `augment.affine`), `size` (H, W)."""

    matrix: Tensor
    size: Size


class Frame(NamedTuple):
    """What a geometric transform is drawn for: the canvas as it is by then, and boxes `[N, 4]` of the objects on it.

    Objects to ignore, and those whose centres lie beyond the canvas, are not among them.
    """

    size: Size
    boxes: Tensor


class Geometric:
    """A random affine map. Alone it resamples; in a `Compose` it is joined to its neighbours."""

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """The map, and the canvas it leads to, for a sample of which `frame` tells."""
        raise NotImplementedError

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        return Compose((self,))(image, instances, generator)


@dataclass(frozen=True)
class Compose:
    """Transforms one after another; none at all leaves the sample as it is.

    Geometric ones that follow one another become one resampling, with `edges` as the rules at the image's edges.
    """

    transforms: tuple[Transform, ...] = ()
    edges: Edges = field(default_factory=Edges)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        pending: Warp | None = None
        for transform in self.transforms:
            if isinstance(transform, Geometric):
                pending = _joined(pending, transform, instances, generator)
                continue
            image, instances = self._resample(image, instances, pending)
            image, instances = _checked(transform(image, instances, generator), transform)
            pending = None
        return self._resample(image, instances, pending)

    def _resample(self, image: Tensor, instances: Instances, pending: Warp | None) -> Sample:
        if pending is None or (pending.size == tuple(instances.size) and torch.equal(pending.matrix, identity())):
            return image, instances
        return warp(image, instances, *pending, self.edges)


def _checked(result: object, transform: Transform) -> Sample:
    """What a transform returned. TypeError where that is no sample."""
    match result:
        case (Tensor() as image, Instances() as instances):
            return image, instances
    got = tuple(type(each).__name__ for each in result) if isinstance(result, tuple) else type(result).__name__
    name = getattr(transform, "__name__", type(transform).__name__)
    raise TypeError(f"the transform {name} must return (image, instances), a Tensor and Instances, got {got}")


def _joined(pending: Warp | None, transform: Geometric, instances: Instances, generator: Generator) -> Warp:
    before = pending or Warp(identity(), (int(instances.size[0]), int(instances.size[1])))
    after = transform.draw(_framed(instances, before), generator)
    return Warp(then(before.matrix, after.matrix), after.size)


def _framed(instances: Instances, before: Warp) -> Frame:
    boxes = map_boxes(before.matrix, instances.boxes[~instances.ignore])
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(dim=1)
    on_canvas = (x >= 0) & (x < before.size[1]) & (y >= 0) & (y < before.size[0])
    return Frame(before.size, boxes[on_canvas])


@dataclass(frozen=True)
class RandomFlip(Geometric):
    """Each of the wanted changes with probability 1/2: left to right, upside down, rows and columns swapped.

    All three together show every one of the eight orientations of a square equally often.
    """

    horizontal: bool = True
    vertical: bool = True
    transpose: bool = True

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        # Three numbers are drawn whatever is wanted, so that a switch changes nothing but what it names.
        horizontal, vertical, transposed = (torch.rand(3, generator=generator) < 0.5).tolist()
        flipped = mirror(frame.size, horizontal and self.horizontal, vertical and self.vertical)
        if transposed and self.transpose:
            return Warp(then(flipped, transposition()), (frame.size[1], frame.size[0]))
        return Warp(flipped, frame.size)


@dataclass(frozen=True)
class RandomCrop(Geometric):
    """A window of `size` (height, width) at a place drawn uniformly.

    The window may reach `border` pixels over each edge of the image. Where the window is larger than the image with
    its borders, it holds all of that, at any place in it. With probability `favour_small` it is placed, within the same
    limits, so that it holds the centre of an object drawn with chances ∝ 1 / √area: small ones are seen more often.
    """

    size: Size
    border: int = 0
    favour_small: float = 0.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size {self.size} of a crop must be a height and a width of at least 1 pixel")
        if self.border < 0:
            raise ValueError(f"border {self.border} of a crop must not be negative")
        if not 0 <= self.favour_small <= 1:
            raise ValueError(f"favour_small {self.favour_small} of a crop must be a probability")

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        centre = None
        if self.favour_small and float(torch.rand((), generator=generator)) < self.favour_small and len(frame.boxes):
            chances = box_area(frame.boxes).clamp(min=1).rsqrt()
            box = frame.boxes[int(torch.multinomial(chances.cpu(), 1, generator=generator))].tolist()
            centre = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
        y, x = (self._draw_origin(axis, frame.size[axis], centre, generator) for axis in (0, 1))
        return Warp(translation(-x, -y), self.size)

    def _draw_origin(
        self, axis: int, image_length: int, centre: tuple[float, float] | None, generator: Generator
    ) -> int:
        length = self.size[axis]
        first, last = sorted((-self.border, image_length + self.border - length))
        if centre is not None:
            low, high = math.floor(centre[axis]) - length + 1, math.floor(centre[axis])
            first, last = min(max(first, low), last), max(min(last, high), first)
        return int(torch.randint(first, last + 1, (), generator=generator))


@dataclass(frozen=True)
class RandomScale(Geometric):
    """The image and its canvas scaled by factors drawn uniformly in their logarithms: `uniform` for both axes together,
    `x` and `y` for each. A range is (low, high), or () for none.
    """

    uniform: tuple[float, ...] = ()
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("uniform", "x", "y"):
            check_range(name, getattr(self, name))

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        u, x, y = torch.rand(3, generator=generator).tolist()
        both = _log_uniform(self.uniform, u)
        return scaled(both * _log_uniform(self.x, x), both * _log_uniform(self.y, y), frame.size)


@dataclass(frozen=True)
class MatchSizes(Geometric):
    """The image scaled so that its objects get sizes as in `sizes` (√area of the box, px), a target sample or
    histogram: one of the objects is drawn, and one of the sizes that it shall get.

    The factor stays within `limits`. Without objects nothing is scaled.
    Source: Yu et al., Scale Match for Tiny Person Detection, arXiv 1912.10664, section 4, image by image.
    """

    sizes: tuple[float, ...]
    limits: tuple[float, float] = (0.25, 4.0)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) <= 0 or not all(map(math.isfinite, self.sizes)):
            raise ValueError(f"sizes {self.sizes} must be positive numbers of pixels, at least one")
        check_range("limits", self.limits)

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        target, which = torch.rand(2, generator=generator).tolist()
        if len(frame.boxes) == 0:
            return Warp(identity(), frame.size)
        size = float(box_area(frame.boxes[int(which * len(frame.boxes))]).sqrt()) or 1.0
        factor = self.sizes[int(target * len(self.sizes))] / size
        factor = min(max(factor, self.limits[0]), self.limits[1])
        return scaled(factor, factor, frame.size)


@dataclass(frozen=True)
class RandomRotation(Geometric):
    """About the centre of the canvas, by an angle drawn uniformly from ±`degrees`. The canvas keeps its size."""

    degrees: float = 180.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"degrees {self.degrees} of a rotation must be in [0, 180]")

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        angle = (2 * float(torch.rand((), generator=generator)) - 1) * self.degrees
        return Warp(about_centre(rotation(angle), frame.size), frame.size)


@dataclass(frozen=True)
class RandomAffine(Geometric):
    """About the centre of the canvas, by the identity plus normal noise of deviation `std` in its four numbers.

    Maps that change areas more than fourfold are drawn again.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise ValueError(f"std {self.std} of affine jitter must be a number of at least 0")

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        for _ in range(20):
            (a, b), (c, d) = (self.std * torch.randn(2, 2, generator=generator, dtype=torch.float64)).tolist()
            jitter = matrix([[1 + a, b, 0], [c, 1 + d, 0]])
            if 0.25 <= area_factor(jitter) <= 4:
                return Warp(about_centre(jitter, frame.size), frame.size)
        return Warp(identity(), frame.size)


def scaled(x: float, y: float, size: Size) -> Warp:
    """Image and canvas scaled; the canvas is rounded to whole pixels, the map is not."""
    return Warp(scaling(x, y), (max(1, round(size[0] * y)), max(1, round(size[1] * x))))


def check_range(name: str, values: Sequence[float]) -> None:
    """ValueError unless `values` is empty, or two positive finite numbers of which the first is not the larger."""
    if len(values) == 0:
        return
    if len(values) != 2 or not 0 < values[0] <= values[1] < math.inf:
        raise ValueError(f"{name}: ({', '.join(map(str, values))}) is not a range; give low:high, both above 0")


def _log_uniform(limits: Sequence[float], position: float) -> float:
    if not limits:
        return 1.0
    low, high = limits
    return float(low * (high / low) ** position)
