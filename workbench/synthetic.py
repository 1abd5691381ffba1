"""Creation of synthetic data sets with a progress bar and a data sheet, shared by the programs."""

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
from maskrcnn.command_line import DEFAULTS, HELP_ALL, SettingsCommand, describe_counts
from maskrcnn.config import UserError, flag_values, merge, option, settings
from workbench.progress import progress_bar

SCENE_OPTIONS = (  # that `--help` shows
    "path",
    "n_train",
    "n_val",
    "n_test",
    "width",
    "height",
    "n_groups",
    "n_objects_per_group",
    "n_free",
    "min_diameter",
    "max_diameter",
    "contrast",
    "noise",
    "psf",
    "seed",
    "overwrite",
)


@dataclass(frozen=True)
class CreateConfig:
    """Data set."""

    path: str | None = option(None, "folder to create (default: the data set's root in smallobjects.toml)", flag="path")
    n_train: int = option(128, "number of training images", flag="n_train", minimum=0)
    n_val: int = option(16, "number of validation images", flag="n_val", minimum=0)
    n_test: int = option(32, "number of test images", flag="n_test", minimum=0)
    overwrite: bool = option(False, "replace an existing data set", flag="overwrite")
    scene: SceneConfig = field(default_factory=SceneConfig)


@dataclass(frozen=True)
class ScenesConfig:
    """Recipe."""

    preset: str = option("shapes", "recipe with the default options", flag="preset", choices=tuple(PRESETS))
    scene: str | None = option(None, "TOML file of a recipe, instead of a preset", flag="scene")


def apply_flags(flags: Mapping[str, Any], base: Recipe) -> Recipe:
    """Return `base` with the given flags of `CreateConfig`.

    Raises:
        UserError: If a value is invalid, or the options are inconsistent.
    """
    layer = flag_values(
        CreateConfig, {name: value for name, value in flags.items() if name not in ("path", "overwrite")}
    )
    return merge(base, layer)


def load_base_recipe(start: ScenesConfig) -> Recipe:
    """Return the recipe of `--scene`, or else of `--preset`.

    Raises:
        UserError: If the file is invalid.
    """
    return PRESETS[start.preset]() if start.scene is None else read_recipe(start.scene)


class RecipeCommand(SettingsCommand):
    """Command whose --help shows the defaults of the recipe given by --preset or --scene."""

    def __init__(self, *args: Any, preset: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.preset = preset

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; with --help, set the defaults to those of the recipe first."""
        if not set(args) & {*ctx.help_option_names, *HELP_ALL}:
            return super().parse_args(ctx, args)
        try:
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            named: dict[str, Any] = {name: given[name] for name in ("preset", "scene") if name in given}
            base = load_base_recipe(merge(ScenesConfig(preset=self.preset), flag_values(ScenesConfig, named)))
        except (click.UsageError, UserError):  # reported by the call without --help
            base = PRESETS[self.preset]()
        values = {
            each.flag: functools.reduce(getattr, key.split("."), base)
            for key, each in settings(Recipe).items()
            if each.flag
        }
        ctx.meta[DEFAULTS] = values | {"preset": self.preset}
        return super().parse_args(ctx, args)


def list_notes(recipe: Recipe) -> Iterator[str]:
    """Yield notes on options that are valid but may be unintended."""
    scene, objects = recipe.scene, recipe.scene.objects
    size, shorter = f"{scene.width} x {scene.height}", min(scene.width, scene.height)
    if not scene.num_objects:
        yield "the images contain no objects (n_groups and n_free are 0): training and evaluation are impossible"
    elif objects.max_diameter + 2 * objects.outline > shorter:
        yield (
            f"the largest objects (max_diameter {objects.max_diameter:g}) are larger than the image of {size}: "
            "they are cut by its edge"
        )
    if (cover := compute_mean_cover(scene)) > 1:
        yield f"the areas of the objects sum to {cover:.1f} times the image: hidden objects have no annotation"


def compute_mean_cover(scene: SceneConfig) -> float:
    """Compute the expected area of all drawn objects over that of the image; diameters are log-uniform."""
    low, high = scene.objects.min_diameter, scene.objects.max_diameter
    mean_square = low**2 if low == high else (high**2 - low**2) / (2 * math.log(high / low))
    return scene.num_objects * math.pi / 4 * mean_square / (scene.width * scene.height)


def create_data_set(path: str, recipe: Recipe, overwrite: bool = False, title: str = "Drawing") -> None:
    """Create the data set and its sheet with a progress bar.

    Raises:
        UserError: As `datasets.synthetic.writer.create`.
    """
    from datasets.synthetic.shapes import check_letters
    from datasets.synthetic.writer import create
    from workbench.data_sheet import write_data_sheet

    check_letters(recipe.scene)
    for note in list_notes(recipe):
        click.echo(f"note: {note}")
    with progress_bar(title) as progress:
        create(path, recipe, progress, overwrite, finish=lambda folder: write_data_sheet(folder, recipe))


def find_training_obstacle(recipe: Recipe) -> str | None:
    """Return why a data set of a recipe cannot be trained on, or None; missing test images are drawn for training."""
    if not recipe.scene.num_objects:
        return "Training is impossible: the images contain no objects"
    if recipe.n_train < (1 if recipe.n_test else 2):
        return f"Training needs training and test images: n_train is {recipe.n_train}, n_test {recipe.n_test}"
    return None


def print_summary(path: str, recipe: Recipe) -> None:
    """Print the folder, the numbers of images, and the path of the data sheet."""
    counts = describe_counts({split: count for split, count in recipe.counts.items() if count})
    click.echo(f"{path}: {counts}, {recipe.scene.width} x {recipe.scene.height}; see {Path(path) / 'README.md'}")


def format_root_flag(path: str, configured: str) -> str:
    """Format the flag that gives the next program the data folder; "" for the default folder."""
    return "" if Path(path).resolve() == Path(configured).resolve() else f" {shlex.quote(f'--dataset_root={path}')}"
