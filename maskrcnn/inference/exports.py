"""Detections of an image in the formats of other tools, and their rows in the tables of a prediction."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.exports import geojson, labelme, yolo
from maskrcnn.exports.tables import (
    COLUMNS,
    MICROMETER_COLUMNS,
    make_rows,
    measure_micrometers,
    name_means,
    number_pixels,
    write_table,
)
from maskrcnn.files import atomic_write, write_text
from maskrcnn.images.large import open_pixels, read_metadata
from maskrcnn.images.metadata import Georeference
from maskrcnn.structures.instances import Instances

Row = dict[str, Any]


class Table(NamedTuple):
    """Objects of an image in `objects.csv`: columns beside those of every table, which do not depend on the objects."""

    columns: Sequence[str]
    rows: Sequence[Row]


OBJECTS, COUNTS = "objects.csv", "counts.csv"


def write_exports(
    stem: Path, image: Path, found: Instances, class_names: Sequence[str], formats: Sequence[str], fraction: float
) -> Table:
    """Write the detections of an image in other formats; return their table for `objects.csv`.

    Args:
        stem: path of the files without suffix.
        image: the image file.
        found: detections to write, sorted by score.
        class_names: names of the labels.
        formats: keys of `WRITERS`; "coco" is written for all images at once, see `PredictionLog`.
        fraction: objects of which less than this fraction stays visible have no pixels in label images.
    """
    for name in formats:
        if name in WRITERS:
            WRITERS[name](stem, image, found, class_names, fraction)
    return make_table(image, found, class_names, fraction)


def _write_geojson(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    collection = geojson.make_feature_collection(found, class_names, image.name, _find_hidden(found, fraction))
    write_text(_add_suffix(stem, ".geojson"), json.dumps(collection, ensure_ascii=False) + "\n")


def _write_world(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    collection = geojson.make_feature_collection(found, class_names, image.name, _find_hidden(found, fraction))
    world = geojson.to_world(collection, get_georeference(image))
    write_text(_add_suffix(stem, "_world.geojson"), json.dumps(world, ensure_ascii=False) + "\n")


def get_georeference(image: Path) -> Georeference:
    """Return the map to world coordinates of an image file.

    Raises:
        UserError: If it has none, or one without a coordinate reference system.
    """
    georeference = read_metadata(image).georeference
    if georeference is None:
        raise UserError(f"{image}: has no georeference; write pixel coordinates with --to=geojson")
    georeference.check_crs(image)
    return georeference


def _write_labelme(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    path = os.path.relpath(image.resolve(), stem.parent.resolve())
    document = labelme.make_document(found, class_names, Path(path).as_posix())
    write_text(_add_suffix(stem, ".json"), json.dumps(document, ensure_ascii=False) + "\n")


def _write_yolo(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    folder = stem.parent / "labels"
    folder.mkdir(exist_ok=True)
    lines = yolo.make_lines(found, with_scores=True)
    write_text(folder / f"{stem.name}.txt", "".join(f"{line}\n" for line in lines))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in class_names))


def _write_label_tiff(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    import tifffile

    if found.masks is None:
        return
    labels, _ = number_pixels(found, fraction)
    with atomic_write(stem.with_name(f"{stem.name}_labels.tif")) as beside:
        tifffile.imwrite(beside, labels, compression="zlib", photometric="minisblack")


WRITERS: Mapping[str, Callable[[Path, Path, Instances, Sequence[str], float], None]] = {
    "geojson": _write_geojson,
    "geojson_world": _write_world,
    "label_tiff": _write_label_tiff,
    "labelme": _write_labelme,
    "yolo": _write_yolo,
}


FILES: Mapping[str, tuple[str, str]] = {
    "geojson": ("GeoJSON", "{name}.geojson"),
    "geojson_world": ("World", "{name}_world.geojson (GeoJSON in world coordinates)"),
    "labelme": ("LabelMe", "{name}.json"),
    "yolo": ("YOLO", "labels/{name}.txt, classes.txt"),
}
"""What the writers write, and its title; label images and COCO results are among the files of every prediction."""


def _find_hidden(found: Instances, fraction: float) -> NDArray[np.bool_] | None:
    """Find the objects without pixels in the label image."""
    return None if found.masks is None else number_pixels(found, fraction)[1]


def _add_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


# ---- tables


def make_table(image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> Table:
    """Make the table of the objects of an image, in the order of the numbers in its label image.

    Mean intensities are of the values that are stored in the file. If the file states its pixel size, there are columns
    in µm, too. Gray images, whose channel is read three times, have one mean.
    """
    with open_pixels(image) as pixels:
        rows = list(make_rows(found, class_names, image.name, _find_hidden(found, fraction), pixels.read))
        count, pixel_size = pixels.samples.shape[2], pixels.metadata.pixel_size
    if pixel_size is not None:
        rows = [row | measure_micrometers(row, pixel_size) for row in rows]
    columns = [*name_means(count), *(MICROMETER_COLUMNS if pixel_size is not None else ())]
    kept = {*COLUMNS, *columns}
    return Table(columns, [{name: value for name, value in row.items() if name in kept} for row in rows])


def write_tables(folder: Path, tables: Mapping[str, Table], class_names: Sequence[str]) -> None:
    """Write `objects.csv`, a row per object, and `counts.csv`, a row per image with the number of each class."""
    columns = [*COLUMNS, *(name for table in tables.values() for name in table.columns)]
    write_table(folder / OBJECTS, (row for table in tables.values() for row in table.rows), columns)
    counts = (_count_objects(image, table.rows, class_names) for image, table in tables.items())
    write_table(folder / COUNTS, counts, ("image", "objects", "hidden", *class_names))


def _count_objects(image: str, rows: Sequence[Row], class_names: Sequence[str]) -> Row:
    by_class = Counter(row["class"] for row in rows)
    return {
        "image": image,
        "objects": len(rows),
        "hidden": sum(row["hidden"] for row in rows),
        **{name: by_class[name] for name in class_names},
    }
