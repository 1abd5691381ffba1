"""Text for terminals and file systems: sanitized names, counts with their nouns, suggestions for wrong names."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence

MAX_NAME_BYTES = 200  # of a file name in UTF-8; file systems allow 255, which leaves room for suffixes
# C0 and C1 control characters, line separators, bidirectional marks, and lone surrogates, which Python uses for file
# names that are not valid UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORBIDDEN_IN_NAMES = re.compile(r'[\\/:*?"<>|]')
_OBJECT = re.compile(r" ?<[\w.]+ (?:object at|name=|at 0x).*>")  # as `repr` of files and buffers
_PLURAL = re.compile(r"\b[A-Za-z]{2,}(?<![su])s\b")
_SINGULAR_OF = {
    "are": "is",
    "have": "has",
    "do": "does",
    "were": "was",
    "match": "matches",
    "repeat": "repeats",
    "their": "its",
}
_PLURAL_WORD = re.compile(rf"\b({'|'.join(_SINGULAR_OF)})\b")


def escape(text: str, keep: str = "") -> str:
    r"""Escape control characters and bidirectional marks, as in `\x1b`, except those in `keep`."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _escape_character(match[0]), text)


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def to_file_name(name: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Convert a name to a valid file name on all systems.

    Args:
        name: any name.
        max_bytes: maximum length in UTF-8; a longer name is cut, and a hash of the whole name is appended.
    """
    plain = _UNSAFE.sub("-", _FORBIDDEN_IN_NAMES.sub("-", name)) or "image"
    encoded = plain.encode("utf-8")
    if len(encoded) <= max_bytes:
        return plain
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{encoded[: max_bytes - len(digest) - 1].decode('utf-8', 'ignore')}-{digest}"


def describe_error(error: BaseException, max_characters: int = 120) -> str:
    """Describe an error of a library in one line, without the Python objects that its message may contain.

    Pillow's "cannot identify image file <_io.BufferedReader name='a.png'>" gives "cannot identify image file".
    """
    line = _OBJECT.sub("", " ".join(str(error).split()))
    return line[:max_characters] or type(error).__name__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of an error that suggests the closest of the valid names; empty if none is close."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def suggest_key(key: str, known: Sequence[str]) -> str:
    """Suggest the closest key of the section, otherwise the closest name anywhere, otherwise list the section."""
    prefix, _, name = key.rpartition(".")
    siblings = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == prefix]
    if hint := did_you_mean(name, siblings):
        return hint
    by_name = {each.rpartition(".")[2]: each for each in reversed(known)}
    if near := difflib.get_close_matches(name, list(by_name), n=1):
        return f"; did you mean '{by_name[near[0]]}'?"
    return f"; valid here: {', '.join(siblings)}"


def format_count(count: int, phrase: str) -> str:
    """Put a count before a phrase in the plural, which becomes singular for 1.

    "boxes clipped to the image" gives "1 box clipped to the image" and "1,234 boxes clipped to the image", and "of 5
    objects are ignored" gives "1 of 5 objects is ignored".

    Args:
        count: the count.
        phrase: text whose first word in the plural is the noun that is counted, unless it begins with "of N".
    """
    if count != 1:
        return f"{count:,} {phrase}"
    phrase = phrase if phrase.startswith("of ") else _PLURAL.sub(lambda match: _to_singular(match[0]), phrase, count=1)
    return f"1 {_PLURAL_WORD.sub(lambda match: _SINGULAR_OF[match[0]], phrase)}"


def _to_singular(noun: str) -> str:
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun[:-2] if noun.endswith(("sses", "xes", "ches", "shes")) else noun[:-1]
