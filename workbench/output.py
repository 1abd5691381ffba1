"""Folders and file names of an experiment's output."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.config import UserError
from maskrcnn.files import check_replaceable
from maskrcnn.text import to_file_name
from workbench.config import OutputConfig


def check_output(output: OutputConfig) -> None:
    """Raise a UserError if a file or folder of the output is not writable."""
    check_replaceable(output.model_file or "")
    for file in filter(None, (output.model_file, output.log_file)):
        make_folder(Path(file).parent)
        if Path(file).is_dir():
            raise UserError(f"cannot write {file}: it is a folder; choose another file")
    for folder in filter(None, (output.plot_dir, output.predictions_dir)):
        make_folder(Path(folder))


def make_picture_names(image_names: Sequence[str]) -> list[str]:
    """Make unique file names for pictures, even if the file system is case-insensitive."""
    found: dict[str, str] = {}
    for name in image_names:
        plain = to_file_name(name)
        unique, number = plain, 1
        while unique.lower() in found:
            unique, number = f"{plain}-{number}", number + 1
        found[unique.lower()] = unique
    return list(found.values())


def make_folder(path: Path) -> None:
    """Create a folder; raise a UserError if it cannot be created or is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror}; choose another") from error
    try:
        with tempfile.TemporaryFile(dir=path):  # permissions do not show that a file system is read-only
            pass
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; choose another folder") from error
