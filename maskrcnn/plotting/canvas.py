"""Drawing on NumPy pictures, object by object inside its window: no cost of objects times pixels."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maskrcnn.structures.masks import CroppedMasks

Picture = NDArray[np.uint8]  # [H, W, 3]
Colour = tuple[int, int, int]

RED: Colour = (255, 70, 70)
YELLOW: Colour = (255, 205, 40)
GREEN: Colour = (90, 225, 120)
GREY: Colour = (150, 150, 155)
PALE_GREY: Colour = (205, 205, 210)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (240, 240, 242)
BACKGROUND: Colour = (24, 25, 28)

DARK = 1.5  # images that could be so many times brighter are shown brighter
_GOLDEN_RATIO = 0.618033988749895


def instance_colours(count: int) -> list[Colour]:
    """Colours whose neighbours in the list differ strongly: steps of the golden ratio from green over blue to pink.

    Red and yellow are left to misses and false alarms.
    """
    colours = []
    for index in range(count):
        hue = 0.30 + 0.58 * ((0.1 + index * _GOLDEN_RATIO) % 1.0)
        lightness = (0.62, 0.74, 0.54)[index % 3] + (0.12 if 0.57 < hue < 0.77 else 0.0)  # blue looks darker than it is
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def vivid_colours(count: int) -> list[Colour]:
    """Saturated colours of every hue, neighbours in the list far apart: for lines on the image itself."""
    colours = []
    for index in range(count):
        hue = (0.36 + index * _GOLDEN_RATIO) % 1.0
        lightness = (0.5, 0.6, 0.44)[index % 3] + (0.14 if 0.57 < hue < 0.8 else 0.0)  # blue looks darker than it is
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 1.0)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def to_picture(image: torch.Tensor | NDArray[np.generic], scale: int = 1) -> Picture:
    """uint8 [H·scale, W·scale, 3] from an image [3, H, W] or [1, H, W], uint8 or float in [0, 1]; nearest neighbour."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        array = np.round(np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
    picture = np.broadcast_to(array.transpose(1, 2, 0), (*array.shape[1:], 3))
    return np.ascontiguousarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def brightened(picture: Picture, at_most: float = 6.0) -> Picture:
    """A dark picture multiplied until its brightest half per cent of values is white, by ``at_most`` at most."""
    levels = np.minimum(np.round(np.arange(256) * brightening(picture, at_most)), 255).astype(np.uint8)
    bright: Picture = levels[picture]
    return bright


def brightening(picture: Picture, at_most: float = 6.0) -> float:
    """The factor, at least 1, that ``brightened`` multiplies by.

    Fluorescence images often use the lowest tenth of the range and show nothing otherwise.
    """
    brightest = float(np.percentile(picture, 99.5)) if picture.size else 255.0
    return min(255.0 / max(brightest, 1.0), at_most)


def gain_for(image: torch.Tensor) -> float:
    """What an image ``[3, H, W]`` is multiplied by to be shown: 1 unless it could be ``DARK`` times brighter."""
    gain = brightening(to_picture(image))
    return gain if gain >= DARK else 1.0


def dimmed(picture: Picture, brightness: float = 0.8, colour: float = 0.35) -> Picture:
    """The picture darker and greyer, so that what is drawn on it stands out."""
    grey = picture.mean(axis=2, keepdims=True, dtype=np.float32)
    mixed: NDArray[np.float32] = brightness * (colour * picture + (1 - colour) * grey)
    return np.round(mixed).astype(np.uint8)


def draw_mask(
    picture: Picture, masks: CroppedMasks, index: int, colour: Colour, scale: int, fill: float = 0.45, edge: int = 1
) -> None:
    """Fill one mask, enlarged ``scale`` times, with opacity ``fill``, and draw its outline ``edge`` pixels thick."""
    x1, y1, x2, y2 = (scale * int(end) for end in masks.windows[index])
    inside = masks.window(index).cpu().numpy() >= 128
    inside = inside.repeat(scale, axis=0).repeat(scale, axis=1)
    view = picture[y1:y2, x1:x2]
    if fill:
        view[inside] = np.round((1 - fill) * view[inside] + fill * np.asarray(colour)).astype(np.uint8)
    view[inside & ~_eroded(inside, edge)] = colour


def _eroded(inside: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Without the pixels next to an outside pixel (4 neighbours); beyond the window is outside."""
    for _ in range(times):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def draw_box(
    picture: Picture, box: NDArray[np.float32], colour: Colour, width: int = 1, opacity: float = 1.0, dash: int = 0
) -> None:
    """Frame of a box (x1 y1 x2 y2 in pixels of the picture), its lines inside the box; dashes of ``dash`` pixels."""
    limits = np.asarray((picture.shape[1], picture.shape[0]) * 2)
    x1, y1, x2, y2 = np.clip(np.round(np.nan_to_num(box)), 0, limits).astype(int)
    x1, y1 = min(x1, limits[0] - 1), min(y1, limits[1] - 1)  # what has no width keeps one line
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    horizontal = picture[y1 : y1 + width, x1:x2], picture[max(y2 - width, y1) : y2, x1:x2]
    vertical = picture[y1:y2, x1 : x1 + width], picture[y1:y2, max(x2 - width, x1) : x2]
    for view in (*horizontal, *(side.transpose(1, 0, 2) for side in vertical)):
        along = np.arange(view.shape[1]) % (2 * dash) < dash if dash else slice(None)
        view[:, along] = np.round((1 - opacity) * view[:, along] + opacity * np.asarray(colour)).astype(np.uint8)


def paler(colour: Colour) -> Colour:
    """Halfway to white: for text in the colour of a thing."""
    red, green, blue = ((part + 255) // 2 for part in colour)
    return red, green, blue


def grown(box: NDArray[np.float32], margin: float, smallest: float) -> NDArray[np.float32]:
    """The box with a margin on each side, and no side below ``smallest``: a mark that is seen around one pixel."""
    centre, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2 + margin, smallest / 2)
    return np.concatenate([centre - half, centre + half])


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, so that pictures look the same everywhere."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def write_labels(picture: Picture, labels: list[tuple[str, float, float, Colour]], size: int) -> Picture:
    """The picture with texts, each centred above a point (x, y), dark-edged so that they read on any ground."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for text, x, y, colour in labels:
        width = draw.textlength(text, font=font(size))
        left = min(max(x - width / 2, 1), picture.shape[1] - width - 1)
        top = min(max(y - size - 2, 0), picture.shape[0] - size - 2)
        draw.text((left, top), text, fill=colour, font=font(size), stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)
