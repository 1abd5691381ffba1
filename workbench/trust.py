"""Trust in custom classes of data sets and backbones: only code that the user has named is run.

`dataset = "module:Class"` or `backbone.name = "module:Class"` in a TOML file or a run folder may come from somebody
else, and importing the module runs its code. A class is trusted once it has been named on the command line, or run with
`--trust`, in the same working directory. Trusted classes are stored in `~/.config/smallobjects/trusted`, or the
equivalent on other systems.
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
from maskrcnn.model.config import is_own_backbone


def check_trust(dataset: str, flags: Mapping[str, Any], backbone: str = "") -> None:
    """Check that custom classes are trusted, and store those that are named on the command line.

    Args:
        dataset: data set names.
        flags: command-line flags, with "trust", and perhaps "dataset" and "backbone".
        backbone: name of the backbone.

    Raises:
        UserError: If a class is not trusted.
    """
    datasets = [each.name for each in parse_names(dataset) if each.is_class]
    backbones = [backbone] if is_own_backbone(backbone) else []
    for option, value, names in (("dataset", dataset, datasets), ("backbone", backbone, backbones)):
        known, entries = _read(), [[os.getcwd(), name] for name in names]
        new = [entry for entry in entries if entry not in known]
        variable = f"{ENVIRONMENT_PREFIX}{option.upper()}"
        if flags.get("trust") or flags.get(option) is not None or os.environ.get(variable):
            _add(new)
        elif new:
            raise UserError(
                f"{option} = {value}: {new[0][1]} is code named by a TOML file or run folder that has not been used in "
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
    if not entries:
        return
    with suppress(OSError):  # without a writable home folder, --trust is needed each time
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
