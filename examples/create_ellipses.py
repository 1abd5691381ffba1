"""Makes the ellipses: images of small objects with instance masks, whose difficulty is known."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datasets.synthetic.config import EllipsesConfig
from examples.command_line import SettingsCommand, click_options
from examples.config import load_config
from maskrcnn.config import flag_values, merge, option


@dataclass(frozen=True)
class CreateConfig:
    """What to make."""

    path: str | None = option(None, "folder to make (default: ellipses_root of smallobjects.toml)", flag="path")
    n_train: int = option(128, "training images", flag="n_train", minimum=0)
    n_test: int = option(32, "test images", flag="n_test", minimum=0)
    overwrite: bool = option(False, "replace the data set that is there", flag="overwrite")
    ellipses: EllipsesConfig = field(default_factory=EllipsesConfig)


@click.command(cls=SettingsCommand)
@click_options(CreateConfig)
def main(**flags: Any) -> None:
    """Make a training and a test set of small ellipses, with masks, in COCO's format and as label images.

    The same settings give the same pixels on every machine.
    """
    config = merge(CreateConfig(), flag_values(CreateConfig, flags))
    configured = load_config().paths.ellipses_root
    path = configured if config.path is None else config.path
    make(path, config)
    scene = config.ellipses
    click.echo(f"{path}: {config.n_train} training and {config.n_test} test images, {scene.width} x {scene.height}")
    same = Path(path).resolve() == Path(configured).resolve()
    root = "" if same else f" {shlex.quote(f'--dataset_root={path}')}"
    click.echo(f"Next: python example_smallobject_train.py{root}")


def make(path: str, config: CreateConfig) -> None:
    """Make the data set with a progress bar."""
    from datasets.synthetic.writer import create

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Drawing", total=None)
        create(
            path,
            config.ellipses,
            config.n_train,
            config.n_test,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            overwrite=config.overwrite,
        )


if __name__ == "__main__":
    main()
