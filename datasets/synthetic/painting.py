"""Rendering of scenes to pixels and label images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.backgrounds import make_background
from datasets.synthetic.coverage import ShapeCoverage
from datasets.synthetic.degradations import degrade, is_identity
from datasets.synthetic.drawing import rasterize
from datasets.synthetic.scene import Scene

_FIXED_POINT = 256  # values are painted in units of 1/256 if they are processed further


@dataclass(frozen=True)
class Rendering:
    """Rendered scene.

    Attributes:
        image: uint8 [H, W, 3].
        labels: uint16 [H, W], the number 1..N of the topmost object, 0 for everything else.
        coverage: all M shapes of the scene, including hidden parts.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    coverage: ShapeCoverage


def render(scene: Scene) -> Rendering:
    """Paint a scene in order, blended by coverage; a pixel belongs to the last shape with a level of at least 128.

    Raises:
        UserError: If a background picture is not readable.
    """
    config = scene.config
    coverage = rasterize(scene.shapes, scene.width, scene.height)
    behind = make_background(config, scene.streams)
    plain = behind.ndim == 1 and config.colours.contrast == 1 and is_identity(config.degradation)
    one = 1 if plain else _FIXED_POINT
    exact: type[Any] = np.uint16 if plain else np.uint32  # 255 x 255 + 127 fits
    colors = np.rint(_apply_contrast(scene, behind) * one).astype(exact)
    canvas, under = np.empty((scene.height, scene.width, 3), exact), np.rint(behind * one).astype(exact)
    canvas[:] = np.tile(under, (scene.width, 1)) if under.ndim == 1 else under  # by rows: much faster than by pixels
    labels = np.zeros((scene.height, scene.width), np.uint16)
    native(reference.paint)(canvas, labels, coverage, colors, scene.numbers.astype(np.uint16))
    image = canvas if plain else degrade(canvas / _FIXED_POINT, config, scene.streams)
    return Rendering(image.astype(np.uint8, order="C"), labels, coverage)


def _apply_contrast(scene: Scene, behind: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move colors float64 [M, 3] toward the background at each shape's center."""
    colors, contrast = scene.colors.astype(np.float64), scene.config.colours.contrast
    if contrast == 1:
        return colors
    if behind.ndim == 3:
        limit = np.array([scene.width, scene.height]) - 1
        column, row = np.clip(np.floor(scene.shapes.centers), 0, limit).astype(np.int64).T
        behind = behind[row, column]
    return behind + (colors - behind) * contrast
