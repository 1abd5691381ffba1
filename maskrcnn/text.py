"""Names from files and data sets, made fit for terminals and file systems."""

from __future__ import annotations

import hashlib
import re

MAX_NAME_BYTES = 200  # of a file's name in UTF-8: systems take 255, which leaves room for endings
# C0 and C1 controls, line separators, marks that change the direction of writing, and halves of surrogate pairs, by
# which Python writes names that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORBIDDEN_IN_NAMES = re.compile(r'[\\/:*?"<>|]')


def escape(text: str, keep: str = "") -> str:
    """Text with control characters and marks of direction written out, such as `\\x1b`, but for those to `keep`."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _written_out(match[0]), text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def to_file_name(name: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """A name without folders and signs that some system rejects; a long one is cut and ends in a hash of the whole."""
    plain = _UNSAFE.sub("-", _FORBIDDEN_IN_NAMES.sub("-", name)) or "image"
    encoded = plain.encode("utf-8")
    if len(encoded) <= max_bytes:
        return plain
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{encoded[: max_bytes - len(digest) - 1].decode('utf-8', 'ignore')}-{digest}"
