"""Convert a data set to another format: `python -m examples.convert data/shapes --to=coco --output=data/coco`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.config import ReadingConfig
from datasets.registry import AUTO
from maskrcnn.command_line import SettingsCommand, click_options, describe_counts, take_flags
from maskrcnn.config import UserError, flag_values, merge, option
from maskrcnn.images.config import StoredImagesConfig
from maskrcnn.programs import format_command
from maskrcnn.text import format_count
from workbench.config import take_folder
from workbench.conversion import FORMATS, SPLITS_BY_NAME, UNNAMED_PARTS, WRITE_ONLY, get_reader_name, print_conversion
from workbench.progress import progress_bar

if TYPE_CHECKING:
    from datasets.interface import DetectionDataset
    from datasets.writing.conversion import Conversion, ImageSelection

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class ConvertConfig(StoredImagesConfig):
    """Conversion."""

    to: str | None = option(
        None,
        "format: COCO's JSON, PASCAL VOC, DSB 2018, label images, CST, YOLO for Ultralytics or as Roboflow exports it, "
        "LabelMe, QuPath's GeoJSON, or predictions for Label Studio",
        flag="to",
        choices=(*FORMATS, *WRITE_ONLY),
    )
    output: str | None = option(None, "folder to create", flag="output")
    dataset: str = option(
        AUTO,
        "format of SRC, as in training: auto (recognized from its files), coco:2014, my_module:MyData, …",
        flag="dataset",
    )
    parts: tuple[str, ...] | None = option(None, "parts to convert (default: all)", flag="parts", choices=PARTS)
    exclude_ids: str | None = option(None, "file of image ids or names to leave out, one per line", flag="exclude_ids")
    subset: str | None = option(
        None, 'images of each part to use, such as "index % 4 == 0", as in training', flag="subset"
    )
    skip_bad: bool = option(False, "leave out unreadable images", flag="skip_bad")
    overwrite: bool = option(False, "replace the output of an earlier conversion", flag="overwrite")


@click.command(
    cls=SettingsCommand,
    common=(
        "to",
        "output",
        "dataset",
        "parts",
        "exclude_ids",
        "subset",
        "classes",
        "map_classes",
        "crowds",
        "skip_bad",
        "overwrite",
    ),
    example=format_command("convert", "data/ellipses", "--to=voc", "--output=FOLDER"),
)
@click.argument("source", metavar="SRC", required=False)
@click.option("--dataset_root", "--dataset-root", metavar="SRC", help="folder of the data set, as in training")
@click_options(ConvertConfig)
@click_options(ReadingConfig)
def main(source: str | None, dataset_root: str | None, **flags: Any) -> None:
    """Write the data set in the folder SRC in another format: images, boxes, masks and classes, part by part.

    What the format cannot store is counted and printed at the end.
    """
    source = take_folder(source, dataset_root)
    if source is None:
        raise UserError("the folder of the data set is missing: give it as SRC")
    own = take_flags(ReadingConfig, flags)
    reading = merge(ReadingConfig(), flag_values(ReadingConfig, own))
    convert_config = merge(ConvertConfig(), flag_values(ConvertConfig, flags))
    target = check_target(source, convert_config)
    from datasets.recognition import recognize_layout
    from datasets.writing.conversion import BadImagesError, convert
    from datasets.writing.discovery import find_openers, get_roles, open_parts
    from maskrcnn.images.options import make_image_options, use_image_options

    click.get_current_context().with_resource(use_image_options(make_image_options(convert_config)))
    name = recognize_layout(Path(source)) if convert_config.dataset == AUTO else convert_config.dataset
    wanted = convert_config.parts or ()
    parts = open_parts(Path(source), name, wanted, reading, convert_config.skip_bad)
    roles = get_roles(name, find_openers(Path(source), name, reading) if wanted else parts)
    click.echo(f"{source}: {name} with {describe_counts({roles[part]: len(data) for part, data in parts.items()})}")
    if convert_config.to in SPLITS_BY_NAME:
        parts = {roles[part]: data for part, data in parts.items()}
        roles = {part: part for part in parts}
    choice = make_selection(convert_config, parts, roles)
    try:
        with progress_bar("Converting") as progress:
            done = convert(parts, target, str(convert_config.to), choice, convert_config.overwrite, progress)
    except BadImagesError as error:
        for reason in error.bad.reasons:
            click.echo(f"Bad: {reason}")
        raise
    report(convert_config, parts, roles, done)


def check_target(source: str, config: ConvertConfig) -> Path:
    """Return the folder to create; raise a UserError for missing flags, or a folder that is or contains the source."""
    if config.to is None:
        raise UserError(f"--to=FORMAT is missing: use one of {', '.join((*FORMATS, *WRITE_ONLY))}")
    if config.output is None:
        raise UserError("--output=FOLDER is missing: name the folder to create")
    target, folder = Path(config.output).resolve(), Path(source).resolve()
    if target == folder or target in folder.parents:
        raise UserError(f"--output={config.output}: is or contains the source {source}; choose another --output")
    return Path(config.output)


def make_selection(
    config: ConvertConfig, parts: Mapping[str, DetectionDataset], roles: Mapping[str, str]
) -> ImageSelection:
    """Select the images to convert, and print how many --exclude_ids leaves out, by the parts' roles in training.

    Raises:
        UserError: If the file or expression is invalid.
    """
    from datasets.expressions import Expression
    from datasets.writing.conversion import ImageSelection, find_excluded

    subset = None if config.subset is None else Expression(config.subset)
    if config.exclude_ids is None:
        return ImageSelection(subset=subset, skip_bad=config.skip_bad)
    excluded, unmatched = find_excluded(parts, config.exclude_ids)
    unknown = f" ({format_count(unmatched, 'lines')} in it without an image)" if unmatched else ""
    counts = describe_counts({roles[part]: len(places) for part, places in excluded.items()})
    click.echo(f"{config.exclude_ids}: leaves out {counts}{unknown}")
    return ImageSelection(excluded, subset, config.skip_bad)


def report(
    config: ConvertConfig, parts: Mapping[str, DetectionDataset], roles: Mapping[str, str], done: Conversion
) -> None:
    """Print what was written, lost and left out, by the parts' roles in training, and the next command."""
    from datasets.notices import NAMES, describe_notices

    print_conversion(str(config.output), str(config.to), done)
    for line in describe_notices({NAMES[roles[part]]: data.counts for part, data in parts.items()}):
        click.echo(line)
    if done.bad:
        click.echo(f"Left out, because unreadable: {format_count(len(done.bad), 'images')}")
        for reason in done.bad.reasons:
            click.echo(f"Bad: {reason}")
    click.echo(format_next_command(config, parts, done))


def format_next_command(config: ConvertConfig, parts: Mapping[str, DetectionDataset], done: Conversion) -> str:
    """Format the next command, or a note that the data cannot be used for training."""
    if config.to in WRITE_ONLY:
        folder = shlex.quote(str(config.output))
        return f"Next: import {folder}/tasks.json into Label Studio, with local file serving from {folder}"
    if "train" not in done.images and (len(done.images) > 1 or config.to not in UNNAMED_PARTS):
        return "The output has no training images: to train on it, also convert the part 'train'"
    if done.images.total() < 2:
        return "The output has one image: training needs at least one training and one test image"
    has_masks = all(data.has_masks for data in parts.values())
    flags = [f"--dataset={get_reader_name(str(config.to), has_masks)}", f"--dataset_root={config.output}"]
    flags += ["--head=faster_rcnn"] * (not has_masks)
    return f"Next: {format_command('train', *flags)}"


if __name__ == "__main__":
    main()
