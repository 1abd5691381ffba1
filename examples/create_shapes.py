"""Create scenes of any shapes (squares, stars, blobs, letters), with presets such as Matterport's Shapes or nuclei."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from datasets.synthetic.recipes import Recipe
from maskrcnn.command_line import click_options
from maskrcnn.config import UserError, flag_values, merge, option
from maskrcnn.programs import format_command
from maskrcnn.text import format_count
from workbench.config import load_config
from workbench.conversion import FORMATS, get_reader_name, print_conversion
from workbench.progress import progress_bar
from workbench.synthetic import (
    SCENE_OPTIONS,
    CreateConfig,
    RecipeCommand,
    ScenesConfig,
    apply_flags,
    create_data_set,
    find_training_obstacle,
    format_root_flag,
    load_base_recipe,
    print_summary,
)


@dataclass(frozen=True)
class AlsoConfig:
    """Other formats."""

    also: tuple[str, ...] = option(
        (),
        "additional formats to write, as by examples.convert, to PATH-cst and so on",
        flag="also",
        choices=tuple(FORMATS),
    )


@click.command(
    cls=RecipeCommand,
    preset=ScenesConfig.preset,
    common=(
        "preset",
        "scene",
        "shapes",
        "layout",
        *SCENE_OPTIONS,
        "also",
    ),
    example=format_command("create", "--preset=nuclei", "--path=data/nuclei"),
)
@click_options(ScenesConfig)
@click_options(AlsoConfig)
@click_options(CreateConfig)
def main(preset: str | None, scene: str | None, also: str | None, **flags: Any) -> None:
    """Create images of small shapes, with COCO annotations and label images.

    The defaults are those of the preset, or of the recipe given with --scene (such as a data set's dataset.toml);
    --preset=NAME --help shows them. The same options give the same pixels on every machine (except for Poisson noise
    and JPEG).
    """
    if preset is not None and scene is not None:
        raise UserError(f"--preset={preset} and --scene={scene}: give one of them")
    start = merge(ScenesConfig(), flag_values(ScenesConfig, {"preset": preset, "scene": scene}))
    formats = merge(AlsoConfig(), flag_values(AlsoConfig, {"also": also})).also
    recipe = apply_flags(flags, load_base_recipe(start))
    configured = load_config().paths.shapes_root
    path, overwrite = flags["path"] or configured, bool(flags["overwrite"])
    folders = {each: f"{Path(path)}-{each}" for each in formats}
    check_also(folders, recipe, overwrite)
    if recipe.n_val and flags["n_val"] is None and (flags["n_train"] or flags["n_test"]):
        count = format_count(recipe.n_val, "validation images are")
        click.echo(f"note: {count} also created; --n_val=0 leaves them out")
    create_data_set(path, recipe, overwrite)
    print_summary(path, recipe)
    for each, folder in folders.items():
        write_also(path, each, folder, overwrite)
    obstacle = find_training_obstacle(recipe)
    command = f"{format_command('train', '--dataset=shapes')}{format_root_flag(path, configured)}"
    click.echo(obstacle or f"Next: {command}")
    for each, folder in ({} if obstacle else folders).items():
        root = shlex.quote(f"--dataset_root={folder}")
        click.echo(f"      {format_command('train', f'--dataset={get_reader_name(each, has_masks=True)}')} {root}")
    if start.preset == "cst" and scene is None and "cst" not in folders:
        command = format_command("convert", path, "--to=cst", f"--output={Path(path)}-cst")
        click.echo(f"      {command}   # CST's own CSV and JPEG files")


def check_also(folders: Mapping[str, str], recipe: Recipe, overwrite: bool) -> None:
    """Check, before anything is drawn, that the other formats support the data and their folders are free.

    Raises:
        UserError: If not.
    """
    from datasets.readers.cst import Cst

    strange = [name for name in recipe.scene.objects.class_names if name not in Cst.class_names]
    if "cst" in folders and strange:
        raise UserError(f"--also=cst: supports {', '.join(Cst.class_names)} only, not '{strange[0]}'; use --also=coco")
    for each, folder in folders.items():
        if Path(folder).exists() and not overwrite:
            raise UserError(f"--also={each}: {folder} already exists; --overwrite replaces it, --path chooses another")


def write_also(path: str, to: str, folder: str, overwrite: bool) -> None:
    """Write the data set in another format."""
    from datasets.writing.conversion import convert
    from datasets.writing.discovery import open_parts

    with progress_bar(f"Writing {to}") as progress:
        done = convert(open_parts(Path(path), "shapes"), folder, to, None, overwrite, progress)
    print_conversion(folder, to, done)


if __name__ == "__main__":
    main()
