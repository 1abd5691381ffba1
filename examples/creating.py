"""Synthetic data sets made with a progress bar and a data sheet: what the programs that make them have in common."""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from datasets.synthetic.config import SceneConfig
from datasets.synthetic.recipes import PRESETS, Recipe, read_recipe
from examples.command_line import DEFAULTS, HELP_ALL, SettingsCommand
from examples.convert import said
from examples.progress import progress_bar
from maskrcnn.config import UserError, flag_values, merge, option, settings


@dataclass(frozen=True)
class CreateConfig:
    """Data set."""

    path: str | None = option(None, "folder to make (default: the data set's root in smallobjects.toml)", flag="path")
    n_train: int = option(128, "training images", flag="n_train", minimum=0)
    n_val: int = option(0, "images for validation", flag="n_val", minimum=0)
    n_test: int = option(32, "test images", flag="n_test", minimum=0)
    overwrite: bool = option(False, "replace the data set that is there", flag="overwrite")
    scene: SceneConfig = field(default_factory=SceneConfig)


@dataclass(frozen=True)
class ScenesConfig:
    """Recipe."""

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


class RecipeCommand(SettingsCommand):
    """A command whose --help shows as defaults those of the recipe that --preset or --scene name beside it."""

    def __init__(self, *args: Any, preset: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.preset = preset

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not set(args) & {*ctx.help_option_names, *HELP_ALL}:
            return super().parse_args(ctx, args)
        try:
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            named: dict[str, Any] = {name: given[name] for name in ("preset", "scene") if name in given}
            base = base_recipe(merge(ScenesConfig(preset=self.preset), flag_values(ScenesConfig, named)))
        except (click.UsageError, UserError):  # which the call without --help says
            base = PRESETS[self.preset]()
        values = {
            each.flag: functools.reduce(getattr, key.split("."), base)
            for key, each in settings(Recipe).items()
            if each.flag
        }
        ctx.meta[DEFAULTS] = values | {"preset": self.preset}
        return super().parse_args(ctx, args)


def notes_on(recipe: Recipe) -> Iterator[str]:
    """What is legitimate, but maybe not meant."""
    scene, objects = recipe.scene, recipe.scene.objects
    size, shorter = f"{scene.width} x {scene.height}", min(scene.width, scene.height)
    if not scene.num_objects:
        yield "the images hold no objects (n_groups and n_free are 0): a detector can neither learn nor be measured"
    elif objects.max_diameter + 2 * objects.outline > shorter:
        yield (
            f"the largest objects (max_diameter {objects.max_diameter:g}) are larger than the image of {size}: "
            "its edge cuts them"
        )
    if (cover := mean_cover(scene)) > 1:
        yield f"the objects' areas add up to {cover:.1f} times the image: what is hidden has no annotation"


def mean_cover(scene: SceneConfig) -> float:
    """Areas of all objects that are drawn, over that of the image; diameters are log-uniform."""
    low, high = scene.objects.min_diameter, scene.objects.max_diameter
    mean_square = low**2 if low == high else (high**2 - low**2) / (2 * math.log(high / low))
    return scene.num_objects * math.pi / 4 * mean_square / (scene.width * scene.height)


def make(path: str, recipe: Recipe, overwrite: bool = False, title: str = "Drawing") -> None:
    """Make the data set and its sheet with a progress bar. UserError: as ``datasets.synthetic.writer.create``."""
    from datasets.synthetic.outlines import check_letters
    from datasets.synthetic.writer import create
    from examples.data_sheet import write_data_sheet

    check_letters(recipe.scene)
    for note in notes_on(recipe):
        click.echo(f"note: {note}")
    with progress_bar(title) as progress:
        create(path, recipe, progress, overwrite, finish=lambda folder: write_data_sheet(folder, recipe))


def say_what_was_made(path: str, recipe: Recipe) -> None:
    """The folder, how many images are in it and where its data sheet is."""
    counts = said({split: count for split, count in recipe.counts.items() if count})
    click.echo(f"{path}: {counts}, {recipe.scene.width} x {recipe.scene.height}; see {Path(path) / 'README.md'}")


def root_flag(path: str, configured: str) -> str:
    """What the next program must be told about where the data is; "" if it is where it is looked for."""
    return "" if Path(path).resolve() == Path(configured).resolve() else f" {shlex.quote(f'--dataset_root={path}')}"
