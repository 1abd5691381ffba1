"""Points in CSV files, as counting tools write them: each becomes a box of a given size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.readers.tables import parse_number, quote, read_table
from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey_shapes
from datasets.readers.tools.files import ImageFiles, name_images, walk
from datasets.readers.tools.shapes import Annotation, Shape, to_numbers
from maskrcnn.config import UserError

NO_CLASS = "object"
_X, _Y = ("x", "cx", "axis-1"), ("y", "cy", "axis-0")  # the last of napari
_BOXES = ("width", "height", "w", "h", "x1", "x2", "y1", "y2", "xmin", "xmax", "ymin", "ymax")
_CLASSES = ("class", "label", "category", "type")
_IMAGES = ("image", "filename", "file", "image_name", "image_id")
_SNIFFED = 4096  # bytes


def recognize_points(root: Path) -> str | None:
    """Return the first CSV file with columns x and y, and no others of boxes, in a folder."""
    return next((path.relative_to(root).as_posix() for path in walk(root, (".csv",)) if _is_points(path)), None)


def _is_points(path: Path) -> bool:
    columns = _read_header(path)
    has_points = _choose(columns, _X) is not None and _choose(columns, _Y) is not None
    return has_points and not any(column.lower() in _BOXES for column in columns)


def _read_header(path: Path) -> list[str]:
    """Return the names of the columns; none if the file cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            line = file.readline(_SNIFFED)
    except (OSError, ValueError):
        return []
    return [re.sub(r'^"(.*)"$', r"\1", name.strip()).strip() for name in line.split(",")]


def _choose(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next((column for name in names for column in columns if column.lower() == name), None)


def find_points(root: Path, size: float, masks: bool = False) -> Contents:
    """List the images with points: of one CSV file of their name each, or of CSV files with a column `image`.

    Args:
        root: folder of the data set.
        size: side of the boxes in pixels.
        masks: give objects an empty mask, which is ignored in training, so that the data joins with data with masks.

    Raises:
        UserError: If there is no such file, it is invalid, or an image is missing.
    """
    files = [path for path in walk(root, (".csv",)) if _is_points(path)]
    if not files:
        raise UserError(f"{root}: has no CSV files with columns x and y; check --dataset_root")
    images = ImageFiles(root)
    annotations: dict[Path, Annotation] = {}
    origins: dict[Path, Path] = {}
    for path in files:
        for image, line, values in _read_rows(path, images):
            annotation = annotations.setdefault(image, Annotation())
            origins.setdefault(image, path)
            if values:
                _add(annotation, line, values, size)
    used = survey_shapes(shape for annotation in annotations.values() for shape in annotation.shapes)

    def item(name: str, image: Path) -> AnnotatedImage:
        return AnnotatedImage(name, image, (origins[image],), lambda: annotations[image])

    unused = images.count_unused()
    return Contents(
        [item(name, image) for name, image in zip(name_images(list(annotations), root), annotations, strict=True)],
        tuple(sorted(used.names)),
        masks,
        left_out={NOT_ANNOTATED: unused} if unused else {},
    )


def _read_rows(path: Path, images: ImageFiles) -> Iterator[tuple[Path, int, list[str]]]:
    """Yield the image, line, and x, y and class of each point; without values for an image that has no points."""
    columns = _read_header(path)
    x, y, kind, image = (_choose(columns, names) for names in (_X, _Y, _CLASSES, _IMAGES))
    if x is None or y is None:
        raise UserError(f"{path}: has no columns x and y; check the data set")
    if image is None:
        found = images.find_by_stem(path.stem, path.parent)
        if found is None:
            raise UserError(f"{path}: has no image of its name; put it next to the file, or add a column 'image'")
        yield found, 0, []
    wanted = [x, y, *([kind] if kind else []), *([image] if image else [])]
    for line, row in read_table(path, wanted):
        if image is not None:
            found = images.find(row[-1], path.parent) or images.find_by_stem(row[-1], path.parent)
            if found is None:
                raise UserError(f"{path}:{line}: image {quote(row[-1])} is missing; put it next to the file")
        assert found is not None
        is_empty = image is not None and not row[0] and not row[1]  # an image without points
        yield found, line, [] if is_empty else [row[0], row[1], row[2] if kind else NO_CLASS]


def _add(annotation: Annotation, line: int, values: Sequence[str], size: float) -> None:
    try:
        x, y = to_numbers([parse_number(value, f"line {line}", "a coordinate") for value in values[:2]])
        if abs(x) > 1e9 or abs(y) > 1e9:
            raise ValueError(f"a coordinate is out of range, {x:g}, {y:g}")
        half = size / 2
        name = values[2].strip() or NO_CLASS
        number = len(annotation.shapes) + 1
        annotation.shapes.append(Shape(number, name, box=(x - half, y - half, x + half, y + half)))
    except (ValueError, UserError) as error:
        text = str(error)
        annotation.invalid.append(text if text.startswith(f"line {line}") else f"line {line}: {text}")
