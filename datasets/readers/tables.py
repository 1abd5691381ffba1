"""Text and CSV annotation files; errors name the line."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from maskrcnn.config import UserError

CHECK = "check the data set"


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        UserError: If the file cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check that it exists") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; {CHECK}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text ({error.reason}); {CHECK}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, stripped, with their line numbers.

    Raises:
        UserError: If the file cannot be read or is not UTF-8.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if line := line.strip():
            yield number, line


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file with a header; blank lines and other columns are skipped.

    Args:
        path: the file.
        columns: names of the columns to read.

    Yields:
        The number of the last line of a row, and its values in the order of `columns`.

    Raises:
        UserError: If the file is unreadable, a column is missing, a row differs in length from the header, or a field
            contains a line break.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in columns:
            if header.count(name) != 1:
                problem = "no column" if name not in header else "more than one column"
                raise UserError(f"{path}:1: has {problem} '{name}'; the header must have {', '.join(columns)}")
        places = [header.index(name) for name in columns]
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}:{reader.line_num}: has {len(row)} fields but the header {len(header)}")
            if any("\n" in value or "\r" in value for value in row):
                raise UserError(f"{path}:{reader.line_num}: a field spans several lines; probably a quote is missing")
            if row:
                yield reader.line_num, [row[place].strip() for place in places]
    except csv.Error as error:
        raise UserError(f"{path}:{max(1, reader.line_num)}: is not valid CSV ({error}); {CHECK}") from error


def parse_number(text: str, where: str, what: str) -> float:
    """Parse a number; NaN and infinity are allowed.

    Args:
        text: the number.
        where: file and line, for error messages.
        what: what the number is, for error messages.

    Raises:
        UserError: If the text is not a number.
    """
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: {what} is {quote(text)}, not a number; {CHECK}") from error


def parse_integer(text: str, where: str, what: str, maximum: int, minimum: int = 1) -> int:
    """Parse an integer.

    Args:
        text: the number.
        where: file and line, for error messages.
        what: what the number is, for error messages.
        maximum: largest allowed value.
        minimum: smallest allowed value.

    Raises:
        UserError: If the text is not an integer, or out of range.
    """
    value = parse_number(text, where, what)
    if not (math.isfinite(value) and value == int(value) and minimum <= value <= maximum):
        raise UserError(f"{where}: {what} is {quote(text)}; it must be an integer from {minimum} to {maximum}")
    return int(value)


def quote(text: str) -> str:
    """Quote text from a file, shortened and on one line."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
