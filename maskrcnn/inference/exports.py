"""Detections of an image in the formats of other tools, and their rows in the tables of a prediction."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.config import UserError
from maskrcnn.exports import geojson, labelme, yolo
from maskrcnn.exports.tables import COLUMNS, make_rows, measure_micrometers, number_pixels, write_table
from maskrcnn.files import atomic_write, write_text
from maskrcnn.images.large import open_pixels, read_metadata
from maskrcnn.images.metadata import Georeference
from maskrcnn.structures.instances import Instances

Row = dict[str, Any]
OBJECTS, COUNTS = "objects.csv", "counts.csv"


def write_exports(
    stem: Path, image: Path, found: Instances, class_names: Sequence[str], formats: Sequence[str], fraction: float
) -> list[Row]:
    """Write the detections of an image in other formats; return their rows in `objects.csv`.

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
    return make_table_rows(image, found, class_names, fraction)


def _write_geojson(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    collection = geojson.make_feature_collection(found, class_names, image.name)
    write_text(_add_suffix(stem, ".geojson"), json.dumps(collection, ensure_ascii=False) + "\n")


def _write_world(stem: Path, image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> None:
    collection = geojson.make_feature_collection(found, class_names, image.name)
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


def _add_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


# ---- tables


def make_table_rows(image: Path, found: Instances, class_names: Sequence[str], fraction: float) -> list[Row]:
    """Make the rows of `objects.csv` of an image, in the order of the numbers in its label image.

    Mean intensities are of the values that are stored in the file. If the file states its pixel size, there are columns
    in µm, too.
    """
    hidden = None if found.masks is None else number_pixels(found, fraction)[1]
    with open_pixels(image) as pixels:
        rows = list(make_rows(found, class_names, image.name, hidden, pixels.read))
        if (pixel_size := pixels.metadata.pixel_size) is not None:
            rows = [row | measure_micrometers(row, pixel_size) for row in rows]
    return _drop_repeated_channels(rows)


def _drop_repeated_channels(rows: list[Row]) -> list[Row]:
    """Keep one mean of gray images, whose channel is read three times."""
    names = ("mean_2", "mean_3")
    if all(row.get("mean_1") == row.get(name) for row in rows for name in names) and "mean_4" not in (rows or [{}])[0]:
        return [{name: value for name, value in row.items() if name not in names} for row in rows]
    return rows


def write_tables(folder: Path, rows_by_image: Mapping[str, Sequence[Row]], class_names: Sequence[str]) -> None:
    """Write `objects.csv`, a row per object, and `counts.csv`, a row per image with the number of each class."""
    write_table(folder / OBJECTS, (row for rows in rows_by_image.values() for row in rows), COLUMNS)
    counts = (_count_objects(image, rows, class_names) for image, rows in rows_by_image.items())
    write_table(folder / COUNTS, counts, ("image", "objects", "hidden", *class_names))


def _count_objects(image: str, rows: Sequence[Row], class_names: Sequence[str]) -> Row:
    by_class = Counter(row["class"] for row in rows)
    return {
        "image": image,
        "objects": len(rows),
        "hidden": sum(row["hidden"] for row in rows),
        **{name: by_class[name] for name in class_names},
    }
