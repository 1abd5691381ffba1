"""Random photometric transforms; objects are unchanged.

Images are `[C, H, W]`, uint8 or float32 in [0, 1], and keep their dtype and range. Random numbers come from the given
CPU generator, also for images on a GPU. Arguments out of range raise a `ValueError`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import draw_uniform, to_float, to_uint8
from maskrcnn.structures.warping import Sample


class _Photometric:
    """Transform of an image as float32 in [0, 1]."""

    def change(self, values: Tensor, generator: Generator) -> Tensor:
        """Return the changed values of float32 `[C, H, W]` in [0, 1]; the input is not modified."""
        raise NotImplementedError

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Return the changed image and the unchanged objects."""
        if image.dtype != torch.uint8:
            return self.change(to_float(image), generator).clamp(0, 1), instances
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
