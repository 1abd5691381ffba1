"""Gray levels of images with more than 8 bits: one range for a whole data set, saved in checkpoints.

With a range per image, the same object would differ in brightness between images, and one saturated pixel would change
it. The full 16-bit range would leave most cameras only a hundredth of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.structures.pixels import Levels as Levels
from maskrcnn.structures.pixels import to_unit

MAX_LEVEL = 65_535.0
FULL_RANGE: Levels = (0.0, MAX_LEVEL)
MARGIN = 0.1  # of the range, at both ends, for images that were not measured
OUTLIERS = 1e-5  # fraction of the pixel values at each end that is ignored
MIN_OUTLIERS = 4  # minimum number of ignored values at each end


def check_levels(given: Sequence[float]) -> Levels:
    """Return the levels as a pair; raise a UserError if they are not two increasing numbers."""
    if not (len(given) == 2 and given[0] < given[1]):
        raise UserError(f"--gray_levels={','.join(map(str, given))}: give two numbers, black and then white, as 0,4095")
    return given[0], given[1]


def scale_levels(image: Tensor, levels: Levels) -> Tensor:
    """Map a uint16 or float32 image to float32 in [0, 1]; values outside the levels are clipped."""
    return to_unit(image, levels).clamp_(0, 1)


def combine_ranges(ranges: Iterable[Levels], is_float: bool = False) -> Levels | None:
    """Return levels that contain all ranges, with a margin; None without ranges, or if floats are in [0, 1] already."""
    found = list(ranges)
    if not found:
        return None
    low, high = min(low for low, _ in found), max(high for _, high in found)
    if is_float and low >= 0 and high <= 1:
        return None
    if is_float:
        margin = MARGIN * (high - low) or max(abs(high), 1.0) * MARGIN
        return low - margin, high + margin
    margin = max(1.0, math.ceil(MARGIN * (high - low)))
    return max(0.0, low - margin), min(MAX_LEVEL, high + margin)


def measure_image_levels(images: Iterable[Tensor]) -> Levels | None:
    """Measure the gray levels of images in memory `[C, H, W]`, of those with more than 8 bits; None without any."""
    ranges, is_float = [], False
    for image in images:
        if image.dtype != torch.uint8:
            is_float |= image.is_floating_point()
            ranges.append(measure_range(image.numpy()))
    return combine_ranges(ranges, is_float)


def measure_range(values: NDArray[np.uint16] | NDArray[np.float32]) -> Levels:
    """Return the minimum and maximum without a few outliers at each end: hot, dead and saturated pixels."""
    skipped = min(count_outliers(values.size), (values.size - 1) // 2)
    ends = (skipped, values.size - 1 - skipped)
    low, high = np.partition(values.ravel(), ends)[list(ends)].tolist()
    return float(low), float(high)


def count_outliers(num_values: int) -> int:
    """Return the number of values that are ignored at each end of the range of an image."""
    return max(MIN_OUTLIERS, int(OUTLIERS * num_values))
