"""Makes scenes of any shapes: squares, stars, blobs, letters; presets like Matterport's Shapes, CST or nuclei."""

from __future__ import annotations

from typing import Any

import click

from examples.command_line import SettingsCommand, click_options
from examples.config import load_config
from examples.creating import (
    CreateConfig,
    ScenesConfig,
    base_recipe,
    make,
    recipe_of,
    root_flag,
    say_what_was_made,
)
from maskrcnn.config import UserError, flag_values, merge


@click.command(cls=SettingsCommand)
@click_options(ScenesConfig)
@click_options(CreateConfig)
def main(preset: str | None, scene: str | None, **flags: Any) -> None:
    """Make a training and a test set of small shapes, with masks, in COCO's format and as label images.

    The defaults are those of the preset, or of the recipe given with --scene; a data set's own dataset.toml is one. The
    same settings give the same pixels on every machine (but for Poisson noise and JPEG).
    """
    if preset is not None and scene is not None:
        raise UserError(f"--preset={preset} and --scene={scene}: give one of them")
    start = merge(ScenesConfig(), flag_values(ScenesConfig, {"preset": preset, "scene": scene}))
    recipe = recipe_of(flags, base_recipe(start))
    configured = load_config().paths.shapes_root
    path = flags["path"] or configured
    make(path, recipe, bool(flags["overwrite"]))
    say_what_was_made(path, recipe)
    click.echo(f"Next: python example_smallobject_train.py --dataset=shapes{root_flag(path, configured)}")


if __name__ == "__main__":
    main()
