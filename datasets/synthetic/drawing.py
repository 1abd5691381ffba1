"""Anti-aliased rasterization of shapes by supersampling.

The level of a pixel is the fraction of SAMPLES × SAMPLES points on a regular grid in it that are inside the shape, so
equal parameters give equal levels on every machine. Cost is proportional to outlines and windows, never to objects ×
image area.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.coverage import ShapeCoverage
from datasets.synthetic.reference import SAMPLES
from datasets.synthetic.shapes import Floats, Shapes

__all__ = ["SAMPLES", "ShapeCoverage", "Shapes", "rasterize"]


def rasterize(shapes: Shapes, width: int, height: int) -> ShapeCoverage:
    """Rasterize N shapes independently (without occlusion) on a canvas of `width` × `height` pixels."""
    extents = shapes.half_extents()
    windows = _clip_windows(shapes.centers, extents, width, height)
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sides.prod(axis=1))])
    return ShapeCoverage(windows, offsets, *native(reference.fill_windows)(shapes, extents[:, 1], windows))


def _clip_windows(centers: Floats, extents: Floats, width: int, height: int) -> NDArray[np.int32]:
    canvas = np.array([width, height])
    low = np.clip(np.floor(centers - extents), 0, canvas)
    high = np.clip(np.ceil(centers + extents), 0, canvas)
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    windows[(high <= low).any(axis=1)] = 0
    return windows
