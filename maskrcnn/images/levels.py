"""Gray levels of images with more than 8 bits: one scale for a whole data set, kept with what was trained on it.

A scale taken from each image would show the same object at different brightness in each, and one saturated pixel would
change it; the full range of 16 bits would leave most cameras a hundredth of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Levels = tuple[float, float]
MAX_LEVEL = 65_535.0
FULL_RANGE: Levels = (0.0, MAX_LEVEL)
MARGIN = 0.1  # of the range, at both ends, for images that were not measured
OUTLIERS = 1e-5  # share of an image's values at each end that does not count, and at least so many:
MIN_OUTLIERS = 4


def scale_levels(image: Tensor, levels: Levels) -> Tensor:
    """float32 in [0, 1] of an image uint16: the levels become 0 and 1, what is beyond is clipped."""
    low, high = levels
    return image.to(torch.float32).sub_(low).div_(high - low).clamp_(0, 1)


def combine(ranges: Iterable[Levels]) -> Levels | None:
    """Levels that hold all the ranges, with a margin; None without ranges."""
    found = list(ranges)
    if not found:
        return None
    low, high = min(low for low, _ in found), max(high for _, high in found)
    margin = max(1.0, math.ceil(MARGIN * (high - low)))
    return max(0.0, low - margin), min(MAX_LEVEL, high + margin)


def value_range(values: NDArray[np.uint16]) -> Levels:
    """Lowest and highest value but for a few outliers at each end: hot, dead and saturated pixels."""
    skipped = min(count_outliers(values.size), (values.size - 1) // 2)
    ends = (skipped, values.size - 1 - skipped)
    low, high = np.partition(values.ravel(), ends)[list(ends)].tolist()
    return float(low), float(high)


def count_outliers(num_values: int) -> int:
    """How many values at each end of an image's range do not count."""
    return max(MIN_OUTLIERS, int(OUTLIERS * num_values))
