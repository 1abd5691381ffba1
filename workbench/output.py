"""Folders and file names of an experiment's output."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from maskrcnn.config import UserError
from maskrcnn.files import check_replaceable
from maskrcnn.text import to_file_name
from workbench.config import ExperimentConfig, OutputConfig

REPORTS = "reports"  # folder in which each description of data and each sheet of samples gets a new folder


@contextmanager
def choose_picture(given: str | None, flag: str, program: str, name: str, config: ExperimentConfig) -> Iterator[Path]:
    """Yield the path of a picture: the given one, or `name` in a new folder, `reports/PROGRAM-DATA-N`.

    DATA is the name of the folder of the data set, or of the data set. The new folder is removed if it stays empty.

    Args:
        given: the given path; must have passed `check_png`.
        flag: option that gives it.
        program: what the program does, as the start of the folder's name.
        name: file name in the new folder.
        config: options, with the recognized format of the data.

    Raises:
        UserError: If the folder is not writable.
    """
    from datasets.registry import short_name
    from maskrcnn.training.runlog import create_run, remove_if_empty

    if given is not None:
        path = Path(given)
        if path.exists():
            click.echo(f"{path}: already exists and is replaced (--{flag})")
        yield path
        return
    root = config.data.dataset_root
    data = short_name(config.data.dataset) if root is None else Path(root).resolve().name
    folder = create_run(REPORTS, to_file_name(f"{program}-{data}"))
    with remove_if_empty(folder):
        yield folder / name


def check_png(given: str | None, flag: str) -> None:
    """Raise a UserError if a picture cannot be written to the given path, before the work starts."""
    if given is None:
        return
    path = Path(given)
    if path.suffix.lower() != ".png":
        raise UserError(f"--{flag}={path}: must end in .png")
    check_parent(path, flag)


def check_parent(path: Path, flag: str) -> None:
    """Raise a UserError if a file cannot be written because its folder is missing, or the path is a folder."""
    if not path.parent.is_dir():
        raise UserError(f"--{flag}={path}: there is no folder {path.parent}; create it first, or choose another")
    if path.is_dir():
        raise UserError(f"--{flag}={path}: is a folder; choose another name")


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
