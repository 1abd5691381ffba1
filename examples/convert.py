"""Data from one layout into another: `python -m examples.convert data/shapes --to=coco --output=data/shapes-coco`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.config import ReadingConfig
from maskrcnn.config import UserError, flag_values, merge, option, settings
from workbench.command_line import SettingsCommand, click_options, describe_counts
from workbench.conversion import FORMATS, reader_of, say_written
from workbench.progress import progress_bar

if TYPE_CHECKING:
    from datasets.interface import DetectionDataset
    from datasets.writing.conversion import Conversion, ImageSelection

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class ConvertConfig:
    """Conversion."""

    to: str | None = option(
        None, "format: COCO's JSON, PASCAL VOC, DSB 2018, label images or CST", flag="to", choices=tuple(FORMATS)
    )
    output: str | None = option(None, "folder to make", flag="output")
    dataset: str | None = option(
        None,
        "what SRC is, as in training: coco:2014, my_module:MyData .. (default: seen from its files)",
        flag="dataset",
    )
    parts: tuple[str, ...] | None = option(None, "parts to convert (default: those there)", flag="parts", choices=PARTS)
    exclude_ids: str | None = option(None, "file of image ids or names to leave out, one a line", flag="exclude_ids")
    subset: str | None = option(
        None, 'images of each part to take, such as "index % 4 == 0", as in training', flag="subset"
    )
    skip_bad: bool = option(False, "leave images out that cannot be read", flag="skip_bad")
    overwrite: bool = option(False, "replace what an earlier call made at this place", flag="overwrite")


@click.command(cls=SettingsCommand, example="python -m examples.convert data/ellipses --to=voc --output=FOLDER")
@click.argument("source", metavar="SRC")
@click_options(ConvertConfig)
@click_options(ReadingConfig)
def main(source: str, **flags: Any) -> None:
    """Write the data set in the folder SRC in another format: images, boxes, masks and classes, part by part.

    What the format cannot hold is counted and said at the end.
    """
    own = {flag: flags.pop(flag) for flag in settings(ReadingConfig)}
    reading = merge(ReadingConfig(), flag_values(ReadingConfig, own))
    convert_config = merge(ConvertConfig(), flag_values(ConvertConfig, flags))
    target = check_target(source, convert_config)
    from datasets.writing.conversion import BadImagesError, convert
    from datasets.writing.discovery import open_parts, recognize_layout

    name = convert_config.dataset or recognize_layout(Path(source))
    parts = open_parts(Path(source), name, convert_config.parts or (), reading, convert_config.skip_bad)
    click.echo(f"{source}: {name} with {describe_counts({part: len(data) for part, data in parts.items()})}")
    choice = choice_of(convert_config, parts)
    try:
        with progress_bar("Converting") as progress:
            done = convert(parts, target, str(convert_config.to), choice, convert_config.overwrite, progress)
    except BadImagesError as error:
        for reason in error.bad.reasons:
            click.echo(f"Bad: {reason}")
        raise
    report(convert_config, parts, done)


def check_target(source: str, config: ConvertConfig) -> Path:
    """The folder to make. UserError for flags that are missing, and a folder that is or holds the source."""
    if config.to is None:
        raise UserError(f"--to=FORMAT is missing: use one of {', '.join(FORMATS)}")
    if config.output is None:
        raise UserError("--output=FOLDER is missing: name the folder to make")
    target, folder = Path(config.output).resolve(), Path(source).resolve()
    if target == folder or target in folder.parents:
        raise UserError(f"--output={config.output}: is or holds the source {source}; choose another --output")
    return Path(config.output)


def choice_of(config: ConvertConfig, parts: Mapping[str, DetectionDataset]) -> ImageSelection:
    """Which images to convert; says how many --exclude_ids leaves out. UserError for a bad file or expression."""
    from datasets.expressions import Expression
    from datasets.writing.conversion import ImageSelection, find_excluded

    subset = None if config.subset is None else Expression(config.subset)
    if config.exclude_ids is None:
        return ImageSelection(subset=subset, skip_bad=config.skip_bad)
    excluded, strange = find_excluded(parts, config.exclude_ids)
    unknown = f" ({strange:,} of its lines name no image here)" if strange else ""
    click.echo(
        f"{config.exclude_ids}: leaves out {describe_counts({part: len(e) for part, e in excluded.items()})}{unknown}"
    )
    return ImageSelection(excluded, subset, config.skip_bad)


def report(config: ConvertConfig, parts: Mapping[str, DetectionDataset], done: Conversion) -> None:
    """What was written, what was lost or left out, and what to type next."""
    from datasets.notices import NAMES, describe_notices

    say_written(str(config.output), str(config.to), done)
    for part, data in parts.items():
        for line in describe_notices({NAMES[part]: data.counts}):
            click.echo(line)
    if done.bad:
        click.echo(f"Left out, because they cannot be read: {len(done.bad):,} images")
        for reason in done.bad.reasons:
            click.echo(f"Bad: {reason}")
    click.echo(next_command(config, parts, done))


def next_command(config: ConvertConfig, parts: Mapping[str, DetectionDataset], done: Conversion) -> str:
    if "train" not in done.images or len(done.images) < 2:
        return f"It has one part, {next(iter(done.images))}; training needs training and test images"
    has_masks = all(data.has_masks for data in parts.values())
    flags = [f"--dataset={reader_of(str(config.to), has_masks)}", f"--dataset_root={config.output}"]
    flags += ["--head=faster_rcnn"] * (not has_masks)
    return f"Next: {shlex.join(['python', 'example_smallobject_train.py', *flags])}"


if __name__ == "__main__":
    main()
