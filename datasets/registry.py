"""Data sets by name. Importing this needs no PyTorch; opening a data set does."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn.config import UserError

if TYPE_CHECKING:
    from datasets.interface import DetectionDataset

PATH_KEYS = {"ellipses": "ellipses_root", "dsbowl2018": "kaggle_dsbowl2018_root"}  # keys of [paths] for each name
_VARIANTS = {"ellipses": (), "dsbowl2018": ("s1_train_val",)}  # after a colon; the first is what the bare name means


def check_name(name: str) -> str:
    """The data set's own name of ``name`` or ``name:variant``; UserError, with the nearest, if there is none such."""
    base, _, variant = name.partition(":")
    if base in _VARIANTS and variant in ("", *_VARIANTS[base]):
        return base
    valid = [*_VARIANTS, *(f"{base}:{variant}" for base, variants in _VARIANTS.items() for variant in variants)]
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(valid)}"
    raise UserError(f"unknown dataset '{name}': {hint}")


def open_dataset(
    name: str,
    root: str | Path,
    split: str,
    split_file: str | Path | None = None,
    subsetseed: int = 12345,
    cache_mb: int = 1024,
) -> "DetectionDataset":
    """The ``split`` ("train" or "test") of data set ``name`` in the folder ``root``.

    Raises:
        UserError: unknown name or split; a missing or empty folder; an option that this data set has no use for.
    """
    base = check_name(name)
    if base == "dsbowl2018":
        from datasets.dsbowl2018 import DSBowl2018

        return DSBowl2018(root, split, split_file, subsetseed, cache_mb)
    from datasets.ellipses import Ellipses

    if split_file is not None:
        raise UserError(f"--split_file {split_file}: data set '{base}' has its own train and test folders")
    return Ellipses(root, split)
