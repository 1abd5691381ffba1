"""Synthetic data sets made with a progress bar and a data sheet: what the programs that make them have in common."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from datasets.synthetic.config import SceneConfig
from datasets.synthetic.recipes import PRESETS, Recipe, read_recipe
from examples.progress import progress_bar
from maskrcnn.config import flag_values, merge, option


@dataclass(frozen=True)
class CreateConfig:
    """What to make."""

    path: str | None = option(None, "folder to make (default: the data set's root in smallobjects.toml)", flag="path")
    n_train: int = option(128, "training images", flag="n_train", minimum=0)
    n_val: int = option(0, "images for validation", flag="n_val", minimum=0)
    n_test: int = option(32, "test images", flag="n_test", minimum=0)
    overwrite: bool = option(False, "replace the data set that is there", flag="overwrite")
    scene: SceneConfig = field(default_factory=SceneConfig)


@dataclass(frozen=True)
class ScenesConfig:
    """Where to start from."""

    preset: str = option("shapes", "the recipe whose settings are the defaults", flag="preset", choices=tuple(PRESETS))
    scene: str | None = option(None, "a TOML file of the recipe, instead of a preset", flag="scene")


def recipe_of(flags: Mapping[str, Any], base: Recipe) -> Recipe:
    """``base`` with the flags of `CreateConfig` that are given. UserError for a bad one, or settings that fit not."""
    layer = flag_values(
        CreateConfig, {name: value for name, value in flags.items() if name not in ("path", "overwrite")}
    )
    return merge(base, layer)


def base_recipe(start: ScenesConfig) -> Recipe:
    """The recipe of ``--scene``, else that of ``--preset``. UserError for a file that is none."""
    return PRESETS[start.preset]() if start.scene is None else read_recipe(start.scene)


def make(path: str, recipe: Recipe, overwrite: bool = False, title: str = "Drawing") -> None:
    """Make the data set and its sheet with a progress bar. UserError: as ``datasets.synthetic.writer.create``."""
    from datasets.synthetic.writer import create
    from examples.data_sheet import write_data_sheet

    with progress_bar(title) as progress:
        create(path, recipe, progress, overwrite, finish=lambda folder: write_data_sheet(folder, recipe))


def say_what_was_made(path: str, recipe: Recipe) -> None:
    """The folder, how many images are in it and where its data sheet is."""
    names = {"train": "training", "val": "validation", "test": "test"}
    counts = " and ".join(f"{count} {names[split]}" for split, count in recipe.counts.items() if count)
    click.echo(f"{path}: {counts} images, {recipe.scene.width} x {recipe.scene.height}; see {Path(path) / 'README.md'}")


def root_flag(path: str, configured: str) -> str:
    """What the next program must be told about where the data is; "" if it is where it is looked for."""
    return "" if Path(path).resolve() == Path(configured).resolve() else f" {shlex.quote(f'--dataset_root={path}')}"
