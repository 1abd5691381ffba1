"""Functions shared by the programs that write data in other formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from maskrcnn.command_line import describe_counts
from maskrcnn.text import format_count

if TYPE_CHECKING:
    from datasets.writing.conversion import Conversion

FORMATS = {"coco": "coco", "voc": "voc", "dsb": "dsbowl2018", "labels": "labels", "cst": "cst"}  # format: reader


def print_conversion(folder: str, to: str, done: Conversion) -> None:
    """Print what was written to the folder, and what the format could not store."""
    objects = format_count(done.objects.total(), "objects")
    click.echo(f"{folder}: {describe_counts(done.images)} with {objects}, as {to}")
    for line in done.losses.lines():
        click.echo(f"Not stored by {to}: {line}")


def get_reader_name(to: str, has_masks: bool) -> str:
    """Return the value of --dataset for reading a format."""
    return FORMATS[to] + ":2012-masks" * (to == "voc" and has_masks)
