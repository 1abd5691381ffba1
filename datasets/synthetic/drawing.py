"""Anti-aliased shapes by supersampled coverage.

The level of a pixel is the share of SAMPLES x SAMPLES points on a regular grid in it that lie inside the shape: the
same parameters give the same levels on every machine. Cost follows the outlines and the windows, not objects x image
area.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.coverage import Coverage
from datasets.synthetic.reference import SAMPLES
from datasets.synthetic.shapes import Floats, Shapes

__all__ = ["SAMPLES", "Coverage", "Shapes", "rasterise"]


def rasterise(shapes: Shapes, width: int, height: int) -> Coverage:
    """Draw N shapes on a canvas of ``width`` x ``height`` pixels, each by itself (nothing hides anything)."""
    extents = shapes.half_extents()
    windows = _clip_windows(shapes.centres, extents, width, height)
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sides.prod(axis=1))])
    return Coverage(windows, offsets, *native(reference.fill_windows)(shapes, extents[:, 1], windows))


def _clip_windows(centres: Floats, extents: Floats, width: int, height: int) -> NDArray[np.int32]:
    canvas = np.array([width, height])
    low = np.clip(np.floor(centres - extents), 0, canvas)
    high = np.clip(np.ceil(centres + extents), 0, canvas)
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    windows[(high <= low).any(axis=1)] = 0
    return windows
