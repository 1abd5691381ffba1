"""Many images on one sheet, their objects outlined: to see whether masks and boxes fit what training is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maskrcnn.plotting import canvas
from maskrcnn.plotting.canvas import BACKGROUND, BLACK, GREY, PALE_GREY, WHITE, Colour, Picture
from maskrcnn.structures.instances import Instances

CELL = 768  # side in pixels that images are enlarged to, by a whole factor
MOST_PIXELS = 80_000_000  # of a sheet; image viewers and Pillow refuse more
_LARGEST_CELL, _SMALLEST_CELL = 2 * CELL, 96
_MOST_ENLARGED = 12
_GAP = 12
_DASH = 4
_FRAME: Colour = (75, 76, 82)


@dataclass(frozen=True)
class Panel:
    """One image of a sheet.

    image: `[3, H, W]`, uint8 or float in [0, 1].
    name, kind: its title; the name is shortened where there is no room.
    colours: one an object; None: neighbours in the list differ strongly.
    brightening: how many times brighter a dark image may be shown.
    outlined: whether the objects are drawn, or only counted.
    """

    image: torch.Tensor | NDArray[np.generic]
    instances: Instances
    name: str = ""
    kind: str = ""
    colours: Sequence[Colour] | None = None
    brightening: float = 1.0
    outlined: bool = True


def sample_sheet(panels: Sequence[Panel], columns: int = 4, legend: Sequence[tuple[bool, str]] = ()) -> Picture:
    """All panels, uint8 [H', W', 3], in rows of ``columns`` with a legend below.

    Above each stand its title, its objects and its size. Each image is enlarged by a whole factor, or shrunk, to fit a
    cell of at most ``CELL`` pixels, which the largest of them fills; of larger ones where most images are larger, of
    smaller ones where there are many.
    The legend is made of (ignored, text).
    """
    columns = max(1, min(columns, len(panels)))
    cell = _cell_side(panels)
    size = int(np.clip(cell // 38, 11, 20))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    strips = [_row(row, columns, cell, size) for row in rows]
    strips.append(_legend(legend, strips[0].width if strips else cell, size))
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), BACKGROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return np.asarray(sheet)


def render_objects(panel: Panel, scale: int, line: int = 1) -> Picture:
    """The image enlarged ``scale`` times, uint8 [H·scale, W·scale, 3]; each object's mask outlined, its box thin.

    Objects to ignore are grey, their boxes dashed. Lines lie within what they outline, those of masks ``line`` pixels
    wide and dark-edged, so that they are seen on any ground.
    """
    instances = panel.instances if panel.outlined else panel.instances[:0]
    picture = canvas.brightened(canvas.to_picture(panel.image), panel.brightening)
    picture = np.ascontiguousarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))
    colours = canvas.vivid_colours(len(instances)) if panel.colours is None else panel.colours
    boxes = instances.boxes.cpu().numpy().astype(np.float32) * scale
    ignored = instances.ignore.tolist()
    for index in sorted(range(len(instances)), key=lambda index: not ignored[index]):  # those that count on top
        colour = PALE_GREY if ignored[index] else colours[index]
        _draw_box(picture, boxes[index], colour, max(1, line // 2), ignored[index])
        if instances.masks is not None:
            if scale > 1:
                canvas.draw_mask(picture, instances.masks, index, BLACK, scale, fill=0, edge=line + 1)
            canvas.draw_mask(picture, instances.masks, index, colour, scale, fill=0, edge=line)
    return picture


def _draw_box(picture: Picture, box: NDArray[np.float32], colour: Colour, line: int, ignored: bool) -> None:
    if ignored:
        canvas.draw_box(picture, box, BLACK, line)
    canvas.draw_box(picture, box, colour, line, dash=_DASH * line if ignored else 0)


def _cell_side(panels: Sequence[Panel]) -> int:
    sides = [max(1, *panel.image.shape[-2:]) for panel in panels] or [CELL]
    usual, largest = float(np.median(sides)), max(sides)
    filled = largest * min(CELL // largest, _MOST_ENLARGED) if largest <= CELL else CELL
    room = math.isqrt(MOST_PIXELS // max(1, len(panels))) - 5 * _GAP
    return int(max(min(max(usual, filled, CELL // 2), _LARGEST_CELL, room), _SMALLEST_CELL))


def _fitted(panel: Panel, cell: int) -> tuple[Picture, float]:
    """The picture with both sides at most ``cell``, and how much it is enlarged."""
    height, width = panel.image.shape[-2:]
    zoom = cell / max(height, width)
    if zoom >= 1:
        scale = min(int(zoom), _MOST_ENLARGED)
        return render_objects(panel, scale, line=min(1 + scale // 3, 3)), float(scale)
    image = Image.fromarray(render_objects(panel, 1, line=math.ceil(1 / zoom)))
    smaller = image.resize((max(1, round(width * zoom)), max(1, round(height * zoom))), Image.Resampling.BOX)
    return np.asarray(smaller), zoom


def _row(panels: Sequence[Panel], columns: int, cell: int, size: int) -> Image.Image:
    """Pictures of one row under their titles of two lines, written ``size`` pixels high."""
    pictures, bar = [_fitted(panel, cell) for panel in panels], 3 * size
    height = max(picture.shape[0] for picture, _ in pictures)
    strip = Image.new("RGB", (columns * (cell + _GAP) + _GAP, bar + height + 1), BACKGROUND)
    draw, font = ImageDraw.Draw(strip), canvas.font(size)
    for column, (panel, (picture, zoom)) in enumerate(zip(panels, pictures, strict=True)):
        x = _GAP + column * (cell + _GAP)
        suffix = f", {panel.kind}" if panel.kind else ""
        room = cell - draw.textlength(suffix, font=font)
        draw.text((x, 0.8 * size), _shortened(panel.name, room, font) + suffix, fill=WHITE, font=font, anchor="lm")
        draw.text((x, 2.1 * size), _facts(panel, zoom), fill=GREY, font=canvas.font(size - 2), anchor="lm")
        left = x + (cell - picture.shape[1]) // 2
        draw.rectangle((left - 1, bar - 1, left + picture.shape[1], bar + picture.shape[0]), outline=_FRAME)
        strip.paste(Image.fromarray(picture), (left, bar))
    return strip


def _facts(panel: Panel, zoom: float) -> str:
    """Objects, size in the image's own pixels, and how it is shown, in a few words."""
    ignored = int(panel.instances.ignore.sum())
    kept = len(panel.instances) - ignored
    height, width = panel.image.shape[-2:]
    gain = canvas.brightening(canvas.to_picture(panel.image), panel.brightening)
    words = [
        f"{kept} object{'s' * (kept != 1)}{f', {ignored} ignored' * (ignored > 0)}",
        f"{width} × {height} px",
        f"zoom {zoom:.0f}" if zoom >= 1 else f"zoom {zoom:.2f}",
        f"shown {gain:.1f} times as bright" * (gain >= 1.05),
    ]
    return "  ·  ".join(filter(None, words))


def _shortened(name: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """The name, without its middle where it is too long."""
    shown, kept = name, len(name)
    while kept > 0 and font.getlength(shown) > room:
        kept -= 1
        shown = f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"
    return shown


def _legend(entries: Sequence[tuple[bool, str]], width: int, size: int) -> Image.Image:
    """A line of frames as they are drawn, each with what it stands for; as many lines as the width asks for."""
    font, x, y = canvas.font(size - 1), _GAP, 0
    strip = Image.new("RGB", (width, 2 * size * max(1, len(entries))), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for ignored, text in entries:
        length = int(3 * size + draw.textlength(text, font=font))
        if x > _GAP and x + length > width:
            x, y = _GAP, y + 2 * size
        swatch = np.full((size, 2 * size, 3), BACKGROUND, np.uint8)
        colour = PALE_GREY if ignored else canvas.vivid_colours(1)[0]
        _draw_box(swatch, np.asarray([0, 0, 2 * size, size], np.float32), colour, 1, ignored)
        strip.paste(Image.fromarray(swatch), (x, y + size // 2))
        draw.text((x + 2.5 * size, y + size), text, fill=WHITE, font=font, anchor="lm")
        x += length + size
    return strip.crop((0, 0, width, y + 2 * size))
