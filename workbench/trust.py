"""Trust in custom data set classes: only code that the user has named is run.

`dataset = "module:Class"` in a TOML file or a run folder may come from somebody else, and importing the module runs its
code. A class is trusted if it was named on the command line, or with `--trust`, in the same working directory before.
Trusted classes are stored in `~/.config/smallobjects/trusted`, or the equivalent on other systems.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from datasets.registry import parse_names
from maskrcnn.config import ENVIRONMENT_PREFIX, UserError


def check_trust(dataset: str, flags: Mapping[str, Any]) -> None:
    """Check that a custom data set class is trusted, and store a class that is named on the command line.

    Args:
        dataset: data set names.
        flags: command-line flags, with "trust" and "dataset".

    Raises:
        UserError: If a class is not trusted.
    """
    names = [each.name for each in parse_names(dataset) if each.is_class]
    if not names:
        return
    known, entries = _read(), [[os.getcwd(), name] for name in names]
    new = [entry for entry in entries if entry not in known]
    if flags.get("trust") or flags.get("dataset") is not None or os.environ.get(f"{ENVIRONMENT_PREFIX}DATASET"):
        _add(new)
    elif new:
        raise UserError(
            f"dataset = {dataset}: {new[0][1]} is code named by a TOML file or run folder that has not been used in "
            "this folder before; review it, then run it with --trust"
        )


def _file() -> Path:
    return Path(click.get_app_dir("smallobjects")) / "trusted"


def _read() -> list[Any]:
    try:
        return [json.loads(line) for line in _file().read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def _add(entries: list[list[str]]) -> None:
    with suppress(OSError):  # without a writable home folder, --trust is needed each time
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
