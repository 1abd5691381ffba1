"""Affine maps of images and masks: float `[2, 3]`, in continuous pixel coordinates."""

import math

import torch
from torch import Tensor

MAX_SINGLE_SAMPLE_SPAN = 1.5  # max. old pixels per new pixel for which a single sample is better than a mean
MAX_AUTO_SAMPLES = 16  # max. number chosen automatically
MAX_SAMPLES = 64


def invert(matrix: Tensor) -> Tensor:
    """Invert a map, float64 `[2, 3]` on the CPU; exact for whole-pixel shifts, 90° rotations, and flips.

    Raises:
        ValueError: If the matrix has another shape, or is singular or not finite.
    """
    if matrix.shape != (2, 3):
        raise ValueError(f"matrix must be [2, 3], got {list(matrix.shape)}")
    rows: list[list[float]] = matrix.double().tolist()
    (a, b, x), (c, d, y) = rows
    determinant = a * d - b * c
    if not all(map(math.isfinite, rows[0] + rows[1])) or not abs(determinant) >= 1e-12:
        raise ValueError(f"matrix must be finite and invertible, got {rows}")
    back = [[d, -b, b * y - d * x], [-c, a, c * x - a * y]]
    return torch.tensor(back, dtype=torch.float64) / determinant


def choose_num_samples(matrix: Tensor) -> int:
    """Choose the number of samples along each axis of a new pixel for a map from old to new coordinates, 1 to 16.

    One bilinear sample covers two old pixels along each axis. If a new pixel spans more, the pixels between its samples
    would be lost (small objects flicker, thin ones break), so the value is the mean of s × s regular samples, where s
    is the span, rounded up: the largest singular value of the inverse map. Up to a span of 1.5 one sample is used, as a
    mean would only blur.

    Raises:
        ValueError: If `invert` raises it.
    """
    (a, b, _), (c, d, _) = invert(matrix).tolist()
    span = (math.hypot(a + d, b - c) + math.hypot(a - d, b + c)) / 2  # the largest singular value of 2 × 2
    span -= 1e-6  # tolerance for rounding
    return 1 if span <= MAX_SINGLE_SAMPLE_SPAN else min(MAX_AUTO_SAMPLES, math.ceil(span))


def resolve_num_samples(samples: int | None, matrix: Tensor) -> int:
    """Return the given number of samples, or the choice of `choose_num_samples` for None.

    Raises:
        ValueError: If samples are not in 1 to 64.
    """
    samples = choose_num_samples(matrix) if samples is None else samples
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"samples must be in 1..{MAX_SAMPLES}, got {samples}")
    return samples
