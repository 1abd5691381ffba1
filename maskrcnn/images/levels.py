"""Gray levels of images with more than 8 bits: one range for a whole data set, saved in checkpoints.

With a range per image, the same object would differ in brightness between images, and one saturated pixel would change
it. The full 16-bit range would leave most cameras only a hundredth of it.
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
OUTLIERS = 1e-5  # fraction of the pixel values at each end that is ignored
MIN_OUTLIERS = 4  # minimum number of ignored values at each end


def scale_levels(image: Tensor, levels: Levels) -> Tensor:
    """Map a uint16 image to float32 in [0, 1]; values outside the levels are clipped."""
    low, high = levels
    return image.to(torch.float32).sub_(low).div_(high - low).clamp_(0, 1)


def combine_ranges(ranges: Iterable[Levels]) -> Levels | None:
    """Return levels that contain all ranges, with a margin; None without ranges."""
    found = list(ranges)
    if not found:
        return None
    low, high = min(low for low, _ in found), max(high for _, high in found)
    margin = max(1.0, math.ceil(MARGIN * (high - low)))
    return max(0.0, low - margin), min(MAX_LEVEL, high + margin)


def measure_range(values: NDArray[np.uint16]) -> Levels:
    """Return the minimum and maximum without a few outliers at each end: hot, dead and saturated pixels."""
    skipped = min(count_outliers(values.size), (values.size - 1) // 2)
    ends = (skipped, values.size - 1 - skipped)
    low, high = np.partition(values.ravel(), ends)[list(ends)].tolist()
    return float(low), float(high)


def count_outliers(num_values: int) -> int:
    """Return the number of values that are ignored at each end of the range of an image."""
    return max(MIN_OUTLIERS, int(OUTLIERS * num_values))
