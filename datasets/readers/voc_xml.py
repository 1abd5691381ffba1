"""Reader of PASCAL VOC XML annotations; errors name the line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.readers.tables import CHECK, parse_integer, parse_number, quote
from datasets.readers.xml_tree import Element, parse_xml
from maskrcnn.config import UserError

_MAX_SIDE = 1_000_000  # pixels


@dataclass
class VocObject:
    """An object: its line in the file, class name, and box x1 y1 x2 y2 in continuous pixel coordinates."""

    line: int
    name: str
    difficult: bool
    box: tuple[float, float, float, float]


@dataclass
class VocAnnotation:
    """Objects of an image in file order, and its size (H, W) if the file gives one (other than 0 x 0)."""

    size: tuple[int, int] | None
    objects: list[VocObject]


def read_annotation(path: Path, first_pixel: int = 1) -> VocAnnotation:
    """Read an annotation file.

    Boxes that count pixels from 1 include the last pixel; those that count from 0 exclude it. In both cases the
    continuous coordinates are x1 - first, y1 - first, x2, y2.

    Args:
        path: the XML file.
        first_pixel: number of the first pixel in the file, 0 or 1.

    Raises:
        UserError: If the file is unreadable or not a VOC annotation, or an object has no name or valid box.
    """
    root = parse_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path}:{root.line}: is not a VOC annotation but <{root.tag[:60]}>; {CHECK}")
    objects = [child for child in root.children if child.tag == "object"]
    size = root.find("size")
    sides = (0, 0) if size is None else (_side(path, size, "height"), _side(path, size, "width"))
    return VocAnnotation(
        None if sides == (0, 0) else sides,
        [_object(path, element, number, first_pixel) for number, element in enumerate(objects, start=1)],
    )


def _object(path: Path, element: Element, number: int, first: int) -> VocObject:
    name, box = _text(path, element, "name", number), element.find("bndbox")
    if box is None:
        raise UserError(f"{path}:{element.line}: object {number} has no <bndbox>; {CHECK}")
    x1, y1, x2, y2 = (_coordinate(path, box, key, number) for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult = element.find("difficult")
    flag = "0" if difficult is None else difficult.text.strip()
    if difficult is not None and flag not in ("", "0", "1"):
        raise UserError(f"{path}:{difficult.line}: difficult of object {number} is {quote(flag)}; it must be 0 or 1")
    return VocObject(element.line, name, flag == "1", (x1 - first, y1 - first, x2, y2))


def _coordinate(path: Path, box: Element, key: str, number: int) -> float:
    where = box.find(key) or box
    return parse_number(_text(path, box, key, number), f"{path}:{where.line}", f"{key} of object {number}")


def _text(path: Path, element: Element, tag: str, number: int) -> str:
    child = element.find(tag)
    text = "" if child is None else child.text.strip()
    if not text:
        raise UserError(f"{path}:{element.line}: object {number} has no <{tag}>; {CHECK}")
    return text


def _side(path: Path, size: Element, tag: str) -> int:
    child = size.find(tag)
    if child is None:
        raise UserError(f"{path}:{size.line}: <size> has no <{tag}>; {CHECK}")
    return parse_integer(child.text.strip(), f"{path}:{child.line}", tag, _MAX_SIDE, minimum=0)
