"""What the programs that write data in other formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workbench.command_line import describe_counts

if TYPE_CHECKING:
    from datasets.writing.conversion import Conversion

FORMATS = {"coco": "coco", "voc": "voc", "dsb": "dsbowl2018", "labels": "labels", "cst": "cst"}  # and their readers


def say_written(folder: str, to: str, done: Conversion) -> None:
    """What is in the folder now, and what the format could not hold."""
    click.echo(f"{folder}: {describe_counts(done.images)} with {sum(done.objects.values()):,} objects, as {to}")
    for line in done.losses.lines():
        click.echo(f"Not held by {to}: {line}")


def reader_of(to: str, has_masks: bool) -> str:
    """What --dataset names the reader of a format."""
    return FORMATS[to] + ":2012-masks" * (to == "voc" and has_masks)
