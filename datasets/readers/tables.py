"""Annotation files of text: what is wrong in one is said with its line."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from maskrcnn.config import UserError

CHECK = "check the data set"


def read_text(path: Path) -> str:
    """A file's UTF-8 text; UserError, with the line where it is not UTF-8, if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check that it is there") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; {CHECK}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text ({error.reason}); {CHECK}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers."""
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if line := line.strip():
            yield number, line


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with a header: the number of a row's last line, and its values in the order of ``columns``.

    Blank lines are passed over, and so are other columns.

    Raises:
        UserError: unreadable, no such column, a row of another length than the header, a line break within a field.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in columns:
            if header.count(name) != 1:
                said = "no column" if name not in header else "more than one column"
                raise UserError(f"{path}:1: has {said} '{name}'; the header must have {', '.join(columns)}")
        places = [header.index(name) for name in columns]
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}:{reader.line_num}: has {len(row)} fields but the header {len(header)}")
            if any("\n" in value or "\r" in value for value in row):
                raise UserError(f"{path}:{reader.line_num}: a field goes over several lines; a quote is missing there")
            if row:
                yield reader.line_num, [row[place].strip() for place in places]
    except csv.Error as error:
        raise UserError(f"{path}:{max(1, reader.line_num)}: is not valid CSV ({error}); {CHECK}") from error


def number_in(text: str, where: str, what: str) -> float:
    """``text`` as a number, NaN and infinity included; UserError at ``where`` (file and line) if it is none."""
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: {what} is {quoted(text)}, not a number; {CHECK}") from error


def whole_in(text: str, where: str, what: str, limit: int, least: int = 1) -> int:
    """``text`` as a whole number from ``least`` to ``limit``; UserError at ``where`` if it is none."""
    value = number_in(text, where, what)
    if not (math.isfinite(value) and value == int(value) and least <= value <= limit):
        raise UserError(f"{where}: {what} is {quoted(text)}; it must be a whole number from {least} to {limit}")
    return int(value)


def quoted(text: str) -> str:
    """What a file says, short and in one line."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
