"""A folder that appears whole or not at all."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from maskrcnn.config import UserError

CARD = "conversion.json"
MAKER = "python -m examples.convert"
_NAMES = "names_sha256"


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


def write_card(folder: Path, contents: dict[str, object]) -> None:
    """Say in the folder who made it, and of which files; comes last."""
    card = {"made_by": MAKER} | contents | {_NAMES: _hash_of_names(folder)}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8", newline="\n")


def find_stranger(folder: Path) -> str | None:
    """Why a folder is not (only) what `write_card` was called for, or None."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        card = None
    if not isinstance(card, dict) or card.get("made_by") != MAKER:
        return f"it has no {CARD} of this program, so it was not made by it"
    if card.get(_NAMES) != _hash_of_names(folder):
        return "its files are no longer those that were written"
    return None


def _hash_of_names(folder: Path) -> str:
    """Of all paths in it but the card's; one folder's names are in memory at a time."""
    digest = hashlib.sha256()
    for inner, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            relative = (Path(inner) / name).relative_to(folder).as_posix()
            if relative != CARD:
                digest.update(os.fsencode(relative) + b"\0")
    return digest.hexdigest()
