"""A painted scene: pixels, who owns each pixel, and what came of every object."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.drawing import Coverage, EllipseShapes, rasterise_ellipses, window_pixels

INSIDE = 128
_RING = 2  # pixels around an object's window that count as its surroundings


@dataclass(frozen=True)
class Scene:
    """What one image shows: N ellipses in painting order (later hides earlier) and their colours uint8 [N, 3]."""

    width: int
    height: int
    shapes: EllipseShapes
    colours: NDArray[np.uint8]


@dataclass(frozen=True)
class Rendering:
    """``image`` uint8 [H, W, 3]; ``labels`` uint16 [H, W], the number 1..N of the object on top, 0 for background;
    ``coverage`` the whole objects, hidden parts included."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    coverage: Coverage


@dataclass(frozen=True)
class Factors:
    """What was realised, measured on the rendering; arrays of length N, object i has number i + 1.

    ``size`` sqrt of the area on the canvas in px; ``aspect`` length : breadth; ``angle`` of the length in degrees,
    [0, 180); ``visible_pixels``; ``visible_fraction`` of the pixels on the canvas; ``contrast`` mean brightness of the
    visible pixels minus that of the surroundings (its window grown by 2 px), over 255.
    """

    size: NDArray[np.float64]
    aspect: NDArray[np.float64]
    angle: NDArray[np.float64]
    visible_pixels: NDArray[np.int64]
    visible_fraction: NDArray[np.float64]
    contrast: NDArray[np.float64]


def render(scene: Scene) -> Rendering:
    """Paint the objects in order on black, blended by coverage; the last object with level >= 128 owns a pixel."""
    coverage = rasterise_ellipses(scene.shapes, scene.width, scene.height)
    image = np.zeros((scene.height, scene.width, 3), np.uint8)
    labels = np.zeros((scene.height, scene.width), np.uint16)
    for index in range(len(scene.shapes)):
        rows, columns, levels = coverage.window(index)
        weight = levels[:, :, None].astype(np.uint16)  # 255 x 255 + 127 just fits
        mixed = image[rows, columns] * (255 - weight) + scene.colours[index].astype(np.uint16) * weight
        image[rows, columns] = (mixed + 127) // 255
        labels[rows, columns][levels >= INSIDE] = index + 1
    return Rendering(image, labels, coverage)


def measure(scene: Scene, rendering: Rendering) -> Factors:
    """Measure every object of a rendering."""
    count, coverage = len(scene.shapes), rendering.coverage
    owner = np.repeat(np.arange(count), np.diff(coverage.offsets))
    inside = np.bincount(owner[coverage.data >= INSIDE], minlength=count)
    area = np.bincount(owner, weights=coverage.data, minlength=count) / 255
    visible, contrast = _measure_visible(rendering)
    semi, direction = scene.shapes.semi_axes, scene.shapes.directions
    return Factors(
        size=np.sqrt(area),
        aspect=semi.max(axis=1, initial=0) / semi.min(axis=1, initial=np.inf),
        angle=np.degrees(np.arctan2(direction[:, 1], direction[:, 0])) % 180,
        visible_pixels=visible,
        visible_fraction=visible / np.maximum(inside, 1),
        contrast=contrast,
    )


def _measure_visible(rendering: Rendering) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Visible pixels and contrast of each object, from the pixels in its window and the ring around it."""
    height, width = rendering.labels.shape
    red, green, blue = (rendering.image[:, :, channel].astype(np.uint16) for channel in range(3))
    brightness = (red + green + blue).ravel()
    grown = rendering.coverage.windows + np.array([-_RING, -_RING, _RING, _RING], np.int32)
    grown = np.clip(grown, 0, np.array([width, height, width, height], np.int32))
    owner, x, y, offsets = window_pixels(grown)
    pixel = y * width + x
    light, own = brightness[pixel], rendering.labels.ravel()[pixel] == owner + 1
    visible = np.bincount(owner[own], minlength=len(grown))
    light_own = np.bincount(owner[own], weights=light[own], minlength=len(grown))
    light_around = np.bincount(owner, weights=light, minlength=len(grown)) - light_own
    around = np.diff(offsets) - visible
    contrast = light_own / np.maximum(visible, 1) - light_around / np.maximum(around, 1)
    return visible, contrast / (3 * 255)
