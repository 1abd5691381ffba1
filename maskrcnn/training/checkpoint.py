"""Weights on disk: saved beside and renamed, loaded without running anything that is in the file."""

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
from maskrcnn.files import check_archive, written_beside
from maskrcnn.training.config import BUDGET, MAY_DIFFER_ON_RESUME

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def save_checkpoint(path: str | os.PathLike[str], contents: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings, and dicts and lists of them. `UserError` where the file cannot be written."""
    try:
        with written_beside(path) as beside:
            torch.save(dict(contents), beside)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise UserError(f"cannot save {path}: {error}; free space or choose another --output_dir") from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU. `UserError` where there is no such file, or it is damaged."""
    if not Path(path).is_file():
        raise UserError(f"no weights at {path}; give a .pt file from a run's weights folder")
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what it takes the first bytes for
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes can raise anything in there, and its advice is to run what is in the file
        raise UserError(
            f"{path} is damaged or no file of weights; give a .pt file from a run's weights folder"
        ) from error
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise UserError(f"{path} holds no model of this workbench; give a .pt file from a run's weights folder")
    return contents


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Copy `weights` into `model`; `UserError` naming the first layer that differs, in the model's order."""
    difference = first_difference(model.state_dict(), weights)
    if difference:
        raise UserError(f"{source} is of another architecture: {difference}; build the model that it was trained as")
    model.load_state_dict(dict(weights))


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds an infinite number or not-a-number; None where all are finite."""
    names = [name for name, value in weights.items() if value.is_floating_point()]
    if not names:
        return None
    finite = torch.stack([torch.isfinite(weights[name]).all() for name in names])  # one transfer from a GPU
    return None if bool(finite.all()) else names[int((~finite).nonzero()[0])]


def first_difference(model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """The first layer in which `weights` do not fit `model`, in words; None where all fit."""
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
    """`UserError` naming each setting in which a resumed run would differ from the saved one.

    `saved` is `to_dict` of the saved configuration. Settings in `may_differ` (dotted keys, or sections such as
    `paths`) and those of `MAY_DIFFER_ON_RESUME` are free.
    """
    before = from_dict(type(current), saved, source)
    forbidden = [line for line in differences(before, current) if not _is_free(line.split(":")[0], may_differ)]
    if not forbidden:
        return
    reason = ""
    if any(line.split(":")[0].split(".")[-1] in BUDGET for line in forbidden):
        reason = " (the learning rate follows a curve over the whole budget, so a longer run is another run)"
    raise UserError(
        f"cannot resume {source} with another configuration: {'; '.join(forbidden)}{reason}; "
        "leave these settings as they were, or start a new run"
    )


def _is_free(key: str, may_differ: Collection[str]) -> bool:
    if key.split(".")[-1] in MAY_DIFFER_ON_RESUME:
        return True
    return any(key == free or key.startswith(f"{free}.") for free in may_differ)
