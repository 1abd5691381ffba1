"""Streaming reader for large JSON files: yields the entries of lists one by one, with their offset in the file.

Chunks are decoded as Latin-1, so that offsets in the text are offsets in the file. Entries with non-ASCII characters
are then decoded again as UTF-8.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn

from maskrcnn.config import UserError

CHUNK = 1 << 20  # bytes read at a time
MAX_ENTRY = 1 << 26  # bytes; limits the memory that an invalid file can take
_BOM = b"\xef\xbb\xbf"
_MAX_NUMBER_TAIL = 3  # characters after a number that may still belong to it, as in "1e+"
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class JsonEntry(NamedTuple):
    """An entry of the list `key`: its value, and its offset and length in the file in bytes."""

    key: str
    value: Any
    offset: int
    length: int


class FileStamp(NamedTuple):
    """Size and modification time, to detect that a file has changed."""

    size: int
    modified: int


class JsonStream:
    """Reader of the JSON object in the file `path`, to be used once, in a `with` block.

    `keys` holds the keys of the object read so far. Unreadable files and invalid JSON raise a `UserError` with file and
    line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.keys: set[str] = set()
        self._text, self._at, self._base = "", 0, 0
        self._ascii = True

    def __enter__(self) -> "JsonStream":
        try:
            self._file: BinaryIO = open(self.path, "rb")
            if self._file.read(len(_BOM)) != _BOM:
                self._file.seek(0)
            self._base = self._file.tell()
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        self.stamp = _stamp_of(self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def entries(self, wanted: Sequence[str]) -> Iterator[JsonEntry]:
        """Yield every entry of the lists under the keys `wanted`, in file order; other keys are skipped."""
        if self._peek() != "{":
            self._fail("the file must contain a JSON object")
        for key in self._members():
            if key in self.keys and key in wanted:
                self._fail(f"key '{key}' appears twice")
            self.keys.add(key)
            if key not in wanted:
                self._skip()
            elif self._peek() != "[":
                self._fail(f"'{key}' must be a list")
            else:
                for _ in self._elements():
                    yield JsonEntry(key, *self._value())
        if self._peek():
            self._fail("extra data")

    def _members(self) -> Iterator[str]:
        """Yield the keys of the object that starts here; the caller consumes the values."""
        for _ in self._elements():
            if self._peek() != '"':
                self._fail("expecting a key in double quotes")
            key = self._value()[0]
            if self._peek() != ":":
                self._fail("expecting ':'")
            self._at += 1
            self._peek()
            yield key

    def _elements(self) -> Iterator[None]:
        """Stop at the start of each element of the list or object that starts here; the caller consumes it."""
        closing = "]" if self._peek() == "[" else "}"
        self._at += 1
        if self._peek() == closing:
            self._at += 1
            return
        while True:
            self._peek()
            yield
            sign = self._peek()
            if sign != "," and sign != closing:
                self._fail(f"expecting ',' or '{closing}'")
            self._at += 1
            if sign == closing:
                return

    def _skip(self, depth: int = 0) -> None:
        """Skip the value that starts here in parts, so that a large one needs no memory."""
        sign = self._peek()
        if depth > 1 or sign not in ("[", "{"):
            self._value()
            return
        for _ in self._members() if sign == "{" else self._elements():
            self._skip(depth + 1)

    def _value(self) -> tuple[Any, int, int]:
        """Return the value that starts here, its offset and its length."""
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # The value may be incomplete only because the rest has not been read yet.
                if not self._grow():
                    self._fail(error.msg, error.pos)
                continue
            except RecursionError:
                self._fail("nested too deeply")
            except ValueError:
                self._fail("a number with thousands of digits")
            if isinstance(value, dict | list | str) or end + _MAX_NUMBER_TAIL <= len(self._text):
                break
            if not self._grow():
                break
        begin, self._at = self._at, end
        if not self._ascii and not self._text[begin:end].isascii():
            value = self._as_utf8(begin, end)
        return value, self._base + begin, end - begin

    def _as_utf8(self, begin: int, end: int) -> Any:
        try:
            return json.loads(self._text[begin:end].encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError as error:
            self._fail("its text is not UTF-8", begin + error.start)

    def _peek(self) -> str:
        """Advance to the next character that is not whitespace and return it; empty at the end of the file."""
        while True:
            sign = self._text[self._at : self._at + 1]
            if sign and sign not in " \t\n\r":
                return sign
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # also matches the empty string
            if self._at == len(self._text) and not self._grow():
                return ""

    def _grow(self) -> bool:
        """Drop the consumed text and read more, in proportion to the current entry; false at the end of the file."""
        rest = self._text[self._at :]
        if len(rest) >= MAX_ENTRY:
            self._fail(f"invalid, or an entry of more than {MAX_ENTRY >> 20} MiB")
        try:
            more = self._file.read(max(CHUNK, len(rest)))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if more:
            self._base += self._at
            self._text, self._at = rest + more.decode("latin-1"), 0
            self._ascii = self._text.isascii()
        return bool(more)

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        place = self._base + (self._at if at is None else at)
        raise UserError(
            f"{self.path}:{find_line(self.path, place)}: is not valid JSON of the expected form "
            f"({reason}, at byte {place}); fix the file or download it again"
        )


def find_line(path: Path, offset: int) -> int:
    """Return the line number, from 1, of the byte at `offset`."""
    line = 1
    try:
        with open(path, "rb") as file:
            while offset > 0 and (piece := file.read(min(CHUNK, offset))):
                line, offset = line + piece.count(b"\n"), offset - len(piece)
    except OSError:
        pass  # the file is gone; the caller reports a more important error
    return line


def read_entries(path: Path, stamp: FileStamp, places: Sequence[tuple[int, int]]) -> list[Any]:
    """Read entries of a file that was streamed before.

    Args:
        path: the file.
        stamp: its stamp at the time.
        places: offset and length of each entry, in bytes.

    Returns:
        The value of each entry.

    Raises:
        UserError: If the file cannot be read, or has changed since.
    """
    values = []
    try:
        with open(path, "rb") as file:
            same = _stamp_of(file) == stamp
            for offset, length in places if same else ():
                file.seek(offset)
                values.append(json.loads(file.read(length).decode("utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError):
        same = False
    except OSError as error:
        raise _unreadable(path, error) from error
    if not same:
        raise UserError(f"{path}: has changed since the data set was opened; open it again")
    return values


def _stamp_of(file: BinaryIO) -> FileStamp:
    status = os.fstat(file.fileno())
    return FileStamp(status.st_size, status.st_mtime_ns)


def _unreadable(path: Path, error: OSError | ValueError) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be read ({reason}); check the path of the annotations")
