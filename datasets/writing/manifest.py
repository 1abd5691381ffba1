"""Manifest that marks a folder as written by this program, so that only such folders are overwritten."""

import hashlib
import json
import os
from pathlib import Path

MANIFEST = "conversion.json"
MAKER = "python -m examples.convert"
_NAMES = "names_sha256"


def write_manifest(folder: Path, contents: dict[str, object]) -> None:
    """Write the manifest, after all other files of the folder."""
    manifest = {"made_by": MAKER} | contents | {_NAMES: _hash_names(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8", newline="\n")


def find_mismatch(folder: Path) -> str | None:
    """Return the reason why a folder does not match its manifest; None if it does."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("made_by") != MAKER:
        return f"it has no {MANIFEST} of this program, so it was not written by it"
    if manifest.get(_NAMES) != _hash_names(folder):
        return "files have been added or removed since it was written"
    return None


def _hash_names(folder: Path) -> str:
    """Hash all relative paths except the manifest's, with the names of one folder in memory at a time."""
    digest = hashlib.sha256()
    for inner, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            relative = (Path(inner) / name).relative_to(folder).as_posix()
            if relative != MANIFEST:
                digest.update(os.fsencode(relative) + b"\0")
    return digest.hexdigest()
