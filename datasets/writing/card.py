"""The card that says who made a folder, so that only such a folder is replaced."""

import hashlib
import json
import os
from pathlib import Path

CARD = "conversion.json"
MAKER = "python -m examples.convert"
_NAMES = "names_sha256"


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
