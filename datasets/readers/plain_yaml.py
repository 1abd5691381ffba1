"""Reader of the YAML that tools write to describe a data set: mappings, lists and scalars, in block and flow style.

Every scalar is text, so a class may be called `no` or `1.10`. Literal and folded blocks (`download: |`) are skipped.
Anchors, aliases and tags, which can make a small file huge or run code, are errors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from datasets.readers.tables import quote, read_text
from maskrcnn.config import UserError

_MAX_DEPTH = 20
_NULLS = ("", "~", "null", "Null", "NULL")
_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'"""
_KEY = re.compile(rf"({_QUOTED}|[^\s\"'\[\]{{}},&*!|>%@`](?:[^:]|:(?!\s|$))*)\s*:(?=\s|$)")
_FLOW_KEY = re.compile(rf"({_QUOTED})\s*:|([^\[\]{{}},\"':]+):(?=\s)")
_FLOW_SCALAR = re.compile(rf"({_QUOTED}|[^\[\]{{}},]*)\s*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "\\": "\\", "/": "/", " ": " "}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Returns:
        Values by key: text, None, lists and mappings with text as keys.

    Raises:
        UserError: If the file cannot be read, is no mapping, or has a form that is not supported; names the line.
    """
    parser = _Parser(path, list(_split_lines(read_text(path))))
    value = parser.read()
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not YAML with a key per line, such as 'names: [cell]'; check the file")
    return value


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def _split_lines(text: str) -> list[_Line]:
    lines = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        plain = _strip_comment(line).rstrip()
        body = plain.lstrip(" ")
        if body and body not in ("---", "...") and not body.startswith("%"):
            lines.append(_Line(number, len(plain) - len(body), body))
    return lines


def _strip_comment(line: str) -> str:
    """Remove a comment; a # inside quotes or a word starts none."""
    quoted = ""
    for at, sign in enumerate(line):
        before = line[at - 1] if at else " "
        if quoted:
            quoted = "" if sign == quoted and not (quoted == '"' and before == "\\") else quoted
        elif sign in "\"'" and before in " \t[{,:-":
            quoted = sign
        elif sign == "#" and before in " \t":
            return line[:at]
    return line


class _Parser:
    def __init__(self, path: Path, lines: list[_Line]) -> None:
        self._path, self._lines, self._at, self._depth = path, lines, 0, 0

    def read(self) -> Any:
        """Read the whole file."""
        if not self._lines:
            return None
        value = self._read_block(self._lines[0].indent)
        if self._at < len(self._lines):
            self._fail("is indented differently from the lines above")
        return value

    def _read_block(self, indent: int) -> Any:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail("is nested too deeply")
        is_list = _is_item(self._lines[self._at].text)
        value = self._read_list(indent) if is_list else self._read_mapping(indent)
        self._depth -= 1
        return value

    def _read_mapping(self, indent: int) -> Any:
        found: dict[str, Any] = {}
        while (line := self._peek(indent)) is not None and not _is_item(line.text):
            match = _KEY.match(line.text)
            if match is None:
                self._fail("is no 'key: value'")
            key, rest = self._to_text(match[1]), line.text[match.end() :].strip()
            if key in found:
                self._fail(f"has the key {quote(key)} a second time")
            found[key] = self._read_value(indent, rest, in_mapping=True)
        return found

    def _read_list(self, indent: int) -> list[Any]:
        found = []
        while (line := self._peek(indent)) is not None and _is_item(line.text):
            rest = line.text[1:].lstrip()
            if rest[:1] not in ("", '"', "'", "[", "{") and (_KEY.match(rest) or _is_item(rest)):
                inner = indent + len(line.text) - len(rest)
                self._lines[self._at] = _Line(line.number, inner, rest)
                found.append(self._read_block(inner))
            else:
                found.append(self._read_value(indent, rest, in_mapping=False))
        return found

    def _peek(self, indent: int) -> _Line | None:
        line = self._lines[self._at] if self._at < len(self._lines) else None
        return line if line is not None and line.indent == indent else None

    def _read_value(self, indent: int, rest: str, in_mapping: bool) -> Any:
        """Read a value that starts with `rest` on this line."""
        if rest[:1] in ("|", ">"):
            self._at += 1
            while self._at < len(self._lines) and self._lines[self._at].indent > indent:
                self._at += 1
            return ""
        if rest[:1] in ("[", "{"):
            return self._read_flow(rest)
        if rest:
            value = self._to_scalar(rest)
            self._at += 1
            return value
        self._at += 1
        if self._at < len(self._lines):
            below = self._lines[self._at]
            if below.indent > indent or (in_mapping and below.indent == indent and _is_item(below.text)):
                return self._read_block(below.indent)
        return None

    def _read_flow(self, text: str) -> Any:
        """Read a list or mapping in brackets, which may span lines."""
        start = self._at
        while not _is_balanced(text) and self._at + 1 < len(self._lines):
            self._at += 1
            text += f" {self._lines[self._at].text}"
        end, self._at = self._at, start
        value, after = self._parse_flow(text, 0, 0)
        if text[after:].strip():
            self._fail("continues after its closing bracket")
        self._at = end + 1
        return value

    def _parse_flow(self, text: str, at: int, depth: int) -> tuple[Any, int]:
        if depth > _MAX_DEPTH:
            self._fail("is nested too deeply")
        opening = text[at]
        closing = "]" if opening == "[" else "}"
        items: list[Any] = []
        pairs: dict[str, Any] = {}
        at += 1
        while True:
            while text[at : at + 1].isspace():
                at += 1
            if text[at : at + 1] == closing:
                return (items if opening == "[" else pairs), at + 1
            key = None
            if opening == "{":
                match = _FLOW_KEY.match(text, at)
                if match is None:
                    self._fail("has braces without 'key: value'")
                key, at = self._to_text(match[1] or match[2]), match.end()
                while text[at : at + 1].isspace():
                    at += 1
            value, at = self._parse_item(text, at, depth)
            if key is None:
                items.append(value)
            elif key in pairs:
                self._fail(f"has the key {quote(key)} a second time")
            else:
                pairs[key] = value
            while text[at : at + 1].isspace():
                at += 1
            if text[at : at + 1] == ",":
                at += 1
            elif text[at : at + 1] != closing:
                self._fail(f"has no closing '{closing}'")

    def _parse_item(self, text: str, at: int, depth: int) -> tuple[Any, int]:
        if text[at : at + 1] in ("[", "{"):
            return self._parse_flow(text, at, depth + 1)
        match = _FLOW_SCALAR.match(text, at)
        assert match is not None  # it also matches nothing
        return self._to_scalar(match[1].strip()), match.end()

    def _to_scalar(self, text: str) -> str | None:
        if text[:1] in ("&", "*", "!"):
            self._fail(f"has {quote(text)}: anchors, aliases and tags are not supported")
        return None if text in _NULLS else self._to_text(text)

    def _to_text(self, text: str) -> str:
        text = text.strip()
        if text[:1] not in ("'", '"'):
            return text
        if len(text) < 2 or text[-1] != text[0]:
            self._fail("has text without a closing quote")
        if text[0] == "'":
            return text[1:-1].replace("''", "'")
        return re.sub(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", self._unescape, text[1:-1])

    def _unescape(self, match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "ux" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            self._fail(f"has the unknown escape \\{code}")
        return _ESCAPES[code]

    def _fail(self, reason: str) -> NoReturn:
        line = self._lines[min(self._at, len(self._lines) - 1)]
        raise UserError(f"{self._path}:{line.number}: {reason}; check the file")


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _is_balanced(text: str) -> bool:
    plain = re.sub(_QUOTED, "", text)
    return sum(plain.count(sign) for sign in "[{") <= sum(plain.count(sign) for sign in "]}")
