"""Describe a data set and propose anchors and limits: `python -m examples.describe_data --dataset=ellipses`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskrcnn.command_line import SettingsCommand, click_options, format_flags, take_flags
from maskrcnn.config import UserError, flag_values, merge, read_toml, settings, to_toml, toml_values
from maskrcnn.programs import format_command
from maskrcnn.text import escape, format_count
from workbench.anchor_fit import (
    ANCHOR_KEYS,
    LIMIT_KEYS,
    AnchorSet,
    DescribeConfig,
    make_anchor_sets,
    measure_crowding,
)
from workbench.config import CONFIG_FILE, ExperimentConfig, config_option, format_arguments, load_config, take_path
from workbench.output import check_parent, check_png, choose_picture
from workbench.trust import check_trust

if TYPE_CHECKING:
    from datasets.statistics import Objects
    from maskrcnn.model.config import DetectorConfig
    from workbench.data import Data

_OTHER_FLAGS = [
    setting.flag
    for key, setting in settings(ExperimentConfig).items()
    if setting.flag and not key.startswith(("data.", "reading.")) and key not in ("preset", "augment.crop_size")
]


@click.command(
    cls=SettingsCommand,
    common=(
        "dataset",
        "dataset_root",
        "subset",
        "skip_bad",
        "max_images",
        "picture",
        "write_config",
        "coverage",
        "max_anchors",
        "finest_stride",
        "fixed_size",
        "config",
    ),
    example=format_command("describe", "FOLDER", "--write_config=nuclei.toml"),
)
@click.argument("path", required=False)
@click_options(DescribeConfig)
@click_options(ExperimentConfig, without=_OTHER_FLAGS)
@config_option
def main(path: str | None, **flags: Any) -> None:
    """Describe the objects of the data set at PATH (or --dataset), and propose anchors, strides, and limits for it.

    Sizes, shapes, crowding, overlap, and classes are printed and plotted. Ignored objects are only counted. Proposals
    are based on the training images; --write_config writes them to a file for the option --config of training.
    """
    given = {flag: value for flag, value in take_path(path, flags).items() if value is not None}
    own = take_flags(DescribeConfig, given)
    describe = merge(DescribeConfig(), flag_values(DescribeConfig, own))
    config = load_config(flags=given)
    check_trust(config.data.dataset, flags, config.detector.backbone.name)
    check_png(describe.picture, "picture")
    if describe.write_config is not None:
        check_new(describe.write_config)
    from workbench.data import open_data, resolve_dataset

    config = resolve_dataset(config, click.echo)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, cache_mb=0)
    )  # each image is read only once
    data = open_data(config, click.echo)
    with choose_picture(describe.picture, "picture", "describe", "data.png", config) as picture:
        sets = describe_data(data, config, describe, picture)
    print_results(picture, describe, given, own, sets)


def describe_data(data: Data, config: ExperimentConfig, describe: DescribeConfig, picture: Path) -> list[AnchorSet]:
    """Print the tables and draw the picture; return the current and the proposed anchors, or [] without objects."""
    from workbench import data_tables

    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if data.validates_on_test:
        del splits["validation"]
    found = {name: data_tables.read_with_progress(name, split, describe.max_images) for name, split in splits.items()}
    objects = {name: each.targets() for name, each in found.items()}
    data_tables.print_images(found, splits)
    if words := describe_first_file(data):
        click.echo(f"Metadata of the first training image: {words}")
    print_notices(data, found)
    data_tables.print_objects(objects, data.class_names)
    sets, crowd = [], measure_crowding(objects, config)
    if len(objects["train"]):
        sets = make_anchor_sets(objects, config, describe, crowd)
        data_tables.print_anchors(sets, describe.coverage)
        data_tables.print_limits(sets[0].detector, sets[-1].detector, LIMIT_KEYS, crowd)
    else:
        click.echo("The training images contain no objects: no anchors are proposed.")
    draw_picture(picture, config, data, objects, sets)
    return sets


def describe_first_file(data: Data) -> str:
    """Describe the pixel size, channel names and georeference of the first training image; "" if there are none."""
    from datasets.splits import find_image_file
    from maskrcnn.images.large import read_metadata

    path = find_image_file(data.train, 0)
    return "" if path is None else escape(read_metadata(path).describe())


def print_notices(data: Data, found: Mapping[str, Objects]) -> None:
    """Print the notices that changed, after more images were read than for those shown when the data was opened."""
    from datasets.notices import Extent, Preview

    names = {"train": "training", "validation": "validation", "test": "test"}
    lengths = {names[part]: len(dataset) for part, dataset in zip(found, data.splits().values(), strict=True)}
    extents = {names[part]: Extent(len(each.sizes), lengths[names[part]], len(each)) for part, each in found.items()}
    partial = {name: each for name, each in extents.items() if each.images < each.total}
    for line in data.notes(Preview(data.seen.opening, partial)):
        if line not in data.shown:
            click.echo(line)


# ---- files


def check_new(name: str) -> None:
    """Check that a file does not exist yet, so that no options are overwritten.

    Raises:
        UserError: If it exists.
    """
    path = Path(name)
    if path.suffix.lower() != ".toml":
        raise UserError(f"--write_config={path}: must end in .toml")
    check_parent(path, "write_config")
    if path.exists():
        raise UserError(
            f"--write_config={name}: already exists and is not overwritten; choose another name (training reads it "
            f"with --config, in addition to {CONFIG_FILE})"
        )


def format_options(config: ExperimentConfig, keys: set[str]) -> str:
    """Format some options as TOML with their help texts."""
    lines, table = [], ""
    for line in to_toml(config, comments=False).splitlines():
        if line.startswith("["):
            table = line[1:-1] + "."
        name = line.partition(" = ")[0]
        if table + name in keys:
            header = f"[{table[:-1]}]"
            if table and header not in lines:
                lines += ["", header]
            lines += [f"# {settings(ExperimentConfig)[table + name].help}", line]
    return "\n".join(lines).strip() + "\n"


def write_config(path: Path, given: Mapping[str, Any], detector: DetectorConfig, about: str) -> None:
    """Write the proposal, and the options of the data given on the command line or in another file."""
    from maskrcnn.files import write_text

    flags = {flag: value for flag, value in given.items() if flag != "trust"}
    file = flags.pop("config", None)
    layers = [{} if file is None else toml_values(ExperimentConfig, read_toml(file), file)]
    layers += [flag_values(ExperimentConfig, flags)]
    config = dataclasses.replace(merge(ExperimentConfig(), *layers), detector=detector)
    keys = {key for layer in layers for key in layer} | {*ANCHOR_KEYS, *LIMIT_KEYS}
    write_text(path, f"# Proposed by examples.describe_data: {about}\n\n{format_options(config, keys)}")


# ---- output


def draw_picture(
    picture: Path,
    config: ExperimentConfig,
    data: Data,
    objects: Mapping[str, Objects],
    sets: list[AnchorSet],
) -> None:
    """Plot statistics and anchors as one picture."""
    import numpy as np

    from datasets import statistics as st
    from maskrcnn.model.coverage import compute_strides
    from maskrcnn.plotting.data_picture import AnchorFigures, DataFigures, plot_data

    figures = {}
    for name, each in objects.items():
        classes = dict(zip(data.class_names, st.count_per_class(each, len(data.class_names)).tolist(), strict=False))
        figures[name] = DataFigures(
            st.compute_box_sizes(each),
            st.compute_aspects(each),
            st.compute_max_overlaps(each),
            st.count_per_image(each).astype(np.float64),
            st.compute_densities(each),
            classes,
        )
    anchors = []
    for each_set in sets:
        sizes = dict(zip(compute_strides(each_set.detector.backbone), each_set.detector.rpn.anchor_sizes, strict=True))
        ratios = each_set.detector.rpn.anchor_ratios
        anchors.append(AnchorFigures(each_set.name, sizes, ratios, each_set.ious["train"]))
    names = {"train": "training", "validation": "validation", "test": "test"}
    numbers = ", ".join(
        f"{format_count(len(each), 'objects')} in {format_count(len(each.sizes), f'{names[name]} images')}"
        for name, each in objects.items()
    )
    plot_data(figures, anchors, picture, f"{config.data.dataset}: {numbers}")


def print_results(
    picture: Path, describe: DescribeConfig, given: Mapping[str, Any], own: Mapping[str, Any], sets: list[AnchorSet]
) -> None:
    """Print what was written, and the next command."""
    click.echo(f"Wrote {picture}")
    if describe.write_config is None:
        again = [*format_arguments(given), *format_flags(own), *["--write_config=anchors.toml"] * bool(sets)]
        if sets:
            click.echo(f"Next: {format_command('describe', *again)}")
        return
    if not sets:
        raise UserError(f"--write_config={describe.write_config}: not written, as there are no training objects")
    path = Path(describe.write_config)
    data = ", ".join(str(given[flag]) for flag in ("dataset", "dataset_root") if flag in given) or "the default data"
    write_config(path, given, sets[-1].detector, f"anchors, strides and limits for {data}")
    click.echo(f"Wrote {path}")
    read_anyway = path.resolve() == CONFIG_FILE.resolve()
    click.echo(f"Next: {format_command('train', *[f'--config={path}'] * (not read_anyway))}")


if __name__ == "__main__":
    main()
