"""Affine maps of images and masks: float `[2, 3]`, of continuous pixel coordinates."""

import math

import torch
from torch import Tensor

SHARP = 1.5  # how many old pixels a new one may span before the mean of several samples looks better than one
MOST_SAMPLES = 16  # that are chosen; more can be asked for
LIMIT = 64


def inverse_of(matrix: Tensor) -> Tensor:
    """The way back, float64 `[2, 3]` on the CPU; exact where the map only shifts by whole pixels, turns and mirrors.

    Raises:
        ValueError: the matrix is of another shape, singular or not finite.
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


def samples_for(matrix: Tensor) -> int:
    """How many samples along each axis of a new pixel a map from old to new coordinates asks for: 1 to 16.

    One bilinear sample sees two old pixels along each axis. Where a new pixel spans more, what lies between its
    samples would be lost (small objects flicker, thin ones break), so it is the mean of s × s regular ones, s the
    span, rounded up: the largest singular value of the way back. Up to a span of 1.5 one sample stays: the mean would
    only blur.

    Raises:
        ValueError: as `inverse_of`.
    """
    (a, b, _), (c, d, _) = inverse_of(matrix).tolist()
    span = (math.hypot(a + d, b - c) + math.hypot(a - d, b + c)) / 2  # the largest singular value of 2 × 2
    span -= 1e-6  # of rounding
    return 1 if span <= SHARP else min(MOST_SAMPLES, math.ceil(span))


def samples_of(samples: int | None, matrix: Tensor) -> int:
    """What is asked for or, for None, what `samples_for` finds.

    Raises:
        ValueError: samples beyond 1 to 64.
    """
    samples = samples_for(matrix) if samples is None else samples
    if not 1 <= samples <= LIMIT:
        raise ValueError(f"samples must be in 1..{LIMIT}, got {samples}")
    return samples
