"""VIA (VGG Image Annotator) 1 and 2: projects, and exports as JSON or CSV, of rectangles, circles, ellipses, polygons.

Structure from VIA's documentation ("annotation format") and `via.js` of version 2.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from datasets.readers.tables import quote, read_table, read_text
from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey_shapes
from datasets.readers.tools.files import (
    ImageFiles,
    find_containing,
    get_dict,
    get_list,
    name_images,
    read_json,
    recognize_content,
)
from datasets.readers.tools.shapes import NO_AREA, Annotation, Shape, make_ellipse, to_numbers, to_outline
from maskrcnn.config import UserError

NO_CLASS = "object"
JSON_MARKER, _CSV = b'"region_attributes"', b"region_shape_attributes"
_CLASS_ATTRIBUTES = ("class", "label", "category", "name", "type", "object", "object_name")
_COLUMNS = ("region_shape_attributes", "region_attributes")
_WITHOUT_AREA = ("point", "line", "polyline")


class _Region(NamedTuple):
    """A region of an image: where it is in the file, its shape, and its attributes."""

    where: str
    shape: Any
    attributes: Any


def recognize_via(root: Path) -> str | None:
    """Return the first JSON or CSV file of VIA in a folder."""
    return recognize_content(root, (".json",), JSON_MARKER) or recognize_content(root, (".csv",), _CSV)


def find_via(root: Path) -> Contents:
    """List the images of the files of VIA.

    The class of a region is its attribute `class`, `label`, `category`, `name` or `type`, or else the attribute that
    most regions have; that of regions without it is "object".

    Raises:
        UserError: If there is no such file, it is invalid, or an image is missing.
    """
    files = find_containing(root, (".json",), JSON_MARKER) or find_containing(root, (".csv",), _CSV)
    if not files:
        raise UserError(f"{root}: has no JSON or CSV files of VIA; check --dataset_root")
    images = ImageFiles(root)
    regions: dict[Path, list[_Region]] = {}
    origins: dict[Path, Path] = {}
    for path in files:
        for name, found in (_read_csv if path.suffix.lower() == ".csv" else _read_json)(path):
            image = images.find(name, path.parent)
            if image is None:
                raise UserError(f"{path}: image {quote(name)} is missing; put it next to the file or in images/")
            if origins.setdefault(image, path) != path:
                raise UserError(f"{path}: image {quote(name)} is in {origins[image].name}, too; keep one of the files")
            regions.setdefault(image, []).extend(found)
    attribute = _choose_attribute(region for each in regions.values() for region in each)
    annotations = {image: _to_annotation(each, attribute) for image, each in regions.items()}
    used = survey_shapes(shape for annotation in annotations.values() for shape in annotation.shapes)

    def item(name: str, image: Path) -> AnnotatedImage:
        return AnnotatedImage(name, image, (origins[image],), lambda: annotations[image])

    unused = images.count_unused()
    return Contents(
        [item(name, image) for name, image in zip(name_images(list(regions), root), regions, strict=True)],
        tuple(sorted(used.names)),
        used.has_masks,
        left_out={NOT_ANNOTATED: unused} if unused else {},
    )


def _read_json(path: Path) -> Iterator[tuple[str, list[_Region]]]:
    """Yield each image of a project or export, with its regions."""
    try:
        data = get_dict(read_json(path))
        images = get_dict(data.get("_via_img_metadata", data))
    except ValueError as error:
        raise UserError(f"{path}: is not a file of VIA: {error}; check the data set") from error
    for key, image in images.items():
        where = f"{path}: image {quote(key)}"
        try:
            name, regions = get_dict(image).get("filename"), image.get("regions") or []
            listed = list(regions.values()) if isinstance(regions, dict) else get_list(regions, "regions")
            if not isinstance(name, str) or not name:
                raise ValueError("'filename' must be a name")
        except ValueError as error:
            raise UserError(f"{where}: {error}; check the data set") from error
        yield name, [_to_region(number, region, key) for number, region in enumerate(listed, start=1)]


def _to_region(number: int, region: Any, key: str) -> _Region:
    fields = region if isinstance(region, dict) else {}
    where = f"image {quote(key)}: region {number}"
    return _Region(where, fields.get("shape_attributes"), fields.get("region_attributes"))


def _read_csv(path: Path) -> Iterator[tuple[str, list[_Region]]]:
    """Yield each row of an export as CSV, with its region if it has one."""
    start = read_text(path).partition("\n")[0]
    name_column = "#filename" if "#filename" in start else "filename"
    for line, (name, shape, attributes) in read_table(path, (name_column, *_COLUMNS)):
        where = f"line {line}"
        try:
            region = _Region(where, json.loads(shape or "{}"), json.loads(attributes or "{}"))
        except (ValueError, RecursionError):
            region = _Region(where, None, None)
        yield name, [region] if region.shape != {} else []


def _choose_attribute(regions: Iterable[_Region]) -> str | None:
    """Return the attribute that names the class of regions; None if there are none."""
    counts = Counter(key for region in regions if isinstance(region.attributes, dict) for key in region.attributes)
    known = [key for wanted in _CLASS_ATTRIBUTES for key in counts if key.strip().lower() == wanted]
    return known[0] if known else next((key for key, _ in counts.most_common(1)), None)


def _to_annotation(regions: list[_Region], attribute: str | None) -> Annotation:
    annotation = Annotation()
    for number, region in enumerate(regions, start=1):
        try:
            _add(annotation, Shape(number, _get_class(region.attributes, attribute)), get_dict(region.shape))
        except ValueError as error:
            annotation.invalid.append(f"{region.where}: {error}")
    return annotation


def _get_class(attributes: Any, attribute: str | None) -> str:
    value = attributes.get(attribute) if isinstance(attributes, dict) and attribute is not None else None
    if isinstance(value, dict):  # of a checkbox: each choice with whether it is checked
        value = next((key for key, is_checked in value.items() if is_checked), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)[:40]
    return value.strip() if isinstance(value, str) and value.strip() else NO_CLASS


def _add(annotation: Annotation, new: Shape, shape: dict[str, Any]) -> None:
    kind = shape.get("name")
    if kind in _WITHOUT_AREA:
        annotation.drop(NO_AREA)
    elif kind == "rect":
        x, y, width, height = to_numbers([shape.get(key) for key in ("x", "y", "width", "height")])
        annotation.shapes.append(replace(new, box=(x, y, x + width, y + height)))
    elif kind == "circle":
        x, y, radius = to_numbers([shape.get(key) for key in ("cx", "cy", "r")])
        annotation.add_outlines(new, [make_ellipse(x, y, radius, radius)])
    elif kind == "ellipse":
        values = to_numbers([shape.get(key) for key in ("cx", "cy", "rx", "ry")])
        annotation.add_outlines(new, [make_ellipse(*values, *to_numbers([shape.get("theta") or 0]))])
    elif kind == "polygon":
        annotation.add_outlines(new, [to_outline(shape.get("all_points_x"), shape.get("all_points_y"))])
    else:
        raise ValueError(f"a region of kind {str(kind)[:40]!r} is not supported")
