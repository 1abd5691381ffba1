"""Random changes of training samples.

A transform is called as ``transform(image, instances, generator)`` and returns ``(image, instances)``: image
``[C, H, W]`` uint8 or float in [0, 1], and its ``Instances``. Everything random comes from the given CPU generator, so
a generator keyed by (seed, epoch, sample) makes the sample independent of workers and order. Transforms are frozen
dataclasses: they compare by value, print their settings and can be sent to worker processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from augment.config import PAD_MODES, AugmentConfig
from augment.geometry import Sample, crop, flip, transpose
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances


class Transform(Protocol):
    """Anything that changes a sample; it neither modifies what it is given nor keeps a random state."""

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the changed ``(image, instances)``."""
        ...


@dataclass(frozen=True)
class Compose:
    """Transforms one after another; none at all leaves the sample as it is."""

    transforms: tuple[Transform, ...] = ()

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        for transform in self.transforms:
            image, instances = transform(image, instances, generator)
        return image, instances


@dataclass(frozen=True)
class RandomFlip:
    """Each of the wanted changes with probability 1/2: left to right, upside down, rows and columns swapped.

    All three together show every one of the eight orientations of a square equally often.
    """

    horizontal: bool = True
    vertical: bool = True
    transpose: bool = True

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        # Three numbers are drawn whatever is wanted, so that a switch changes nothing but what it names.
        horizontal, vertical, transposed = (torch.rand(3, generator=generator) < 0.5).tolist()
        horizontal, vertical = horizontal and self.horizontal, vertical and self.vertical
        if horizontal or vertical:
            image, instances = flip(image, instances, horizontal, vertical)
        if transposed and self.transpose:
            image, instances = transpose(image, instances)
        return image, instances


@dataclass(frozen=True)
class RandomCrop:
    """A window of ``size`` (height, width) at a place drawn uniformly.

    The window may reach ``border`` pixels over each edge of the image. Where the window is larger than the image with
    its borders, it holds all of that, at any place in it. What is beyond the edge is up to ``pad_mode``, and objects
    that are cut to less than ``min_visible_fraction`` are set to ``ignore``: see :func:`augment.geometry.crop`.
    """

    size: tuple[int, int]
    border: int = 0
    pad_mode: str = "constant"
    min_visible_fraction: float = 0.25

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size {self.size} of a crop must be a height and a width of at least 1 pixel")
        if self.border < 0:
            raise ValueError(f"border {self.border} of a crop must not be negative")
        if self.pad_mode not in PAD_MODES:
            raise ValueError(f'unknown padding mode "{self.pad_mode}": one of {", ".join(PAD_MODES)}')

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        height, width = self.size
        y = self._draw_origin(instances.size[0], height, generator)
        x = self._draw_origin(instances.size[1], width, generator)
        return crop(image, instances, x, y, height, width, self.pad_mode, self.min_visible_fraction)

    def _draw_origin(self, image_length: int, length: int, generator: Generator) -> int:
        first, last = sorted((-self.border, image_length + self.border - length))
        return int(torch.randint(first, last + 1, (), generator=generator))


def training_transform(config: AugmentConfig) -> Compose:
    """The transform of training samples that the settings describe: crop, then flips.

    Raises ``UserError`` when ``fixed_size`` is not 0, one size, or a height and a width.
    """
    transforms: list[Transform] = []
    size = _crop_size(config.fixed_size)
    if size is not None:
        transforms.append(RandomCrop(size, config.crop_border, config.img_pad_mode, config.min_visible_fraction))
    if config.hflip or config.vflip or config.hvflip:
        transforms.append(RandomFlip(config.hflip, config.vflip, config.hvflip))
    return Compose(tuple(transforms))


def _crop_size(fixed_size: Sequence[int]) -> tuple[int, int] | None:
    """Height and width to crop to; None for sizes left alone."""
    if tuple(fixed_size) in ((0,), (0, 0)):
        return None
    if len(fixed_size) not in (1, 2) or min(fixed_size) < 1:
        given = ", ".join(map(str, fixed_size))
        raise UserError(f"fixed_size: ({given}) is not a size; give one number, height and width, or 0 for no crop")
    return fixed_size[0], fixed_size[-1]
