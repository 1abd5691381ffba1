"""Runs by name; imports no PyTorch, so that `--help` stays fast.

Training remembers where runs are written, so that they are found by name from any working directory. The folders are
stored in `~/.config/smallobjects/runs`, or the equivalent on other systems.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click

from maskrcnn.config import UserError
from maskrcnn.files import write_text
from maskrcnn.programs import format_command
from maskrcnn.text import did_you_mean

NEWEST = "newest"
DEFAULT_RUNS = "runs"
MAX_REMEMBERED = 50  # folders


def find_run(name: str, output_dir: str, flag: str = "--resume", notify: Callable[[str], None] = print) -> Path:
    """Find the folder of a run.

    Args:
        name: path or name of the run, or `NEWEST` for the newest run with weights. Runs are searched for in
            `output_dir`, then in the folders that training in this working directory wrote to, and then, except for
            `--resume`, in those of other working directories.
        output_dir: folder of runs.
        flag: option that errors name; `--resume` requires `weights/last.pt`.
        notify: called with a line if a newer run has no weights.

    Raises:
        UserError: If there is no such run.
    """
    nearby, elsewhere = _list_folders(output_dir)
    places = [nearby] if flag == "--resume" else [nearby, *([folder] for folder in elsewhere)]
    if name == NEWEST:
        found = (_find_newest(folders, flag, notify) for folders in places)
        run = next((each for each in found if each is not None), None)
        if run is None:
            raise _no_run(output_dir, flag, nearby)
        return run
    for path in (Path(name), *(folder / name for folders in places for folder in folders)):
        if (path / "config.toml").is_file():
            if flag == "--resume" and not (path / "weights/last.pt").is_file():
                raise UserError(f"{flag}={name}: stopped before its first checkpoint, weights/last.pt; start a new run")
            return path
    hint = did_you_mean(name, [NEWEST, *(run.name for folders in places for run in _list_runs(folders))])
    hint = hint or f"; see the folders in {output_dir}"
    raise UserError(f"{flag}={name}: no run there (a folder with config.toml){hint}")


def _list_folders(output_dir: str) -> tuple[list[Path], list[Path]]:
    """List `output_dir` with the folders of runs of this working directory, and those of other working directories."""
    here, elsewhere = recall_folders()
    output = Path(output_dir)
    nearby = [output, *(folder for folder in here if folder != output.absolute())]
    return nearby, [folder for folder in elsewhere if folder != output.absolute()]


def _find_newest(folders: Iterable[Path], flag: str, notify: Callable[[str], None]) -> Path | None:
    runs = _list_runs(folders)
    weights = ("last.pt",) if flag == "--resume" else ("best.pt", "last.pt")
    usable = [run for run in runs if any((run / "weights" / each).is_file() for each in weights)]
    if usable and usable[-1] != runs[-1]:
        notify(f"{runs[-1]} stopped before its first checkpoint; using {usable[-1]}")
    return usable[-1] if usable else None


def _list_runs(folders: Iterable[Path]) -> list[Path]:
    """List the runs in folders, the newest last."""
    files = [file for folder in folders for file in folder.glob("*/config.toml")]
    return [file.parent for file in sorted(files, key=lambda file: file.stat().st_mtime)]


def _no_run(output_dir: str, flag: str, folders: Iterable[Path]) -> UserError:
    count = len(_list_runs(folders))
    skipped = f" ({count} stopped before their first checkpoint)" if count else ""
    return UserError(
        f"{flag}: no run with weights in {output_dir}{skipped}; give the path of a run, or train one with "
        f"{format_command('train')}"
    )


# ---- folders that runs were written to


def remember_folder(output_dir: str | os.PathLike[str]) -> None:
    """Store the folder that training in this working directory writes runs to."""
    entry = [os.getcwd(), str(Path(output_dir).absolute())]
    others = [each for each in _read_entries() if each != entry]
    lines = [json.dumps(each) + "\n" for each in [*others, entry][-MAX_REMEMBERED:]]
    with suppress(OSError):  # without a writable home folder, runs are only found in output_dir and by path
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_text(_file(), "".join(lines))


def recall_folders() -> tuple[list[Path], list[Path]]:
    """Return the folders that training in this working directory, and in others, wrote runs to, newest first."""
    entries, here = _read_entries()[::-1], os.getcwd()
    return (
        [Path(folder) for place, folder in entries if place == here],
        [Path(folder) for place, folder in entries if place != here],
    )


def _file() -> Path:
    return Path(click.get_app_dir("smallobjects")) / "runs"


def _read_entries() -> list[list[str]]:
    try:
        lines = [json.loads(line) for line in _file().read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if isinstance(line, list) and len(line) == 2 and all(type(x) is str for x in line)]
