"""PASCAL VOC's XML annotations, read so that whatever is wrong with one is said with its line.

The tree is built straight from expat, which knows the lines; a file that declares a document type, the door to entities
that multiply, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from datasets.readers.tables import CHECK, number_in, quoted, whole_in
from maskrcnn.config import UserError

_DEEPEST = 50
_LONGEST = 1_000_000  # side of an image


@dataclass
class VocObject:
    """An object: its name, its box x1 y1 x2 y2 in continuous pixels, and where it stands in the file."""

    line: int
    name: str
    difficult: bool
    box: tuple[float, float, float, float]


@dataclass
class VocAnnotation:
    """The objects of an image in the file's order, and its size (H, W) where the file says it (0 x 0 says nothing)."""

    size: tuple[int, int] | None
    objects: list[VocObject]


@dataclass
class _Element:
    tag: str
    line: int
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def first(self, tag: str) -> _Element | None:
        return next((child for child in self.children if child.tag == tag), None)


def read_annotation(path: Path, first_pixel: int = 1) -> VocAnnotation:
    """An XML file's objects, with continuous boxes.

    Those of the file count pixels from 1 and have the last pixel inside, or, if ``first_pixel`` is 0, from 0 and end
    where their width does: x1 - first, y1 - first, x2, y2 in both cases.

    Raises:
        UserError: unreadable, not XML, not an annotation, or an object without a name or four numbers; names the line.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise UserError(f"{path}:{root.line}: is no VOC annotation but <{root.tag[:60]}>; {CHECK}")
    objects = [child for child in root.children if child.tag == "object"]
    size = root.first("size")
    sides = (0, 0) if size is None else (_side(path, size, "height"), _side(path, size, "width"))
    return VocAnnotation(
        None if sides == (0, 0) else sides,
        [_object(path, element, number, first_pixel) for number, element in enumerate(objects, start=1)],
    )


def _object(path: Path, element: _Element, number: int, first: int) -> VocObject:
    name, box = _text(path, element, "name", number), element.first("bndbox")
    if box is None:
        raise UserError(f"{path}:{element.line}: object {number} has no <bndbox>; {CHECK}")
    x1, y1, x2, y2 = (_coordinate(path, box, key, number) for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult = element.first("difficult")
    said = "0" if difficult is None else difficult.text.strip()
    if difficult is not None and said not in ("", "0", "1"):
        raise UserError(f"{path}:{difficult.line}: difficult of object {number} is {quoted(said)}; it must be 0 or 1")
    return VocObject(element.line, name, said == "1", (x1 - first, y1 - first, x2, y2))


def _coordinate(path: Path, box: _Element, key: str, number: int) -> float:
    where = box.first(key) or box
    return number_in(_text(path, box, key, number), f"{path}:{where.line}", f"{key} of object {number}")


def _text(path: Path, element: _Element, tag: str, number: int) -> str:
    child = element.first(tag)
    text = "" if child is None else child.text.strip()
    if not text:
        raise UserError(f"{path}:{element.line}: object {number} has no <{tag}>; {CHECK}")
    return text


def _side(path: Path, size: _Element, tag: str) -> int:
    child = size.first(tag)
    if child is None:
        raise UserError(f"{path}:{size.line}: <size> has no <{tag}>; {CHECK}")
    return whole_in(child.text.strip(), f"{path}:{child.line}", tag, _LONGEST, least=0)


def _parse(path: Path) -> _Element:
    """The root element."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such annotation file; add it, or take the image out of the list") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {CHECK}") from error
    top = _Element("", 0)
    parser = expat.ParserCreate()
    _build(path, parser, top)
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not valid XML ({expat.ErrorString(error.code)}); {CHECK}"
        ) from error
    except UserError:
        raise
    except (LookupError, ValueError) as error:  # the encoding that it declares
        raise UserError(f"{path}:1: is not valid XML ({' '.join(str(error).split())[:120]}); {CHECK}") from error
    return top.children[0]


def _build(path: Path, parser: expat.XMLParserType, top: _Element) -> None:
    """Have the parser hang what it reads below ``top``."""
    open_elements = [top]

    def start(tag: str, _: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber)
        if len(open_elements) > _DEEPEST:
            raise UserError(f"{path}:{element.line}: its elements are nested more than {_DEEPEST} deep; {CHECK}")
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        open_elements.pop()

    def text(data: str) -> None:
        open_elements[-1].text += data

    def document_type(*_: object) -> None:
        line = parser.CurrentLineNumber
        raise UserError(f"{path}:{line}: declares a document type (DOCTYPE), which annotations need not; remove it")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, document_type
