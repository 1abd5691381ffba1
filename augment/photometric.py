"""Random photometric transforms; objects are unchanged.

Images are `[C, H, W]`, uint8, uint16 or float32, and keep their dtype. `OnLevels` applies a transform to the range of
gray levels that a data set uses, else it is the full range: [0, 1] for float32. Random numbers come from the given
CPU generator, also for images on a GPU. Arguments out of range raise a `ValueError`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Levels, draw_uniform, from_unit, to_float, to_uint8, to_unit
from maskrcnn.structures.warping import Sample


class _Photometric:
    """Transform of an image as float32 in [0, 1]."""

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Return the changed values of float32 `[C, H, W]` in [0, 1]; the input is not modified."""
        raise NotImplementedError

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the changed image and the unchanged objects."""
        if image.dtype != torch.uint8:
            return from_unit(self.change(to_float(image), generator).clamp(0, 1), image.dtype), instances
        return to_uint8(self.change(to_float(image), generator)), instances


class _Pointwise(_Photometric):
    """Transform of each value by itself: for uint8 images, only the 256 possible values are computed."""

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the changed image and the unchanged objects."""
        if image.dtype != torch.uint8:
            return super().__call__(image, instances, generator)
        table = to_uint8(self.change(torch.arange(256, dtype=torch.float32) / 255, generator))
        shown = table.to(image.device).index_select(0, image.flatten().int())
        return shown.view_as(image), instances


@dataclass(frozen=True)
class OnLevels:
    """Apply a transform of pixels to uint16 and float32 images as if their gray levels were 0 and 1.

    Without it, an offset of .1 would be far more than the whole contrast of an image of 12 bits. uint8 images are given
    to the transform as they are.

    Args:
        transform: keeps dtype and range of float32 images in [0, 1].
        levels: stored values that mean 0 and 1; values beyond them are clipped.
    """

    transform: Callable[[Tensor, Instances, Generator], Sample]
    levels: Levels

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the changed image, with its dtype, and the objects."""
        if image.dtype == torch.uint8:
            return self.transform(image, instances, generator)
        changed, instances = self.transform(to_unit(image, self.levels).clamp_(0, 1), instances, generator)
        return from_unit(to_float(changed), image.dtype, self.levels), instances


@dataclass(frozen=True)
class RandomLight(_Pointwise):
    """Multiply all values by a factor of mean 1 and add an offset.

    Args:
        scale_std: standard deviation of the factor (which is clamped at 0).
        offset_std: standard deviation of the offset.
    """

    scale_std: float = 0.1
    offset_std: float = 0.1

    def __post_init__(self) -> None:
        _check_std("scale_std", self.scale_std)
        _check_std("offset_std", self.offset_std)

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Return the changed values."""
        scale, offset = torch.randn(2, generator=generator, dtype=torch.float32).tolist()
        return values * max(0.0, 1 + self.scale_std * scale) + self.offset_std * offset


@dataclass(frozen=True)
class GaussianNoise(_Photometric):
    """Add independent normal noise with standard deviation `std` to every value."""

    std: float = 0.1

    def __post_init__(self) -> None:
        _check_std("std", self.std)

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Return the noisy values."""
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values.device)
        return values + noise.mul_(self.std)


@dataclass(frozen=True)
class RandomInvert(_Pointwise):
    """Invert the image with probability `probability`."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability} must be in [0, 1]")

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Return the inverted or the given values."""
        return 1 - values if float(draw_uniform(generator)) < self.probability else values


@dataclass(frozen=True)
class RandomBlur(_Photometric):
    """Apply a Gaussian blur whose sigma (px) is drawn uniformly from [0, `max_sigma`]."""

    max_sigma: float = 1.0

    def __post_init__(self) -> None:
        _check_std("max_sigma", self.max_sigma)

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Return the blurred values."""
        return apply_gaussian_blur(values, self.max_sigma * float(draw_uniform(generator)))


def apply_gaussian_blur(values: Tensor, sigma: float) -> Tensor:
    """Blur a float `[C, H, W]` tensor with a Gaussian of `sigma` pixels, truncated at 4 sigma, with replicated edges.

    Equal to `scipy.ndimage.gaussian_filter(plane, sigma, mode="nearest")`.
    """
    reach = int(4 * sigma + 0.5)
    if reach == 0:
        return values
    at = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = pad(values[:, None], (reach, reach, reach, reach), mode="replicate")
    return conv2d(conv2d(planes, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]


def _check_std(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {value} must be a number of at least 0")
