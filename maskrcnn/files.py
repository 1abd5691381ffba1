"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new path beside `path` to write to; rename it onto `path` when the block ends well.

    A reader sees the old file or the new one, never a half. When the block raises, `path` is untouched and what was
    written is removed. The folder must exist. The temporary name keeps the suffix, because many writers choose the
    format by it, and starts with a dot, so that a `*.png` listing leaves out what a killed program left behind.

    Raises `OSError` when the folder is missing or cannot be written.
    """
    final = Path(path)
    beside = final.with_name(f".{final.stem}.{secrets.token_hex(4)}{final.suffix}")
    try:
        yield beside
        _flush_to_disk(beside)
        os.replace(beside, final)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends to `path`, complete or not at all."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def _flush_to_disk(path: Path) -> None:
    """Without this, a power cut soon after the rename can leave an empty file under the final name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
