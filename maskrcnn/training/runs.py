"""Runs by name; imports no PyTorch, so that `--help` stays fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskrcnn.config import UserError

NEWEST = "newest"


def find_run(name: str, output_dir: str, flag: str = "--resume", notify: Callable[[str], None] = print) -> Path:
    """Find the folder of a run.

    Args:
        name: path or name of the run, or `NEWEST` for the newest run with weights.
        output_dir: folder of runs.
        flag: option that errors name; `--resume` requires `weights/last.pt`.
        notify: called with a line if a newer run has no weights.

    Raises:
        UserError: If there is no such run.
    """
    weights = ("last.pt",) if flag == "--resume" else ("best.pt", "last.pt")
    if name == NEWEST:
        runs = sorted(Path(output_dir).glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
        usable = [path.parent for path in runs if any((path.parent / "weights" / each).is_file() for each in weights)]
        if not usable:
            skipped = f" ({len(runs)} stopped before their first checkpoint)" if runs else ""
            raise UserError(
                f"{flag}: no run with weights in {output_dir}{skipped}; give the path of a run, or train one with "
                "example_smallobject_train.py"
            )
        if usable[-1] != runs[-1].parent:
            notify(f"{runs[-1].parent} stopped before its first checkpoint; using {usable[-1]}")
        return usable[-1]
    for path in (Path(name), Path(output_dir) / name):
        if (path / "config.toml").is_file():
            if flag == "--resume" and not (path / "weights/last.pt").is_file():
                raise UserError(f"{flag}={name}: stopped before its first checkpoint, weights/last.pt; start a new run")
            return path
    raise UserError(f"{flag}={name}: no run there (a folder with config.toml); see the folders in {output_dir}")
