"""Values of images, which are uint8, uint16 (both of their full range), or float32 in [0, 1]."""

import torch
from torch import Generator, Tensor


def draw_uniform(generator: Generator, *size: int) -> Tensor:
    """Random numbers in [0, 1), float32 whatever PyTorch's default dtype, so that a seed means the same draws."""
    return torch.rand(size, generator=generator, dtype=torch.float32)


def as_float(image: Tensor) -> Tensor:
    """float32 in [0, 1]; what is float already stays."""
    full = {torch.uint8: 255, torch.uint16: 65_535}.get(image.dtype)
    return image.float() if full is None else image.to(torch.float32).div_(full)


def as_bytes(values: Tensor) -> Tensor:
    """uint8 of float values in [0, 1], rounded; those beyond are clipped."""
    return values.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def in_type_of(pixels: Tensor, image: Tensor) -> Tensor:
    """Pixels in the type of another image."""
    if pixels.dtype == image.dtype:
        return pixels
    return as_bytes(as_float(pixels)) if image.dtype == torch.uint8 else as_float(pixels)
