"""Output files of prediction for one image: picture, label image, sheet of views. Large images are read by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.exports.tables import number_pixels
from maskrcnn.files import atomic_write
from maskrcnn.images.large import LargeImage
from maskrcnn.inference.views import View
from maskrcnn.plotting.canvas import WHITE, compute_display_gain, draw_box, make_vivid_colors, to_picture
from maskrcnn.plotting.predictions import render_detections, save_picture
from maskrcnn.plotting.samples import Panel, render_sheet
from maskrcnn.structures.affine import scaling, translation
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Pixels
from maskrcnn.structures.warping import warp_instances

MAX_PICTURE_SIDE = 4000  # longer side in pixels; larger images are reduced by an integer factor
MAX_VIEWS = 16  # on a sheet
MAX_PNG_LABEL = 65_535
_ROWS, _COLUMNS = 512, 2048  # windows for reducing an image: few rows, because strips of TIFF files are whole rows


# ---- the picture


def write_picture(
    path: Path, pixels: Pixels, found: Instances, head: str, threshold: float, class_names: Sequence[str], title: str
) -> None:
    """Draw the detections with at least `threshold` on the image; `title` is added to the title of the picture.

    Pixels of files are drawn as stored, so that the contrast of 16 bits is stretched whatever the gray levels are.
    """
    pixels = pixels.as_stored() if isinstance(pixels, LargeImage) else pixels
    factor = -(-max(pixels.size) // MAX_PICTURE_SIDE)
    image, shown = reduce_image(pixels, factor), found.above(threshold)
    if factor > 1:
        size = (int(image.shape[1]), int(image.shape[2]))
        shown = warp_instances(shown, scaling(1 / factor, 1 / factor), size, Edges(cut="keep"))
        title = f"{title}  ·  shown at 1/{factor} of its size"
    save_picture(render_detections(image, shown, head, threshold, class_names, title), path)


def reduce_image(pixels: Pixels, factor: int) -> Tensor:
    """Reduce an image, which is read by window.

    Args:
        pixels: the image.
        factor: each pixel of the result is the mean of factor × factor pixels.

    Returns:
        uint8 or float32 `[C, ceil(H / factor), ceil(W / factor)]`; for a factor of 1 the unchanged image.
    """
    height, width = pixels.size
    if factor == 1:
        return pixels.read(0, 0, height, width)
    corner = pixels.read(0, 0, 1, 1)
    dtype = torch.uint8 if corner.dtype == torch.uint8 else torch.float32
    image = torch.empty(len(corner), -(-height // factor), -(-width // factor), dtype=dtype)
    rows, columns = (max(1, length // factor) * factor for length in (_ROWS, _COLUMNS))
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            part = pixels.read(x, y, min(rows, height - y), min(columns, width - x))
            means = F.avg_pool2d(part.float(), factor, ceil_mode=True)
            means = means.round().to(dtype) if dtype == torch.uint8 else means
            top, left = y // factor, x // factor
            image[:, top : top + means.shape[1], left : left + means.shape[2]] = means
    return image


# ---- the label image


def write_labels(stem: Path, found: Instances, threshold: float, min_visible_fraction: float) -> tuple[Path, int]:
    """Write a label image: a 16-bit PNG, or a 32-bit TIFF if it has too many objects.

    Args:
        stem: path of the file without `_labels` and suffix.
        found: detections with masks.
        threshold: minimum score. Detections are numbered in descending order of score, and higher scores are on top.
        min_visible_fraction: detections of which less than this fraction stays visible are hidden: their number has no
            pixels.

    Returns:
        The path of the file and the number of objects that have pixels in it.
    """
    shown = found.above(threshold)
    assert shown.masks is not None
    labels, hidden = number_pixels(shown, min_visible_fraction)
    count = int((~hidden & shown.has_mask().numpy()).sum())
    if len(shown) <= MAX_PNG_LABEL:
        path = stem.with_name(f"{stem.name}_labels.png")
        with atomic_write(path) as beside:
            Image.fromarray(labels.astype(np.uint16)).save(beside, format="PNG")
        return path, count
    import tifffile

    path = stem.with_name(f"{stem.name}_labels.tif")
    with atomic_write(path) as beside:
        tifffile.imwrite(beside, labels, compression="zlib", photometric="minisblack")
    return path, count


# ---- the sheet of views


def write_views(
    path: Path,
    pixels: Pixels,
    views: Sequence[View],
    detect: Callable[[Sequence[Tensor]], Sequence[Instances]],
    threshold: float,
    device: torch.device,
) -> None:
    """Draw the detections in each of the first `MAX_VIEWS` views, and next to it the same detections on the image."""
    panels = [panel for view in views[:MAX_VIEWS] for panel in _make_panels(view, pixels, detect, threshold, device)]
    frame = " (of a tile: in the frame)" if any(view.grid for view in views[:MAX_VIEWS]) else ""
    legend = [(False, f"a detection, in the same color in its view and, mapped back, on the image{frame}")]
    save_picture(render_sheet(panels, columns=4 if len(panels) > 2 else 2, legend=legend), path)


def _make_panels(
    view: View,
    pixels: Pixels,
    detect: Callable[[Sequence[Tensor]], Sequence[Instances]],
    threshold: float,
    device: torch.device,
) -> tuple[Panel, Panel]:
    image = view.show(pixels)
    found = detect([image.to(device)])[0].cpu().above(threshold)
    found = replace(found, ids=torch.arange(len(found)))
    back = view.restore(found, pixels.size)
    x1, y1, x2, y2 = view.window(pixels.size, min(view.size) // 8 if view.grid else 0)  # a tile with its surroundings
    there = pixels.read(x1, y1, y2 - y1, x2 - x1)
    back = warp_instances(back, translation(-x1, -y1), (y2 - y1, x2 - x1), Edges(cut="keep"))
    assert back.ids is not None
    colors = make_vivid_colors(len(found))
    own = [colors[number] for number in back.ids.tolist()]
    gain = compute_display_gain(there)
    there = _draw_frame(there, [a - b for a, b in zip(view.window(pixels.size), (x1, y1, x1, y1), strict=True)])
    return (
        Panel(image, found, view.name, "as the detector sees it", colors, gain),
        Panel(there, back, view.name, "mapped back to the image", own, gain),
    )


def _draw_frame(image: Tensor, window: Sequence[int]) -> Tensor:
    """Draw a line around a window (x1 y1 x2 y2) of an image, unless it is the whole image."""
    if tuple(window) == (0, 0, int(image.shape[2]), int(image.shape[1])):
        return image
    picture = to_picture(image)
    draw_box(picture, np.asarray(window, np.float32), WHITE, opacity=0.7)
    return torch.from_numpy(picture).permute(2, 0, 1)
