"""Functions shared by the programs that write data in other formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from maskrcnn.command_line import describe_counts
from maskrcnn.text import format_count

if TYPE_CHECKING:
    from datasets.writing.conversion import Conversion

FORMATS = {  # format: reader
    "coco": "coco",
    "voc": "voc",
    "dsb": "dsbowl2018",
    "labels": "labels",
    "cst": "cst",
    "yolo": "yolo",
    "roboflow": "yolo",
    "labelme": "labelme",
    "geojson": "qupath",
}
WRITE_ONLY = ("label_studio",)  # it is read as Label Studio exports it, in COCO's format
SPLITS_BY_NAME = ("dsb", "cst")  # formats whose readers never take a part "val" as the test set
UNNAMED_PARTS = (
    "dsb",
    "labels",
    "labelme",
    "geojson",
)  # one part is images without a split, which is drawn


def print_conversion(folder: str, to: str, done: Conversion) -> None:
    """Print what was written to the folder, by its roles in training, and what the format could not store."""
    from datasets.writing.discovery import PARTS, get_roles

    objects = format_count(done.objects.total(), "objects")
    roles = get_roles(FORMATS[to], done.images) if to in FORMATS else dict(zip(PARTS, PARTS, strict=True))
    counts = describe_counts({roles[part]: count for part, count in done.images.items()})
    click.echo(f"{folder}: {counts} with {objects}, as {to}")
    for line in done.losses.lines():
        click.echo(f"Not stored by {to}: {line}")


def get_reader_name(to: str, has_masks: bool) -> str:
    """Return the value of --dataset for reading a format."""
    return FORMATS[to] + ":2012-masks" * (to == "voc" and has_masks)
