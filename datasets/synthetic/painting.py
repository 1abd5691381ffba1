"""Scenes turned into pixels, and who owns each of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.backgrounds import background
from datasets.synthetic.coverage import Coverage
from datasets.synthetic.degradations import degrade, leaves_as_is
from datasets.synthetic.drawing import rasterise
from datasets.synthetic.scene import Scene

_FINE = 256  # values are painted in 256ths where something is done to them afterwards


@dataclass(frozen=True)
class Rendering:
    """``image`` uint8 [H, W, 3]; ``labels`` uint16 [H, W], the number 1..N of the object on top, 0 for everything else;
    ``coverage`` all M things of the scene, whole, hidden parts included."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    coverage: Coverage


def render(scene: Scene) -> Rendering:
    """Paint the scene in order, blended by coverage; the last thing with level >= 128 owns a pixel.

    Raises:
        UserError: a picture for the background that cannot be read.
    """
    config = scene.config
    coverage = rasterise(scene.shapes, scene.width, scene.height)
    behind = background(config, scene.streams)
    plain = behind.ndim == 1 and config.colours.contrast == 1 and leaves_as_is(config.degradation)
    one = 1 if plain else _FINE
    exact: type[Any] = np.uint16 if plain else np.uint32  # 255 x 255 + 127 just fits
    colours = np.rint(_with_contrast(scene, behind) * one).astype(exact)
    canvas, under = np.empty((scene.height, scene.width, 3), exact), np.rint(behind * one).astype(exact)
    canvas[:] = np.tile(under, (scene.width, 1)) if under.ndim == 1 else under  # whole rows: far faster than pixels
    labels = np.zeros((scene.height, scene.width), np.uint16)
    native(reference.paint)(canvas, labels, coverage, colours, scene.numbers.astype(np.uint16))
    image = canvas if plain else degrade(canvas / _FINE, config, scene.streams)
    return Rendering(image.astype(np.uint8, order="C"), labels, coverage)


def _with_contrast(scene: Scene, behind: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours float64 [M, 3], brought nearer to the background that is at each thing's centre."""
    colours, contrast = scene.colours.astype(np.float64), scene.config.colours.contrast
    if contrast == 1:
        return colours
    if behind.ndim == 3:
        limit = np.array([scene.width, scene.height]) - 1
        column, row = np.clip(np.floor(scene.shapes.centres), 0, limit).astype(np.int64).T
        behind = behind[row, column]
    return behind + (colours - behind) * contrast
