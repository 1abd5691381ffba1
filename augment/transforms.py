"""Random transforms of training samples.

A transform is called as `transform(image, instances, generator)` and returns `(image, instances)`: an image `[C, H,
W]`, uint8 or float32 in [0, 1], and its `Instances`. All randomness comes from the given CPU generator, so with a
generator keyed by (seed, epoch, sample) the sample depends neither on workers nor on the order. Transforms are frozen
dataclasses: they have a readable `repr`, can be sent to worker processes, and compare by value (those of other
libraries by identity). Arguments out of range raise a `ValueError`. Samples may be on a GPU, except for copy-paste and
other libraries' augmenters.

Geometric transforms only draw an affine map (`draw`); `Compose` combines consecutive maps and resamples once. So the
pixels that a crop leaves out are still available to a rotation after it, and nothing is interpolated twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from maskrcnn.ops.boxes import box_area
from maskrcnn.structures.affine import (
    Size,
    area_factor,
    compose,
    compose_around_center,
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
from maskrcnn.structures.pixels import Pixels, draw_uniform, read_whole
from maskrcnn.structures.warping import Sample, warp


class Transform(Protocol):
    """Callable that transforms a sample; it neither modifies its arguments nor keeps a random state."""

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the transformed `(image, instances)`."""
        ...


class Warp(NamedTuple):
    """Affine map `matrix` `[2, 3]` (see `maskrcnn.structures.affine`) and the `size` (H, W) of its target canvas."""

    matrix: Tensor
    size: Size


class Frame(NamedTuple):
    """Input of `Geometric.draw`: the current canvas `size` (H, W), and `boxes` `[N, 4]` of the objects on it.

    Ignored objects, and objects whose centers are off the canvas, are excluded.
    """

    size: Size
    boxes: Tensor


class Geometric:
    """Random affine transform; resamples when called alone, and is combined with its neighbors in a `Compose`."""

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw a map and its target canvas for a sample described by `frame`."""
        raise NotImplementedError

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the resampled sample."""
        return Compose((self,))(image, instances, generator)


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after another; consecutive geometric transforms are resampled once.

    Args:
        transforms: transforms; without any, the sample is unchanged.
        edges: rules at the edges of the image.
    """

    transforms: tuple[Transform, ...] = ()
    edges: Edges = field(default_factory=Edges)

    takes_windows = True  # of large images (`maskrcnn.structures.pixels`), of which it reads what a crop shows

    def __call__(self, image: Tensor | Pixels, instances: Instances, generator: Generator) -> Sample:
        """Return the transformed sample.

        Raises:
            TypeError: If a transform does not return a sample.
        """
        pending: Warp | None = None
        for transform in self.transforms:
            if isinstance(transform, Geometric):
                pending = _append_warp(pending, transform, instances, generator)
                continue
            pixels, instances = self._resample(image, instances, pending)
            image, instances = _validate_sample(transform(pixels, instances, generator), transform)
            pending = None
        return self._resample(image, instances, pending)

    def _resample(self, image: Tensor | Pixels, instances: Instances, pending: Warp | None) -> Sample:
        if pending is None or (pending.size == tuple(instances.size) and torch.equal(pending.matrix, identity())):
            return read_whole(image), instances
        return warp(image, instances, *pending, self.edges)


def _validate_sample(result: object, transform: Transform) -> Sample:
    """Return the result of a transform.

    Raises:
        TypeError: If it is not a sample.
    """
    match result:
        case (Tensor() as image, Instances() as instances):
            return image, instances
    got = tuple(type(each).__name__ for each in result) if isinstance(result, tuple) else type(result).__name__
    name = getattr(transform, "__name__", type(transform).__name__)
    raise TypeError(f"the transform {name} must return (image, instances), a Tensor and Instances, got {got}")


def _append_warp(pending: Warp | None, transform: Geometric, instances: Instances, generator: Generator) -> Warp:
    pending_warp = pending or Warp(identity(), (int(instances.size[0]), int(instances.size[1])))
    after = transform.draw(_make_frame(instances, pending_warp), generator)
    return Warp(compose(pending_warp.matrix, after.matrix), after.size)


def _make_frame(instances: Instances, pending_warp: Warp) -> Frame:
    boxes = map_boxes(pending_warp.matrix, instances.boxes[~instances.ignore])
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(dim=1)
    on_canvas = (x >= 0) & (x < pending_warp.size[1]) & (y >= 0) & (y < pending_warp.size[0])
    return Frame(pending_warp.size, boxes[on_canvas])


@dataclass(frozen=True)
class RandomFlip(Geometric):
    """Flip left to right, flip upside down, and transpose, each with probability 1/2.

    With all three, the eight orientations of a square are equally frequent.
    """

    horizontal: bool = True
    vertical: bool = True
    transpose: bool = True

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw a combination of flips and a transpose."""
        # Always draw three numbers, so that turning off one of the changes does not affect the others.
        horizontal, vertical, transposed = (draw_uniform(generator, 3) < 0.5).tolist()
        flipped = mirror(frame.size, horizontal and self.horizontal, vertical and self.vertical)
        if transposed and self.transpose:
            return Warp(compose(flipped, transposition()), (frame.size[1], frame.size[0]))
        return Warp(flipped, frame.size)


@dataclass(frozen=True)
class RandomCrop(Geometric):
    """Crop a window of `size` (height, width) at a position drawn uniformly.

    A window larger than the image with its borders contains all of it, at any position.

    Args:
        size: (height, width).
        border: number of pixels that the window may extend beyond each edge of the image.
        object_crop_fraction: probability of placing the window, within the same limits, so that it contains the center
            of an
            object drawn with probability ∝ 1 / √area: small objects are shown more often.
    """

    size: Size
    border: int = 0
    object_crop_fraction: float = 0.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size of a crop must be a height and a width of at least 1 pixel, got {self.size}")
        if self.border < 0:
            raise ValueError(f"border of a crop must be nonnegative, got {self.border}")
        if not 0 <= self.object_crop_fraction <= 1:
            raise ValueError(f"object_crop_fraction of a crop must be a probability, got {self.object_crop_fraction}")

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw a window."""
        center = None
        if (
            self.object_crop_fraction
            and float(draw_uniform(generator)) < self.object_crop_fraction
            and len(frame.boxes)
        ):
            chances = box_area(frame.boxes).clamp(min=1).rsqrt()
            box = frame.boxes[int(torch.multinomial(chances.cpu(), 1, generator=generator))].tolist()
            center = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
        y, x = (self._draw_origin(axis, frame.size[axis], center, generator) for axis in (0, 1))
        return Warp(translation(-x, -y), self.size)

    def _draw_origin(
        self, axis: int, image_length: int, center: tuple[float, float] | None, generator: Generator
    ) -> int:
        length = self.size[axis]
        first, last = sorted((-self.border, image_length + self.border - length))
        if center is not None:
            low, high = math.floor(center[axis]) - length + 1, math.floor(center[axis])
            first, last = min(max(first, low), last), max(min(last, high), first)
        return int(torch.randint(first, last + 1, (), generator=generator))


@dataclass(frozen=True)
class RandomScale(Geometric):
    """Scale the image and its canvas by factors drawn log-uniformly.

    Args:
        uniform: range (low, high) of a factor for both axes; () for none.
        x: range of an additional factor for the x axis.
        y: range of an additional factor for the y axis.
    """

    uniform: tuple[float, ...] = ()
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("uniform", "x", "y"):
            check_range(name, getattr(self, name))

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw the factors."""
        u, x, y = draw_uniform(generator, 3).tolist()
        both = _sample_log_uniform(self.uniform, u)
        return scale_canvas(both * _sample_log_uniform(self.x, x), both * _sample_log_uniform(self.y, y), frame.size)


@dataclass(frozen=True)
class MatchSizes(Geometric):
    """Scale the image so that its objects get sizes from `sizes` (√area of the box, px), a target sample or histogram.

    One of the objects and one of the target sizes are drawn. The factor is clamped to `limits`. Images without objects
    are not scaled.

    Source: Yu et al., Scale Match for Tiny Person Detection, arXiv 1912.10664, section 4, per image.
    """

    sizes: tuple[float, ...]
    limits: tuple[float, float] = (0.25, 4.0)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) <= 0 or not all(map(math.isfinite, self.sizes)):
            raise ValueError(f"sizes must be one or more positive numbers of pixels, got {self.sizes}")
        check_range("limits", self.limits)

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw an object and its target size."""
        target, which = draw_uniform(generator, 2).tolist()
        if len(frame.boxes) == 0:
            return Warp(identity(), frame.size)
        size = float(box_area(frame.boxes[int(which * len(frame.boxes))]).sqrt()) or 1.0
        factor = self.sizes[int(target * len(self.sizes))] / size
        factor = min(max(factor, self.limits[0]), self.limits[1])
        return scale_canvas(factor, factor, frame.size)


@dataclass(frozen=True)
class RandomRotation(Geometric):
    """Rotate about the center of the canvas by an angle drawn uniformly from ±`degrees`; the canvas keeps its size."""

    degrees: float = 180.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"degrees of a rotation must be in [0, 180], got {self.degrees}")

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw an angle."""
        angle = (2 * float(draw_uniform(generator)) - 1) * self.degrees
        return Warp(compose_around_center(rotation(angle), frame.size), frame.size)


@dataclass(frozen=True)
class RandomAffine(Geometric):
    """Apply a map with normal noise of standard deviation `std` in its four linear coefficients, about the center.

    Maps that change areas by more than a factor of 4 are drawn again.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise ValueError(f"std of affine jitter must be finite and nonnegative, got {self.std}")

    def draw(self, frame: Frame, generator: Generator) -> Warp:
        """Draw a map."""
        for _ in range(20):
            (a, b), (c, d) = (self.std * torch.randn(2, 2, generator=generator, dtype=torch.float64)).tolist()
            jitter = matrix([[1 + a, b, 0], [c, 1 + d, 0]])
            if 0.25 <= area_factor(jitter) <= 4:
                return Warp(compose_around_center(jitter, frame.size), frame.size)
        return Warp(identity(), frame.size)


def scale_canvas(x: float, y: float, size: Size) -> Warp:
    """Scale image and canvas; the canvas is rounded to whole pixels, the map is not."""
    return Warp(scaling(x, y), (max(1, round(size[0] * y)), max(1, round(size[1] * x))))


def check_range(name: str, values: Sequence[float]) -> None:
    """Check that `values` is empty or (low, high) with 0 < low ≤ high < ∞.

    Raises:
        ValueError: If it is not; names the argument `name`.
    """
    if len(values) == 0:
        return
    if len(values) != 2 or not 0 < values[0] <= values[1] < math.inf:
        raise ValueError(f"{name}: ({', '.join(map(str, values))}) is not a range; use low:high, both above 0")


def _sample_log_uniform(limits: Sequence[float], position: float) -> float:
    if not limits:
        return 1.0
    low, high = limits
    return float(low * (high / low) ** position)
