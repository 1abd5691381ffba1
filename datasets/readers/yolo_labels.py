"""Text files of YOLO labels: one line per object, in fractions of the image.

`class x y width height` is a box by its center, `class x1 y1 x2 y2 x3 y3 …` a polygon. Four points may also be a
rotated box (YOLO-OBB): its polygon is the same. Boxes may be followed by a score, and in pose data by key points.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.readers.tables import quote, read_lines
from maskrcnn.config import UserError

BOX, POLYGON, ROTATED = 5, 7, 9  # numbers in a line: a box, the smallest polygon, four points
_TOLERANCE = 0.01  # beyond 0 and 1, as Ultralytics allows; such objects are clipped
_ROUNDING = 2e-6  # tools write six decimals
_FIX = "fix the line, or use --skip_bad to leave the object out"
Floats = NDArray[np.float64]


class YoloObject(NamedTuple):
    """An object: its line in the file, class, and either x, y, width, height or the points x1, y1, … of a polygon."""

    line: int
    number: int
    values: Floats

    @property
    def is_box(self) -> bool:
        """Whether it is a box by its center."""
        return len(self.values) == BOX - 1

    def to_ring(self, size: tuple[int, int]) -> Floats:
        """Return the points of a polygon in pixels of an image of `size` (H, W), [K, 2]; none of a box."""
        points = self.values[: 0 if self.is_box else None].reshape(-1, 2)
        return points * np.array([size[1], size[0]], np.float64)

    def to_box(self, size: tuple[int, int]) -> Floats:
        """Return the box x1 y1 x2 y2 in pixels of an image of `size` (H, W).

        A side that exceeds the image by the rounding of the file is moved to the edge.
        """
        if self.is_box:
            center, extent = self.values[:2], self.values[2:]
            corners = np.array([center - extent / 2, center + extent / 2])
        else:
            points = self.values.reshape(-1, 2)
            corners = np.array([points.min(axis=0), points.max(axis=0)])
        edge = corners.clip(0, 1)
        corners = np.where(np.abs(corners - edge) <= _ROUNDING, edge, corners)
        return (corners * np.array([size[1], size[0]], np.float64)).ravel()


@dataclass
class Scan:
    """Summary of label files by the number of words per line, without checking the values.

    Attributes:
        objects: number of lines.
        polygons: number of lines with polygons.
        rotated: number of polygons with four points.
        scored: number of boxes with a sixth number.
        highest_class: maximum class number, or -1 if there is none.
    """

    objects: int = 0
    polygons: int = 0
    rotated: int = 0
    scored: int = 0
    highest_class: int = -1

    def add(self, path: Path | str) -> None:
        """Add the lines of a file; unreadable files are skipped, because reading their image raises the error."""
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            return
        for line in lines:
            words = line.split()
            count = len(words)
            if not count:
                continue
            self.objects += 1
            if count >= POLYGON:
                self.polygons += 1
                self.rotated += count == ROTATED
            elif count == BOX + 1:
                self.scored += 1
            first = words[0]
            if len(first) < 7 and first.isdigit():
                self.highest_class = max(self.highest_class, int(first))


def scan_files(paths: Iterable[Path | str]) -> Scan:
    """Scan label files."""
    scan = Scan()
    for path in paths:
        scan.add(path)
    return scan


def read_objects(
    path: Path, classes: Mapping[int, str], has_key_points: bool = False, skip_bad: bool = False
) -> tuple[list[YoloObject], int]:
    """Read the objects of an image.

    Args:
        path: the file.
        classes: class names by number.
        has_key_points: only the box at the start of each line is read.
        skip_bad: leave out invalid lines.

    Returns:
        The objects, and the number of lines left out.

    Raises:
        UserError: If the file cannot be read, or a line is invalid; names the line.
    """
    found, skipped = [], 0
    for line, text in read_lines(path):
        try:
            found.append(_parse_line(text, line, f"{path}:{line}", classes, has_key_points))
        except UserError:
            if not skip_bad:
                raise
            skipped += 1
    return found, skipped


def _parse_line(text: str, line: int, where: str, classes: Container[int], has_key_points: bool) -> YoloObject:
    words = text.split()
    try:
        values = np.array(list(map(float, words)), np.float64)
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise UserError(f"{where}: {quote(wrong)} is not a number; {_FIX}") from None
    count = len(values)
    if count > BOX and has_key_points:
        values = values[:BOX]
    elif count == BOX + 1:
        values = values[:BOX]  # the score of a prediction
    elif count < BOX or (count > BOX and count % 2 == 0):
        raise UserError(
            f"{where}: has {count} numbers; a box has {BOX} (class x y width height), a polygon {POLYGON} or more "
            f"(class x1 y1 x2 y2 x3 y3 …); {_FIX}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{where}: has a number that is not finite; {_FIX}")
    number, values = values[0], values[1:]
    if number not in classes:
        raise UserError(f"{where}: unknown class {words[0][:20]} (classes: {_list_numbers(classes)}); {_FIX}")
    if values.min() < -_TOLERANCE or values.max() > 1 + _TOLERANCE:
        worst = values[np.abs(values - 0.5).argmax()]
        raise UserError(f"{where}: {worst:g} is out of range: values are fractions of the image, from 0 to 1; {_FIX}")
    return YoloObject(line, int(number), values)


def _is_number(word: str) -> bool:
    try:
        return not math.isnan(float(word)) or True
    except ValueError:
        return False


def _list_numbers(classes: Container[int]) -> str:
    numbers = sorted(classes) if isinstance(classes, Iterable) else []
    if not numbers:
        return "none"
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
