"""DOTA: oriented boxes in one text file per image, which become masks.

Structure from DOTA's development kit: `images/` and `labelTxt*/`; lines of eight coordinates, class and difficulty.
"""

from __future__ import annotations

import re
from pathlib import Path

from datasets.readers.tables import read_lines
from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey
from datasets.readers.tools.files import ImageFiles, name_images, walk
from datasets.readers.tools.shapes import Annotation, Shape, to_outline
from maskrcnn.config import UserError

_FOLDER = re.compile("labelTxt", re.IGNORECASE)
_LINE = re.compile(r"\s*([-+\d.eE]+\s+){8}[^\W\d]\S*(\s+\d)?\s*")
_HEADERS = ("imagesource:", "gsd:")
_SNIFFED = 20  # files


def recognize_dota(root: Path) -> str | None:
    """Return the first text file of DOTA in a folder."""
    for number, path in enumerate(walk(root, (".txt",))):
        if _is_dota(path):
            return path.relative_to(root).as_posix()
        if number + 1 >= _SNIFFED:
            break
    return None


def _is_dota(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [file.readline(1000) for _ in range(3)]
    except (OSError, ValueError):
        return False
    return lines[0].lower().startswith(_HEADERS) or bool(
        _LINE.fullmatch(next((each for each in lines if each.strip()), ""))
    )


def find_dota(root: Path) -> Contents:
    """List the images with a text file of their name in a folder `labelTxt…`, or else in any folder.

    Raises:
        UserError: If there are no such files, or an image is missing.
    """
    files = list(walk(root, (".txt",)))
    inside = [path for path in files if _FOLDER.match(path.parent.name)]
    files = inside or [path for path in files if _is_dota(path)]
    if not files:
        raise UserError(f"{root}: has no text files of DOTA, such as in labelTxt; check --dataset_root")
    images = ImageFiles(root)
    found = []
    for path in files:
        image = images.find_by_stem(path.stem, path.parent.parent / "images")
        if image is None:
            raise UserError(f"{path}: has no image of its name; put it in images/, or remove this file")
        found.append(image)

    def item(name: str, image: Path, path: Path) -> AnnotatedImage:
        return AnnotatedImage(name, image, (path,), lambda: read_dota(path))

    listed = [item(*each) for each in zip(name_images(found, root), found, files, strict=True)]
    class_names, has_masks = survey(listed)
    unused = images.count_unused()
    return Contents(listed, class_names, has_masks, left_out={NOT_ANNOTATED: unused} if unused else {})


def read_dota(path: Path) -> Annotation:
    """Read a file of DOTA. Difficult objects are ignored ones; the instance ids are numbers of lines.

    Raises:
        UserError: If the file is not readable or not UTF-8.
    """
    annotation = Annotation()
    for line, text in read_lines(path):
        if text.lower().startswith(_HEADERS):
            continue
        words = text.split()
        try:
            if len(words) not in (9, 10):
                raise ValueError(f"has {len(words)} fields; expected x1 y1 x2 y2 x3 y3 x4 y4 class difficult")
            numbers = [float(word) for word in words[:8]]
            difficult = words[9] if len(words) == 10 else "0"
            if not difficult.isdecimal():
                raise ValueError(f"difficult is {difficult[:20]!r}; it must be 0 or 1")
            outline = to_outline(numbers[0::2], numbers[1::2])
            annotation.add_outlines(Shape(line, words[8], ignore=int(difficult) > 0), [outline])
        except ValueError as error:
            annotation.invalid.append(f"line {line}: {error}")
    return annotation
