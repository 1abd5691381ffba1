"""Supervisely: `meta.json`, and one JSON file per image in the folders `ann`, with images in the folders `img`.

Structure from Supervisely's documentation ("Annotation JSON format"). Coordinates are pixel indices.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey
from datasets.readers.tools.files import (
    ImageFiles,
    get_dict,
    get_list,
    get_name,
    get_size,
    name_images,
    read_json,
    recognize_content,
    walk,
)
from datasets.readers.tools.labelme import decode_bitmap
from datasets.readers.tools.shapes import (
    NO_AREA,
    TOO_FEW,
    Annotation,
    Bitmap,
    Points,
    Shape,
    join_holes,
    to_numbers,
    to_points,
)
from maskrcnn.config import UserError
from maskrcnn.text import describe_error

META = "meta.json"
_FOLDER = "ann"
_WITHOUT_AREA = ("line", "polyline", "point", "graph", "cuboid")
_BITMAPS = ("bitmap", "alpha_mask")
_MAX_UNPACKED = 1 << 28  # bytes


def recognize_supervisely(root: Path) -> str | None:
    """Return the first annotation file of Supervisely in a folder."""
    return recognize_content(root, (".json",), b'"objects"', b'"classTitle"')


def find_supervisely(root: Path) -> Contents:
    """List the images of a project, with the classes of `meta.json`.

    Raises:
        UserError: If there are no annotation files, `meta.json` is invalid, or an image is missing.
    """
    files = [path for path in walk(root, (".json",)) if path.parent.name == _FOLDER]
    if not files:
        raise UserError(f"{root}: has no folder ann with Supervisely's JSON files; check --dataset_root")
    images = ImageFiles(root)
    found = []
    for path in files:
        name, folder = path.name.removesuffix(".json"), path.parent.parent / "img"
        image = images.find(name, folder) or images.find_by_stem(name, folder)
        if image is None:
            raise UserError(f"{path}: image {name} is missing in {folder}; export the project with its images")
        found.append(image)

    def item(name: str, image: Path, path: Path) -> AnnotatedImage:
        return AnnotatedImage(name, image, (path,), lambda: read_supervisely(path))

    listed = [item(*each) for each in zip(name_images(found, root), found, files, strict=True)]
    names, has_masks = survey(listed)
    known = _read_classes(root / META)
    unused = images.count_unused()
    return Contents(
        listed,
        (*known, *(name for name in names if name not in known)),
        has_masks,
        left_out={NOT_ANNOTATED: unused} if unused else {},
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    try:
        classes = get_list(get_dict(read_json(path)).get("classes"), "classes")
        return tuple(dict.fromkeys(get_name(get_dict(each).get("title"), "title") for each in classes))
    except ValueError as error:
        raise UserError(f"{path}: is not the file of a project of Supervisely: {error}; check the data set") from error


def read_supervisely(path: Path) -> Annotation:
    """Read an annotation file: polygons with holes, bitmaps and rectangles.

    Raises:
        UserError: If the file is not readable or not Supervisely's.
    """
    try:
        data = get_dict(read_json(path))
        objects, size = get_list(data.get("objects"), "objects"), get_dict(data.get("size") or {})
    except ValueError as error:
        raise UserError(f"{path}: is not a file of Supervisely: {error}; check the data set") from error
    annotation = Annotation(get_size(size.get("height"), size.get("width")))
    for number, each in enumerate(objects, start=1):
        try:
            _add(annotation, get_dict(each), number)
        except ValueError as error:
            annotation.invalid.append(f"object {number}: {error}")
    return annotation


def _add(annotation: Annotation, given: dict[str, Any], number: int) -> None:
    kind = given.get("geometryType") or ("bitmap" if given.get("bitmap") else "polygon")  # older files name no type
    if kind in _WITHOUT_AREA:
        annotation.drop(NO_AREA)
        return
    new = Shape(number, get_name(given.get("classTitle"), "classTitle"))
    if kind in _BITMAPS:
        annotation.shapes.append(replace(new, bitmaps=(_read_bitmap(get_dict(given.get("bitmap"))),)))
        return
    points = get_dict(given.get("points"))
    exterior = to_points(points.get("exterior"))
    if kind == "rectangle":
        if len(exterior) != 2:
            raise ValueError(f"a rectangle must have 2 points, but has {len(exterior)}")
        low, high = exterior.min(axis=0), exterior.max(axis=0) + 1  # the last pixel is inside
        annotation.shapes.append(replace(new, box=(*low.tolist(), *high.tolist())))
    elif kind == "polygon":
        holes = [to_points(hole) for hole in get_list(points.get("interior") or [], "interior")]
        annotation.drop(TOO_FEW, sum(len(hole) < 3 for hole in holes))
        rings = [exterior, *(hole for hole in holes if len(hole) >= 3)]
        annotation.add_outlines(new, [_join(rings)] if len(exterior) >= 3 else [exterior])
    else:
        raise ValueError(f"geometryType {str(kind)[:40]!r} is not supported")


def _join(rings: list[Points]) -> Points:
    return join_holes([ring + 0.5 for ring in rings])  # from pixel indices to pixel centers


def _read_bitmap(bitmap: dict[str, Any]) -> Bitmap:
    origin, data = get_list(bitmap.get("origin"), "origin"), bitmap.get("data")
    if len(origin) != 2 or not isinstance(data, str):
        raise ValueError("a bitmap must have 'origin' [x, y] and 'data' in base64")
    x, y = (round(each) for each in to_numbers(origin))
    try:
        content = base64.b64decode(data)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"its bitmap is not valid base64 ({describe_error(error, 80)})") from error
    if not content.startswith(b"\x89PNG"):
        try:
            content = zlib.decompressobj().decompress(content, _MAX_UNPACKED)
        except zlib.error as error:
            raise ValueError(f"its bitmap cannot be unpacked ({describe_error(error, 80)})") from error
    return Bitmap(x, y, decode_bitmap(content))
