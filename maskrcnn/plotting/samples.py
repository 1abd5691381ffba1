"""Sheets of images with outlined objects, to check masks and boxes of the data and of training samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maskrcnn.plotting import canvas
from maskrcnn.plotting.canvas import BACKGROUND, BLACK, GRAY, LIGHT_GRAY, WHITE, Color, Picture
from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count

CELL = 768  # side that images are enlarged to, by an integer factor (px)
MAX_PIXELS = 80_000_000  # of a sheet; image viewers and Pillow reject more
_MAX_CELL, _MIN_CELL = 2 * CELL, 96
_MAX_SCALE = 12
_GAP = 12
_DASH = 4
_FRAME: Color = (75, 76, 82)


@dataclass(frozen=True)
class Panel:
    """One image of a sheet.

    Attributes:
        image: `[C, H, W]`, uint8, uint16 or float; more than 8 bits are contrast-stretched, as the title notes.
        instances: objects to draw.
        name: title, shortened if there is too little room.
        kind: second part of the title.
        colors: one color per object; None: distinct colors.
        max_gain: maximum brightening of a dark image.
        draw_objects: draw the objects, or else only count them.
    """

    image: torch.Tensor | NDArray[np.generic]
    instances: Instances
    name: str = ""
    kind: str = ""
    colors: Sequence[Color] | None = None
    max_gain: float = 1.0
    draw_objects: bool = True


def render_sheet(panels: Sequence[Panel], columns: int = 4, legend: Sequence[tuple[bool, str]] = ()) -> Picture:
    """Render all panels in rows of `columns` with a legend below.

    Each panel has its title, number of objects, and size above. Images are enlarged by an integer factor, or shrunk, to
    fit a cell of at most `CELL` pixels that the largest image fills; the cell is larger if most images are larger, and
    smaller if there are many.

    Args:
        panels: images.
        columns: number of columns.
        legend: entries (ignored, text).

    Returns:
        uint8 [H', W', 3].
    """
    columns = max(1, min(columns, len(panels)))
    cell = _compute_cell_size(panels)
    size = int(np.clip(cell // 38, 11, 20))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    strips = [_render_row(row, columns, cell, size) for row in rows]
    strips.append(_render_legend(legend, strips[0].width if strips else cell, size))
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), BACKGROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return np.asarray(sheet)


def render_objects(panel: Panel, scale: int, line: int = 1) -> Picture:
    """Render an image enlarged `scale` times, with the outlines of the masks and thin boxes.

    Ignored objects are gray with dashed boxes. Lines are inside the objects; mask outlines are `line` pixels wide with
    dark edges, so that they are visible on any background.

    Args:
        panel: image and objects.
        scale: integer factor.
        line: width of outlines (px).

    Returns:
        uint8 [H·scale, W·scale, 3].
    """
    instances = panel.instances if panel.draw_objects else panel.instances[:0]
    picture = canvas.brighten(canvas.to_picture(panel.image), panel.max_gain)
    picture = np.ascontiguousarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))
    colors = canvas.make_vivid_colors(len(instances)) if panel.colors is None else panel.colors
    boxes = instances.boxes.cpu().numpy().astype(np.float32) * scale
    ignored = instances.ignore.tolist()
    for index in sorted(range(len(instances)), key=lambda index: not ignored[index]):  # ignored objects below
        color = LIGHT_GRAY if ignored[index] else colors[index]
        _draw_box(picture, boxes[index], color, max(1, line // 2), ignored[index])
        if instances.masks is not None:
            if scale > 1:
                canvas.draw_mask(picture, instances.masks, index, BLACK, scale, fill=0, edge=line + 1)
            canvas.draw_mask(picture, instances.masks, index, color, scale, fill=0, edge=line)
    return picture


def _draw_box(picture: Picture, box: NDArray[np.float32], color: Color, line: int, ignored: bool) -> None:
    if ignored:
        canvas.draw_box(picture, box, BLACK, line)
    canvas.draw_box(picture, box, color, line, dash=_DASH * line if ignored else 0)


def _compute_cell_size(panels: Sequence[Panel]) -> int:
    sides = [max(1, *panel.image.shape[-2:]) for panel in panels] or [CELL]
    usual, largest = float(np.median(sides)), max(sides)
    filled = largest * min(CELL // largest, _MAX_SCALE) if largest <= CELL else CELL
    room = math.isqrt(MAX_PIXELS // max(1, len(panels))) - 5 * _GAP
    return int(max(min(max(usual, filled, CELL // 2), _MAX_CELL, room), _MIN_CELL))


def _render_to_fit(panel: Panel, cell: int) -> tuple[Picture, float]:
    """Render the image with both sides at most `cell`; return it and its scale."""
    height, width = panel.image.shape[-2:]
    zoom = cell / max(height, width)
    if zoom >= 1:
        scale = min(int(zoom), _MAX_SCALE)
        return render_objects(panel, scale, line=min(1 + scale // 3, 3)), float(scale)
    image = Image.fromarray(render_objects(panel, 1, line=math.ceil(1 / zoom)))
    smaller = image.resize((max(1, round(width * zoom)), max(1, round(height * zoom))), Image.Resampling.BOX)
    return np.asarray(smaller), zoom


def _render_row(panels: Sequence[Panel], columns: int, cell: int, size: int) -> Image.Image:
    """Render one row of panels with two-line titles, `size` pixels high."""
    pictures, bar = [_render_to_fit(panel, cell) for panel in panels], 3 * size
    height = max(picture.shape[0] for picture, _ in pictures)
    strip = Image.new("RGB", (columns * (cell + _GAP) + _GAP, bar + height + 1), BACKGROUND)
    draw, font = ImageDraw.Draw(strip), canvas.load_font(size)
    for column, (panel, (picture, zoom)) in enumerate(zip(panels, pictures, strict=True)):
        x = _GAP + column * (cell + _GAP)
        suffix = f", {panel.kind}" if panel.kind else ""
        room = cell - draw.textlength(suffix, font=font)
        draw.text((x, 0.8 * size), _shorten(panel.name, room, font) + suffix, fill=WHITE, font=font, anchor="lm")
        draw.text((x, 2.1 * size), _describe(panel, zoom), fill=GRAY, font=canvas.load_font(size - 2), anchor="lm")
        left = x + (cell - picture.shape[1]) // 2
        draw.rectangle((left - 1, bar - 1, left + picture.shape[1], bar + picture.shape[0]), outline=_FRAME)
        strip.paste(Image.fromarray(picture), (left, bar))
    return strip


def _describe(panel: Panel, zoom: float) -> str:
    """Describe the number of objects, the size in pixels, and the display settings."""
    ignored = int(panel.instances.ignore.sum())
    kept = len(panel.instances) - ignored
    height, width = panel.image.shape[-2:]
    gain = canvas.compute_gain(canvas.to_picture(panel.image), panel.max_gain)
    words = [
        format_count(kept, "objects") + f", {ignored:,} ignored" * (ignored > 0),
        f"{width} × {height} px",
        f"zoom {zoom:.0f}" if zoom >= 1 else f"zoom {zoom:.2f}",
        f"brightened {gain:.1f}×" * (gain >= 1.05),
        canvas.describe_display(panel.image),
    ]
    return "  ·  ".join(filter(None, words))


def _shorten(name: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """Shorten a name that is too long by removing its middle."""
    shown, kept = name, len(name)
    while kept > 0 and font.getlength(shown) > room:
        kept -= 1
        shown = f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"
    return shown


def _render_legend(entries: Sequence[tuple[bool, str]], width: int, size: int) -> Image.Image:
    """Render the legend, wrapped to the width."""
    font, x, y = canvas.load_font(size - 1), _GAP, 0
    strip = Image.new("RGB", (width, 2 * size * max(1, len(entries))), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for ignored, text in entries:
        length = int(3 * size + draw.textlength(text, font=font))
        if x > _GAP and x + length > width:
            x, y = _GAP, y + 2 * size
        swatch = np.full((size, 2 * size, 3), BACKGROUND, np.uint8)
        color = LIGHT_GRAY if ignored else canvas.make_vivid_colors(1)[0]
        _draw_box(swatch, np.asarray([0, 0, 2 * size, size], np.float32), color, 1, ignored)
        strip.paste(Image.fromarray(swatch), (x, y + size // 2))
        draw.text((x + 2.5 * size, y + size), text, fill=WHITE, font=font, anchor="lm")
        x += length + size
    return strip.crop((0, 0, width, y + 2 * size))
