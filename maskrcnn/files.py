"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from maskrcnn.config import UserError


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


@contextmanager
def made_whole(
    path: str | os.PathLike[str], overwrite: bool, find_stranger: Callable[[Path], str | None], flag: str = "--output"
) -> Iterator[Path]:
    """Give a new folder beside ``path``; rename it onto ``path`` when the block ends well, else remove it.

    With ``overwrite``, a folder in which ``find_stranger`` finds nothing to object to is replaced.

    Raises:
        UserError: there is something at ``path`` that may not be replaced; the folder cannot be written.
    """
    final = Path(path).resolve()
    building = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        _check_target(final, overwrite, find_stranger, flag)
        building.mkdir(parents=True)
        yield building
        _move_into_place(building, final)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another {flag}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_target(path: Path, overwrite: bool, find_stranger: Callable[[Path], str | None], flag: str) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder; choose another {flag}")
    if not overwrite:
        raise UserError(f"{path}: already exists; --overwrite replaces it, {flag} chooses another place")
    if stranger := find_stranger(path):
        raise UserError(f"{path}: is not replaced, because {stranger}; choose another {flag}")


def _move_into_place(building: Path, final: Path) -> None:
    """Rename; what was there goes last, and comes back when the renaming fails."""
    if not final.exists():
        building.rename(final)
        return
    old = building.with_name(building.name + ".old")
    final.rename(old)
    try:
        building.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
