"""A large JSON object read piece by piece: its lists entry by entry, each with its place in the file.

The pieces are decoded as Latin-1, so that a place in the text is a place in the file; an entry that holds other than
ASCII is decoded again, as UTF-8.
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
MAX_ENTRY = 1 << 26  # bytes: what a broken file can make us hold
_BOM = b"\xef\xbb\xbf"
_LONGEST_NUMBER_TAIL = 3  # of what is not yet seen to be part of a number: "1e+"
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class Entry(NamedTuple):
    """An entry of the list ``key``: its value, and where its text lies in the file, in bytes."""

    key: str
    value: Any
    offset: int
    length: int


class Stamp(NamedTuple):
    """What tells that a file is still the one that was read."""

    size: int
    modified: int


class JsonStream:
    """The JSON object in the file ``path``; to be used in a ``with`` block, once.

    ``keys`` holds the object's keys met so far. UserError, with file and line, for what cannot be read or is not JSON.
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

    def entries(self, wanted: Sequence[str]) -> Iterator[Entry]:
        """Every entry of the lists under the keys ``wanted``, in the order of the file; other keys are skipped."""
        if self._peek() != "{":
            self._fail("the file must hold an object in braces")
        for key in self._members():
            if key in self.keys and key in wanted:
                self._fail(f"key '{key}' is there twice")
            self.keys.add(key)
            if key not in wanted:
                self._skip()
            elif self._peek() != "[":
                self._fail(f"'{key}' must be a list")
            else:
                for _ in self._elements():
                    yield Entry(key, *self._value())
        if self._peek():
            self._fail("extra data")

    def _members(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller takes each one's value."""
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
        """Stops at the begin of each element of the list or object that begins here; the caller takes it."""
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
        """Past the value that begins here, by parts, so that a large one needs no memory."""
        sign = self._peek()
        if depth > 1 or sign not in ("[", "{"):
            self._value()
            return
        for _ in self._members() if sign == "{" else self._elements():
            self._skip(depth + 1)

    def _value(self) -> tuple[Any, int, int]:
        """The value that begins here, its place and its length."""
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Perhaps only because the rest of it is not read yet.
                if not self._grow():
                    self._fail(error.msg, error.pos)
                continue
            except RecursionError:
                self._fail("nested too deeply")
            except ValueError:
                self._fail("a number of thousands of digits")
            if isinstance(value, dict | list | str) or end + _LONGEST_NUMBER_TAIL <= len(self._text):
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
        """The next sign that is no space, which becomes the place; empty at the end of the file."""
        while True:
            sign = self._text[self._at : self._at + 1]
            if sign and sign not in " \t\n\r":
                return sign
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at == len(self._text) and not self._grow():
                return ""

    def _grow(self) -> bool:
        """Reads on, more the longer the entry is, and lets go of what is done; false at the end of the file."""
        rest = self._text[self._at :]
        if len(rest) >= MAX_ENTRY:
            self._fail(f"broken, or an entry of more than {MAX_ENTRY >> 20} MiB")
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
            f"{self.path}:{line_of(self.path, place)}: is not valid JSON of the kind expected "
            f"({reason}, at byte {place}); mend or fetch it again"
        )


def line_of(path: Path, offset: int) -> int:
    """The line, from 1, of the byte at ``offset``."""
    line = 1
    try:
        with open(path, "rb") as file:
            while offset > 0 and (piece := file.read(min(CHUNK, offset))):
                line, offset = line + piece.count(b"\n"), offset - len(piece)
    except OSError:
        pass  # the file has gone since; there is something more important to say
    return line


def read_places(path: Path, stamp: Stamp, places: Sequence[tuple[int, int]]) -> list[Any]:
    """The values at ``places`` (offset, length) of a file that was streamed before.

    Raises:
        UserError: the file cannot be read, or is not the same any more.
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


def _stamp_of(file: BinaryIO) -> Stamp:
    status = os.fstat(file.fileno())
    return Stamp(status.st_size, status.st_mtime_ns)


def _unreadable(path: Path, error: OSError | ValueError) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be read ({reason}); check the path of the annotations")
