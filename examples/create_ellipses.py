"""Create the ellipses: images of small objects with instance masks and known difficulty."""

from __future__ import annotations

from typing import Any

import click

from datasets.synthetic.recipes import Recipe
from maskrcnn.command_line import SettingsCommand, click_options
from maskrcnn.programs import format_command
from workbench.config import load_config
from workbench.synthetic import (
    SCENE_OPTIONS,
    CreateConfig,
    apply_flags,
    create_data_set,
    find_training_obstacle,
    format_root_flag,
    print_summary,
)


@click.command(
    cls=SettingsCommand,
    common=SCENE_OPTIONS,
    example="python create_ellipses.py --path=data/hard --contrast=0.2 --noise=0.05",
)
@click_options(CreateConfig)
def main(**flags: Any) -> None:
    """Create a training and a test set of small ellipses with masks, in COCO format and as label images.

    The same options give the same pixels on every machine.
    """
    recipe = apply_flags(flags, Recipe())
    configured = load_config().paths.ellipses_root
    path = flags["path"] or configured
    create_data_set(path, recipe, bool(flags["overwrite"]))
    print_summary(path, recipe)
    command = f"{format_command('train')}{format_root_flag(path, configured)}"
    click.echo(find_training_obstacle(recipe) or f"Next: {command}")


if __name__ == "__main__":
    main()
