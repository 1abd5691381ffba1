"""Drawing on NumPy images; each object is drawn within its window, so the cost is never objects × image area."""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maskrcnn.structures.masks import CroppedMasks

Picture = NDArray[np.uint8]  # [H, W, 3]
Color = tuple[int, int, int]

RED: Color = (255, 70, 70)
YELLOW: Color = (255, 205, 40)
GREEN: Color = (90, 225, 120)
GRAY: Color = (150, 150, 155)
LIGHT_GRAY: Color = (205, 205, 210)
BLACK: Color = (0, 0, 0)
WHITE: Color = (240, 240, 242)
BACKGROUND: Color = (24, 25, 28)

MIN_DISPLAY_GAIN = 1.5  # images are brightened if the gain is at least this
STRETCH = (0.1, 99.9)  # percentiles that are black and white in images of more than 8 bits
MAX_OVERSHOOT = 0.5  # of floats beyond [0, 1], by resampling and filters
_MAX_MEASURED = 1 << 20  # pixels
_MANY_LEVELS = 20  # without decimals
_GOLDEN_RATIO = 0.618033988749895


def make_instance_colors(count: int) -> list[Color]:
    """Make colors whose neighbors in the list differ strongly: golden-ratio steps of the hue from green to pink.

    Red and yellow are reserved for false negatives and false positives.
    """
    colors = []
    for index in range(count):
        hue = 0.30 + 0.58 * ((0.1 + index * _GOLDEN_RATIO) % 1.0)
        lightness = (0.62, 0.74, 0.54)[index % 3] + (0.12 if 0.57 < hue < 0.77 else 0.0)  # blue looks darker than it is
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def make_vivid_colors(count: int) -> list[Color]:
    """Make saturated colors of all hues, neighbors in the list far apart, for lines on the image itself."""
    colors = []
    for index in range(count):
        hue = (0.36 + index * _GOLDEN_RATIO) % 1.0
        lightness = (0.5, 0.6, 0.44)[index % 3] + (0.14 if 0.57 < hue < 0.8 else 0.0)  # blue looks darker than it is
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 1.0)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def to_picture(image: torch.Tensor | NDArray[np.generic], scale: int = 1) -> Picture:
    """Convert an image [C, H, W] to a uint8 picture [H·scale, W·scale, 3], enlarged by nearest-neighbor interpolation.

    Images with more than 8 bits are contrast-stretched (see `describe_display`). One channel is shown in gray, two in
    red and green, and of more channels the first three in RGB.
    """
    array = _to_array(image)
    stretch = _compute_stretch(array)
    array = array[:3]
    if array.dtype != np.uint8:
        values = np.nan_to_num(array.astype(np.float32))
        low, high = stretch or (0.0, 1.0)
        array = np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    if len(array) == 2:
        array = np.concatenate([array, np.zeros_like(array[:1])])
    picture = np.broadcast_to(array.transpose(1, 2, 0), (*array.shape[1:], 3))
    return np.ascontiguousarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def describe_display(image: torch.Tensor | NDArray[np.generic]) -> str:
    """Describe for a title what `to_picture` changes: contrast and channels; "" if nothing."""
    array = _to_array(image)
    stretch = _compute_stretch(array)
    words = []
    if stretch is not None:
        digits = ".0f" if stretch[1] - stretch[0] > _MANY_LEVELS else ".4g"
        words.append(f"contrast stretched: {stretch[0]:{digits}} to {stretch[1]:{digits}}")
    words += [f"channels 1 to {min(len(array), 3)} of {len(array)}"] * (len(array) not in (1, 3))
    return ", ".join(words)


def _to_array(image: torch.Tensor | NDArray[np.generic]) -> NDArray[Any]:
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


def _compute_stretch(array: NDArray[Any]) -> tuple[float, float] | None:
    """Compute the values shown as black and white, of uint16 and of floats beyond [0, 1]; None for other images."""
    if array.dtype == np.uint8 or array.size == 0:
        return None
    step = max(1, math.isqrt(array[0].size // _MAX_MEASURED))  # a sample of a large image is enough
    values = np.nan_to_num(array[:3, ::step, ::step].astype(np.float32))
    if array.dtype != np.uint16 and values.min() >= -MAX_OVERSHOOT and values.max() <= 1 + MAX_OVERSHOOT:
        return None
    low, high = np.percentile(values, STRETCH).tolist()
    return low, max(high, low + 1e-6 * max(abs(low), 1.0))


def brighten(picture: Picture, max_gain: float = 6.0) -> Picture:
    """Multiply a dark picture by up to `max_gain`, until its brightest half percent of values is white."""
    levels = np.minimum(np.round(np.arange(256) * compute_gain(picture, max_gain)), 255).astype(np.uint8)
    bright: Picture = levels[picture]
    return bright


def compute_gain(picture: Picture, max_gain: float = 6.0) -> float:
    """Compute the factor, at least 1, that `brighten` multiplies by.

    Fluorescence images often use only the lowest tenth of the range, and would look black otherwise.
    """
    brightest = float(np.percentile(picture, 99.5)) if picture.size else 255.0
    return min(255.0 / max(brightest, 1.0), max_gain)


def compute_display_gain(image: torch.Tensor) -> float:
    """Compute the display gain of an image `[C, H, W]`: 1 if it is below `MIN_DISPLAY_GAIN`."""
    gain = compute_gain(to_picture(image))
    return gain if gain >= MIN_DISPLAY_GAIN else 1.0


def dim(picture: Picture, brightness: float = 0.8, color: float = 0.35) -> Picture:
    """Darken and desaturate a picture so that drawings on it stand out."""
    gray = picture.mean(axis=2, keepdims=True, dtype=np.float32)
    blended: NDArray[np.float32] = brightness * (color * picture + (1 - color) * gray)
    return np.round(blended).astype(np.uint8)


def draw_mask(
    picture: Picture, masks: CroppedMasks, index: int, color: Color, scale: int, fill: float = 0.45, edge: int = 1
) -> None:
    """Fill one mask, enlarged `scale` times, with opacity `fill`, and draw its outline `edge` pixels thick."""
    x1, y1, x2, y2 = (scale * int(end) for end in masks.windows[index])
    inside = masks.window(index).cpu().numpy() >= 128
    inside = inside.repeat(scale, axis=0).repeat(scale, axis=1)
    view = picture[y1:y2, x1:x2]
    if fill:
        view[inside] = np.round((1 - fill) * view[inside] + fill * np.asarray(color)).astype(np.uint8)
    view[inside & ~_erode(inside, edge)] = color


def _erode(inside: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Erode by a 4-neighborhood; pixels beyond the window count as outside."""
    for _ in range(times):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def draw_box(
    picture: Picture, box: NDArray[np.float32], color: Color, width: int = 1, opacity: float = 1.0, dash: int = 0
) -> None:
    """Draw the frame of a box (x1 y1 x2 y2 in pixels of the picture) inside the box; with dashes of `dash` pixels."""
    limits = np.asarray((picture.shape[1], picture.shape[0]) * 2)
    x1, y1, x2, y2 = np.clip(np.round(np.nan_to_num(box)), 0, limits).astype(int)
    x1, y1 = min(x1, limits[0] - 1), min(y1, limits[1] - 1)  # an empty box is drawn as a line
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    horizontal = picture[y1 : y1 + width, x1:x2], picture[max(y2 - width, y1) : y2, x1:x2]
    vertical = picture[y1:y2, x1 : x1 + width], picture[y1:y2, max(x2 - width, x1) : x2]
    for view in (*horizontal, *(side.transpose(1, 0, 2) for side in vertical)):
        along = np.arange(view.shape[1]) % (2 * dash) < dash if dash else slice(None)
        view[:, along] = np.round((1 - opacity) * view[:, along] + opacity * np.asarray(color)).astype(np.uint8)


def lighten(color: Color) -> Color:
    """Mix a color with white in equal parts, for text."""
    red, green, blue = ((part + 255) // 2 for part in color)
    return red, green, blue


def expand_box(box: NDArray[np.float32], margin: float, min_side: float) -> NDArray[np.float32]:
    """Expand a box by a margin on each side, to sides of at least `min_side`, so that a single pixel is visible."""
    center, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2 + margin, min_side / 2)
    return np.concatenate([center - half, center + half])


@lru_cache(maxsize=16)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that Matplotlib includes, so that pictures look the same everywhere."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def write_labels(picture: Picture, labels: list[tuple[str, float, float, Color]], size: int) -> Picture:
    """Write texts, each centered above a point (x, y), with dark outlines for readability."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for text, x, y, color in labels:
        width = draw.textlength(text, font=load_font(size))
        left = min(max(x - width / 2, 1), picture.shape[1] - width - 1)
        top = min(max(y - size - 2, 0), picture.shape[0] - size - 2)
        draw.text((left, top), text, fill=color, font=load_font(size), stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)
