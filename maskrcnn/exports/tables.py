"""Label image and tables of the objects of an image: the number of a pixel is the number of its row."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.files import atomic_write
from maskrcnn.structures.instances import Instances

ReadPixels = Callable[[int, int, int, int], Tensor]
"""Reads the window x, y, height, width of an image as `[C, height, width]`."""
COLUMNS = (
    "image",
    "number",
    "class",
    "score",
    "hidden",
    "x1",
    "y1",
    "x2",
    "y2",
    "centroid_x",
    "centroid_y",
    "area",
    "equivalent_diameter",
)
MICROMETER_COLUMNS = ("centroid_x_um", "centroid_y_um", "area_um2", "equivalent_diameter_um")


def name_means(count: int) -> list[str]:
    """Name the columns of the mean intensities of `count` channels."""
    return [f"mean_{channel}" for channel in range(1, count + 1)]


def number_pixels(
    instances: Instances, min_visible_fraction: float = 0.0
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Make a label image in which pixels have the number of their object from 1; earlier objects are on top.

    Args:
        instances: N objects with masks.
        min_visible_fraction: objects of which less than this fraction stays visible are hidden: they have no pixels,
            and keep their number, so that numbers may have gaps.

    Returns:
        int32 `[H, W]`, 0 for background, and bool `[N]`, which objects are hidden.

    Raises:
        ValueError: If there are no masks.
    """
    if instances.masks is None:
        raise ValueError("these instances have no masks; a label image needs them")
    painted, kept = instances.masks.to("cpu").to_label_image(min_visible_fraction)
    visible = kept.numpy()
    numbers = np.concatenate([[0], np.flatnonzero(visible) + 1]).astype(np.int32)
    return numbers[painted.numpy()], ~visible & (instances.masks.areas().cpu().numpy() > 0)


def make_rows(
    instances: Instances,
    class_names: Sequence[str],
    image_name: str,
    hidden: Sequence[bool] | NDArray[np.bool_] | None = None,
    read: ReadPixels | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a row per object, in their order.

    Lengths are in pixels and areas in square pixels; coordinates are continuous, so that the centroid of the upper left
    pixel is .5, .5. Without a mask, they are those of the box.

    Args:
        instances: objects of the image.
        class_names: class names in the order of the labels.
        image_name: name of the image.
        hidden: which objects are covered by others in the label image.
        read: reads the image, for the mean intensity of each channel, `mean_1`, `mean_2`, …
    """
    areas, drawn = instances.areas().tolist(), instances.has_mask().tolist()
    for place, (box, label) in enumerate(zip(instances.boxes.tolist(), instances.labels.tolist(), strict=True)):
        corner, inside = _get_inside(instances, place, drawn[place])
        ys, xs = np.nonzero(inside)
        centroid = (xs.mean() + 0.5 + corner[0], ys.mean() + 0.5 + corner[1]) if drawn[place] else _get_center(box)
        values: tuple[Any, ...] = (
            image_name,
            place + 1,
            class_names[label - 1],
            None if instances.scores is None else round(float(instances.scores[place]), 6),
            int(hidden is not None and bool(hidden[place])),
            *(round(each, 3) for each in (*box, *centroid)),
            round(areas[place], 3),
            round(math.sqrt(4 * areas[place] / math.pi), 3),
        )
        row = dict(zip(COLUMNS, values, strict=True))
        if read is not None:
            row |= _measure_means(read, corner, inside)
        yield row


def measure_micrometers(row: dict[str, Any], pixel_size: tuple[float, float]) -> dict[str, float]:
    """Return centroid, area and equivalent diameter of a row in µm and µm².

    Args:
        row: a row of `make_rows`.
        pixel_size: height and width of a pixel in µm.
    """
    height, width = pixel_size
    area = row["area"] * height * width
    values = row["centroid_x"] * width, row["centroid_y"] * height, area, math.sqrt(4 * area / math.pi)
    return {name: round(value, 4) for name, value in zip(MICROMETER_COLUMNS, values, strict=True)}


def write_table(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows as CSV with a header: `columns`, and others in order of appearance; the file appears complete."""
    listed = list(rows)
    header = list(dict.fromkeys([*columns, *(name for row in listed for name in row)]))
    with atomic_write(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows(listed)


def _get_inside(instances: Instances, place: int, is_drawn: bool) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Return the corner x, y and the inside of an object: of its mask, or all pixels that its box touches."""
    if is_drawn and instances.masks is not None:
        x, y = instances.masks.windows[place, :2].tolist()
        return (x, y), instances.masks.window(place).cpu().numpy() >= 128
    height, width = instances.size
    x1, y1, x2, y2 = instances.boxes[place].tolist()
    x, y = max(0, math.floor(x1)), max(0, math.floor(y1))
    shape = (max(0, min(height, math.ceil(y2)) - y), max(0, min(width, math.ceil(x2)) - x))
    return (x, y), np.ones(shape, bool)


def _get_center(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _measure_means(read: ReadPixels, corner: tuple[int, int], inside: NDArray[np.bool_]) -> dict[str, float | None]:
    height, width = inside.shape
    if not inside.any():
        return {}
    pixels = read(*corner, height, width).cpu().numpy()[:, inside].mean(axis=1, dtype=np.float64)
    return {name: round(float(mean), 4) for name, mean in zip(name_means(len(pixels)), pixels, strict=True)}
