"""QuPath: GeoJSON files of annotations, detections and cells, one per image.

Structure from QuPath's documentation ("Exporting annotations", "GeoJSON") and `QuPathTypeAdapters`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey
from datasets.readers.tools.files import (
    ImageFiles,
    get_dict,
    get_list,
    get_name,
    name_images,
    read_bytes,
    read_json,
    walk,
)
from datasets.readers.tools.shapes import ANY_CLASS, NO_AREA, TOO_FEW, Annotation, Points, Shape, join_holes, to_points
from maskrcnn.config import UserError

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")
NO_CLASS = "object"
AROUND = "annotations around detections left out"
OTHER = "tiles, TMA cores and regions of interest left out"
MAX_UNPACKED = 1 << 31  # bytes of a compressed file
_SNIFFED = 4096  # bytes
_DETECTED = ("detection", "cell")
_NOT_OBJECTS = ("tile", "tma_core", "root")
_IGNORE = "Ignore*"


def recognize_qupath(root: Path) -> str | None:
    """Return the first GeoJSON file in a folder."""
    return next((path.relative_to(root).as_posix() for path in _find_files(root)), None)


def _find_files(root: Path) -> Iterator[Path]:
    return (path for path in walk(root, SUFFIXES) if _is_geojson(path))


def _is_geojson(path: Path) -> bool:
    if ".geojson" in path.name.lower():  # also if it is broken
        return True
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
        if path.name.lower().endswith(".gz"):
            start = zlib.decompressobj(wbits=31).decompress(start, _SNIFFED)
    except (OSError, zlib.error):
        return False
    return b'"type":"Feature' in b"".join(start.split())


def find_qupath(root: Path, nuclei: bool = False) -> Contents:
    """List the images with a GeoJSON file of their name.

    Args:
        root: folder of the data set.
        nuclei: take the nucleus of a cell instead of the cell.

    Raises:
        UserError: If there are no such files, or one has no image.
    """
    files = list(_find_files(root))
    if not files:
        raise UserError(f"{root}: has no GeoJSON files of QuPath; check --dataset_root")
    images = ImageFiles(root)
    found = [_find_image(path, images) for path in files]
    names = name_images(found, root)
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"{found[names.index(twice)]}: has several GeoJSON files; keep one of them")

    def item(name: str, image: Path, path: Path) -> AnnotatedImage:
        return AnnotatedImage(name, image, (path,), lambda: read_qupath(path, nuclei))

    listed = [item(*each) for each in zip(names, found, files, strict=True)]
    class_names, has_masks = survey(listed)
    unused = images.count_unused()
    return Contents(listed, class_names, has_masks, left_out={NOT_ANNOTATED: unused} if unused else {})


def _find_image(path: Path, images: ImageFiles) -> Path:
    stem = path.name[: path.name.lower().rindex("json") - 1].removesuffix(".geo")
    found = images.find(stem, path.parent) or images.find_by_stem(stem, path.parent)
    found = found or images.find_by_stem(stem.partition(".")[0], path.parent)
    if found is None:
        raise UserError(f"{path}: has no image of its name; put the image {stem}.* next to it, or remove this file")
    return found


def read_qupath(path: Path, nuclei: bool = False) -> Annotation:
    """Read a GeoJSON file: a feature, a list of features or a FeatureCollection, maybe compressed by gzip.

    Holes of polygons are not inside, and the parts of a MultiPolygon are one object. Where there are detections or
    cells, annotations are regions around them and left out; so are tiles, TMA cores and regions of classes that end in
    "*", which QuPath does not count. Those of class "Ignore*" are ignored objects. Objects without a class have the
    class "object".

    Args:
        path: the file.
        nuclei: take the nucleus of a cell instead of the cell.

    Raises:
        UserError: If the file is not readable or not GeoJSON.
    """
    data = read_json(path, _unpack(path))
    try:
        features = _list_features(data)
    except ValueError as error:
        raise UserError(f"{path}: is not GeoJSON of QuPath: {error}; check the data set") from error
    annotation = Annotation()
    kinds = [_get_kind(feature) for feature in features]
    has_detections = any(kind in _DETECTED for kind in kinds)
    for number, (kind, feature) in enumerate(zip(kinds, features, strict=True), start=1):
        if kind in _NOT_OBJECTS:
            annotation.drop(OTHER)
        elif has_detections and kind not in _DETECTED:
            annotation.drop(AROUND)
        else:
            try:
                _add(annotation, get_dict(feature), number, nuclei)
            except ValueError as error:
                annotation.invalid.append(f"feature {number}: {error}")
    return annotation


def _unpack(path: Path) -> bytes:
    content = read_bytes(path)
    if not path.name.lower().endswith(".gz"):
        return content
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(content, MAX_UNPACKED)
    except (zlib.error, MemoryError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); check the file") from error
    if not unpacker.eof:
        reason = "is too large" if unpacker.unconsumed_tail else "is truncated"
        raise UserError(f"{path}: {reason}; check the file")
    return unpacked


def _list_features(data: Any) -> list[Any]:
    if isinstance(data, list):
        return data
    kind = get_dict(data).get("type")
    if kind == "FeatureCollection":
        return get_list(data.get("features"), "features")
    if kind == "Feature":
        return [data]
    raise ValueError("its 'type' must be Feature or FeatureCollection")


def _get_properties(feature: Any) -> dict[str, Any]:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    return properties if isinstance(properties, dict) else {}


def _get_kind(feature: Any) -> str:
    properties = _get_properties(feature)
    kind = properties.get("objectType") or properties.get("object_type") or ""
    if not kind and isinstance(feature, dict) and isinstance(feature.get("id"), str):  # QuPath 0.2
        kind = feature["id"].removeprefix("PathRoot").removeprefix("Path").removesuffix("Object")
    return str(kind).lower()


def _add(annotation: Annotation, feature: dict[str, Any], number: int, nuclei: bool) -> None:
    name = _get_class(_get_properties(feature))
    if name.endswith("*") and name != _IGNORE:
        annotation.drop(OTHER)
        return
    nucleus = feature.get("nucleusGeometry")
    geometry = get_dict(nucleus if nucleus and (nuclei or not feature.get("geometry")) else feature.get("geometry"))
    polygons = _list_polygons(annotation, geometry)
    if polygons is None:
        annotation.drop(NO_AREA)
        return
    outlines = [join_holes(rings) for rings in polygons if rings]
    annotation.drop(TOO_FEW, len(polygons) - len(outlines))
    ignore = name == _IGNORE
    annotation.add_outlines(Shape(number, ANY_CLASS if ignore else name, ignore=ignore), outlines)


def _get_class(properties: dict[str, Any]) -> str:
    given = properties.get("classification")
    if isinstance(given, dict):
        names = given.get("names")
        given = ": ".join(map(str, names)) if isinstance(names, list) and names else given.get("name")
    return NO_CLASS if given in (None, "") else get_name(given, "classification")


def _list_polygons(annotation: Annotation, geometry: dict[str, Any]) -> list[list[Points]] | None:
    """Return the rings of each polygon, without those of fewer than three points; None for lines and points."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        parts = [
            _list_polygons(annotation, get_dict(part)) for part in get_list(geometry.get("geometries"), "geometries")
        ]
        found = [polygon for part in parts if part is not None for polygon in part]
        return found or None
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"geometry of type {str(kind)[:40]!r} is not supported")
    polygons = [coordinates] if kind == "Polygon" else get_list(coordinates, "coordinates")
    return [_get_rings(annotation, polygon) for polygon in polygons]


def _get_rings(annotation: Annotation, polygon: Any) -> list[Points]:
    rings = [_open(to_points(ring)) for ring in get_list(polygon, "coordinates")]
    if not rings or len(rings[0]) < 3:
        return []
    kept = [ring for ring in rings if len(ring) >= 3]
    annotation.drop(TOO_FEW, len(rings) - len(kept))
    return kept


def _open(ring: Points) -> Points:
    """Return a ring without its last point where that repeats the first, as GeoJSON has it."""
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring
