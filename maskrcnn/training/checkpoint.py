"""Checkpoints: written atomically, and loaded without executing code from the file."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn.config import UserError, differences, from_dict
from maskrcnn.files import atomic_write, check_archive
from maskrcnn.training.config import BUDGET, MAY_DIFFER_ON_RESUME

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def save_checkpoint(path: str | os.PathLike[str], contents: Mapping[str, Any]) -> None:
    """Save a checkpoint.

    Args:
        path: output file.
        contents: tensors, numbers, strings, and dicts and lists of these.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            torch.save(dict(contents), temporary)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise UserError(f"cannot save {path}: {error}; free space or choose another --output_dir") from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint of `save_checkpoint` on the CPU.

    Raises:
        UserError: If the file does not exist, is damaged, or is not a checkpoint of this project.
    """
    if not Path(path).is_file():
        raise UserError(f"no weights at {path}; give a .pt file from a run's weights folder")
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch.load warns about unknown magic bytes
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any error is possible, and the messages recommend loading with code execution
        raise UserError(
            f"{path} is damaged or not a checkpoint; give a .pt file from a run's weights folder"
        ) from error
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise UserError(f"{path} contains no model of this project; give a .pt file from a run's weights folder")
    _move_gray_levels(contents.get("config"))
    return contents


def _move_gray_levels(config: Any) -> None:
    """Move the gray levels of former checkpoints from the options of the data to those of the detector."""
    data = config.get("data") if isinstance(config, dict) else None
    if isinstance(data, dict) and "gray_levels" in data:
        config.setdefault("detector", {}).setdefault("image", {})["gray_levels"] = data.pop("gray_levels")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Copy weights to a model.

    Args:
        model: the model.
        weights: state dict.
        source: name of the weights in errors.

    Raises:
        UserError: If the weights do not match; names the first layer that differs, in the order of the model.
    """
    difference = find_difference(model.state_dict(), weights)
    if difference:
        raise UserError(f"{source} has another architecture: {difference}; use the options that it was trained with")
    model.load_state_dict(dict(weights))


def find_nonfinite_tensor(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with an infinite value or NaN; None if all are finite."""
    names = [name for name, value in weights.items() if value.is_floating_point()]
    if not names:
        return None
    finite = torch.stack([torch.isfinite(weights[name]).all() for name in names])  # one transfer from a GPU
    return None if bool(finite.all()) else names[int((~finite).nonzero()[0])]


def find_difference(model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Describe the first layer in which two state dicts differ; None if they match."""
    for name, expected in model.items():
        shape = list(expected.shape)
        if name not in weights:
            return f"layer {name} {shape} of the model is missing there"
        if weights[name].shape != expected.shape:
            return f"layer {name} is {list(weights[name].shape)} there and {shape} in the model"
    for name in weights:
        if name not in model:
            return f"the model has no layer {name} {list(weights[name].shape)}"
    return None


def check_same_configuration(
    saved: Mapping[str, Any], current: DataclassInstance, source: str | Path, may_differ: Collection[str] = ()
) -> None:
    """Check that a resumed run has the options of the saved run.

    Args:
        saved: `to_dict` of the saved configuration.
        current: configuration of the resumed run.
        source: name of the checkpoint in errors.
        may_differ: dotted keys, or sections such as `paths`, that may differ, in addition to `MAY_DIFFER_ON_RESUME`.

    Raises:
        UserError: If other options differ; names each of them.
    """
    before = from_dict(type(current), saved, source)
    forbidden = [line for line in differences(before, current) if not _is_free(line.split(":")[0], may_differ)]
    if not forbidden:
        return
    reason = ""
    if any(line.split(":")[0].split(".")[-1] in BUDGET for line in forbidden):
        reason = " (the learning-rate schedule depends on the length of training, so a longer run is a different run)"
    raise UserError(
        f"cannot resume {source} with another configuration: {'; '.join(forbidden)}{reason}; "
        "use the options of the saved run, or start a new run"
    )


def _is_free(key: str, may_differ: Collection[str]) -> bool:
    if key.split(".")[-1] in MAY_DIFFER_ON_RESUME:
        return True
    return any(key == free or key.startswith(f"{free}.") for free in may_differ)
