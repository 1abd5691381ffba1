"""Options of inference, as programs and checkpoints give them. Imports no PyTorch.

Files and environment variables may have options of training, too; those are left out and named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn.config import (
    ENVIRONMENT_PREFIX,
    Notify,
    UserError,
    environment_values,
    merge,
    old_keys,
    read_toml,
    settings,
    toml_values,
)
from maskrcnn.inference.config import InferenceConfig
from maskrcnn.training.runs import DEFAULT_RUNS

CONFIG_FILE = Path("smallobjects.toml")
FORMER_MIN_SCORE = 0.5  # default of output.min_score in checkpoints that have no operating threshold
OF_MACHINE = ("device", "torch_threads", "amp", "channels_last", "deterministic")  # of the section [training]
OF_DETECTOR = (  # flags; other options of the detector cannot be changed after training
    "gray_levels",
    "limit_size",
    "pre_nms_limit",
    "post_nms_rois_inference",
    "detection_max_instances",
    "detection_min_confidence",
    "detection_nms_threshold",
)


def is_used(key: str) -> bool:
    """Return whether an option of `InferenceConfig` matters at inference."""
    section, _, name = key.partition(".")
    return section != "training" or name in OF_MACHINE


def list_flags(used: bool = True) -> list[str]:
    """List the flags of `InferenceConfig` that a program of inference has, or the others if not `used`."""
    options = settings(InferenceConfig).items()
    return [setting.flag for key, setting in options if setting.flag and _has_flag(key) == used]


def _has_flag(key: str) -> bool:
    section, _, name = key.partition(".")
    if section == "detector":
        return settings(InferenceConfig)[key].flag in OF_DETECTOR
    return section != "training" or name in ("device", "torch_threads", "amp")


def select_options(
    tables: Mapping[str, Any], where: str | Path, notify: Notify = lambda line: None
) -> tuple[dict[str, Any], list[str]]:
    """Select the options of inference from tables that may have options of training, too.

    Args:
        tables: nested tables of a TOML file or a checkpoint.
        where: their source, for errors.
        notify: called with a line for each option with an old name.

    Returns:
        The layer {dotted key: value}, and the keys of the options that were left out.

    Raises:
        UserError: If the name of an option of inference is unknown or its value is invalid.
    """
    names = {key for key in (*settings(InferenceConfig), *old_keys(InferenceConfig)) if is_used(key)}
    sections = {name.partition(".")[0] for name in names}
    kept: dict[str, Any] = {}
    others: list[str] = []
    for section, values in tables.items():
        if section not in sections:
            others.append(section)
        elif section in ("detector", "views") or not isinstance(values, Mapping):
            kept[section] = values
        else:
            kept[section] = {name: value for name, value in values.items() if f"{section}.{name}" in names}
            others += [f"{section}.{name}" for name in values if name not in kept[section]]
    return toml_values(InferenceConfig, kept, where, notify), others


def select_variables(environ: Mapping[str, str], notify: Notify) -> tuple[dict[str, Any], list[str]]:
    """Select the options of inference from environment variables, as `select_options` does from tables."""
    used = [setting for key, setting in settings(InferenceConfig).items() if is_used(key)]
    known = {name for setting in used for name in (setting.variable, *setting.old_variables)}
    given = {name: text for name, text in environ.items() if name.startswith(ENVIRONMENT_PREFIX) and text}
    chosen = {name: text for name, text in given.items() if name in known}
    return environment_values(InferenceConfig, chosen, notify), [name for name in given if name not in known]


def read_layers(file: str | None, notify: Notify) -> list[dict[str, Any]]:
    """Read the options of a TOML file, if there is one, and of the environment.

    Args:
        file: path of the TOML file.
        notify: called with notices: options with an old name, and options that inference does not have.

    Returns:
        Two layers, of which the latter has precedence.

    Raises:
        UserError: If the file cannot be read, or an option is invalid.
    """
    from_file, others = ({}, []) if file is None else select_options(read_toml(file), file, notify)
    from_environment, variables = select_variables(os.environ, notify)
    ignored = [f"{', '.join(others)} in {file}"] * bool(others) + [f"{', '.join(variables)}"] * bool(variables)
    if ignored:
        notify(f"not options of predict, ignored: {'; '.join(ignored)}")
    return [from_file, from_environment]


def resolve_options(
    saved: Mapping[str, Any], source: str | Path, *layers: Mapping[str, Any], has_threshold: bool = True
) -> InferenceConfig:
    """Merge the options that were saved with a detector and layers that have precedence.

    Args:
        saved: nested tables of a checkpoint.
        source: the checkpoint, for errors.
        *layers: {dotted key: value}; later layers override earlier ones.
        has_threshold: whether the checkpoint has an operating threshold. Without one, it is from a time when
            `FORMER_MIN_SCORE` was the default minimum score, which does not count as given.

    Raises:
        UserError: If an option is unknown or invalid.
    """
    stored, _ = select_options(saved, source)
    if not has_threshold and stored.get("output.min_score") == FORMER_MIN_SCORE:
        del stored["output.min_score"]
    return merge(InferenceConfig(), stored, *layers)


def get_runs_folder() -> str:
    """Return the folder of runs: `SMALLOBJECTS_OUTPUT_DIR`, or `output_dir` of smallobjects.toml, or ./runs.

    Raises:
        UserError: If the file is not valid TOML.
    """
    given = os.environ.get(f"{ENVIRONMENT_PREFIX}OUTPUT_DIR")
    if not given and CONFIG_FILE.is_file():
        output = read_toml(CONFIG_FILE).get("output")
        given = output.get("output_dir") if isinstance(output, Mapping) else None
        if not isinstance(given, str | None):
            raise UserError(f"{CONFIG_FILE}: output.output_dir = {given!r}: expected a text")
    return given or DEFAULT_RUNS
