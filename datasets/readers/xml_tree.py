"""Parser of XML files to a tree of elements that know their lines.

The tree is built with expat, which knows the line numbers. Files with a document type declaration are rejected, because
it allows entity expansion attacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from datasets.readers.tables import CHECK
from maskrcnn.config import UserError
from maskrcnn.text import describe_error

_MAX_DEPTH = 50


@dataclass
class Element:
    """An element: its tag, line in the file, attributes, text and children."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        """Return the first child with this tag."""
        return next((child for child in self.children if child.tag == tag), None)


def parse_xml(path: Path) -> Element:
    """Parse an XML file and return its root element.

    Raises:
        UserError: If the file is missing, unreadable, not valid XML, nested too deep, or has a document type
            declaration.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such annotation file; add it, or remove the image from the list") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {CHECK}") from error
    top = Element("", 0)
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
    except (LookupError, ValueError) as error:  # invalid encoding declaration
        raise UserError(f"{path}:1: is not valid XML ({describe_error(error)}); {CHECK}") from error
    return top.children[0]


def _build(path: Path, parser: expat.XMLParserType, top: Element) -> None:
    """Make the parser add the elements it reads to `top`."""
    open_elements = [top]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, parser.CurrentLineNumber, attributes)
        if len(open_elements) > _MAX_DEPTH:
            raise UserError(f"{path}:{element.line}: elements are nested more than {_MAX_DEPTH} levels deep; {CHECK}")
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        open_elements.pop()

    def text(data: str) -> None:
        open_elements[-1].text += data

    def document_type(*_: object) -> None:
        line = parser.CurrentLineNumber
        raise UserError(f"{path}:{line}: document type declarations (DOCTYPE) are not supported; remove it")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, document_type
