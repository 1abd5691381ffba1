"""Random changes of the image's values alone; objects stay as they are.

Images are `[C, H, W]`, uint8 or float32 in [0, 1], and stay of their type and in [0, 1]. Random numbers come from the
given CPU generator, also for images on a GPU. Settings out of range raise ValueError.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

from augment.geometry import Sample
from augment.values import as_bytes, as_float
from maskrcnn.structures.instances import Instances


class _Photometric:
    """Changes an image as float32 in 0..1."""

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Changed values; the given ones, float32 `[C, H, W]` in 0..1, stay as they are."""
        raise NotImplementedError

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        if image.dtype != torch.uint8:
            return self.change(image, generator).clamp(0, 1), instances
        return as_bytes(self.change(as_float(image), generator)), instances


class _Pointwise(_Photometric):
    """Gives equal values equal values: of a uint8 image, only the 256 there can be are computed."""

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        if image.dtype != torch.uint8:
            return super().__call__(image, instances, generator)
        table = as_bytes(self.change(torch.arange(256) / 255, generator))
        shown = table.to(image.device).index_select(0, image.flatten().int())
        return shown.view_as(image), instances


@dataclass(frozen=True)
class RandomLight(_Pointwise):
    """All values multiplied by a factor of mean 1 and deviation `scale_std` (never negative), then moved by an offset
    of deviation `offset_std`.
    """

    scale_std: float = 0.1
    offset_std: float = 0.1

    def __post_init__(self) -> None:
        _check_deviation("scale_std", self.scale_std)
        _check_deviation("offset_std", self.offset_std)

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        scale, offset = torch.randn(2, generator=generator).tolist()
        return values * max(0.0, 1 + self.scale_std * scale) + self.offset_std * offset


@dataclass(frozen=True)
class GaussianNoise(_Photometric):
    """Independent normal noise of deviation `std` added to every value."""

    std: float = 0.1

    def __post_init__(self) -> None:
        _check_deviation("std", self.std)

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(values.shape, generator=generator).to(values.device)
        return values + noise.mul_(self.std)


@dataclass(frozen=True)
class RandomInvert(_Pointwise):
    """The negative of the image, with probability `probability`."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability} must be in [0, 1]")

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        return 1 - values if float(torch.rand((), generator=generator)) < self.probability else values


@dataclass(frozen=True)
class RandomBlur(_Photometric):
    """A Gaussian blur whose sigma (px) is drawn uniformly from 0 to `max_sigma`."""

    max_sigma: float = 1.0

    def __post_init__(self) -> None:
        _check_deviation("max_sigma", self.max_sigma)

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        return blurred(values, self.max_sigma * float(torch.rand((), generator=generator)))


def blurred(values: Tensor, sigma: float) -> Tensor:
    """A float `[C, H, W]` tensor under a Gaussian of `sigma` pixels, cut at 4 sigma; edges repeated.

    The same as `scipy.ndimage.gaussian_filter(plane, sigma, mode="nearest")`.
    """
    reach = int(4 * sigma + 0.5)
    if reach == 0:
        return values
    at = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = pad(values[:, None], (reach, reach, reach, reach), mode="replicate")
    return conv2d(conv2d(planes, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]


def _check_deviation(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {value} must be a number of at least 0")
