"""Describe a data set and propose anchors and limits: `python -m examples.describe_data --dataset=ellipses`."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from examples.command_line import SettingsCommand, as_typed, click_options
from examples.config import CONFIG_FILE, ExperimentConfig, config_option, load_config
from examples.trust import check_trust
from maskrcnn.config import UserError, flag_values, merge, option, read_toml, settings, to_toml, toml_values

if TYPE_CHECKING:
    from datasets.statistics import Objects
    from examples.experiment import Data
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.coverage import TargetBoxes
    from maskrcnn.model.proposal import Crowding

ANCHOR_KEYS = (
    "detector.backbone.finest_stride",
    "detector.backbone.num_levels",
    "detector.backbone.pool_level",
    "detector.rpn.anchor_sizes",
    "detector.rpn.anchor_ratios",
    "detector.box.canonical_size",
    "detector.box.canonical_level",
)
LIMIT_KEYS = (
    "detector.rpn.pre_nms_limit",
    "detector.rpn.pre_nms_limit_training",
    "detector.rpn.post_nms_inference",
    "detector.rpn.post_nms_training",
    "detector.rpn.anchors_per_image",
    "detector.box.rois_per_image",
    "detector.box.max_instances",
)
_OTHER_FLAGS = [
    setting.flag
    for key, setting in settings(ExperimentConfig).items()
    if setting.flag and not key.startswith(("data.", "reading.")) and key not in ("preset", "augment.fixed_size")
]


@dataclass(frozen=True)
class DescribeConfig:
    """Description and proposal."""

    max_images: int = option(
        2000, "max. number of images to read per split, evenly spaced", flag="max_images", minimum=1
    )
    picture: str = option("data.png", "PNG file to write", flag="picture")
    write_config: str | None = option(None, "TOML file to write the proposal to", flag="write_config")
    coverage: float = option(
        0.95, "fraction of training objects to match at IoU .5", flag="coverage", minimum=0.0, maximum=1.0
    )
    max_anchors: int = option(9, "max. number of anchors per location", flag="max_anchors", minimum=1, maximum=30)
    finest_stride: str = option(
        "auto",
        "finest stride; auto: 2 (twice the time) if over 5% of the objects are below 8 px, otherwise 4",
        flag="finest_stride",
        choices=("auto", "2", "4"),
    )


@dataclass(frozen=True)
class AnchorSet:
    """Detector configuration and the fit of its anchors: IoU with the best anchor per object, by split."""

    name: str
    detector: DetectorConfig
    ious: Mapping[str, Any]


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
    example="python -m examples.describe_data --dataset=dsbowl2018 --write_config=nuclei.toml",
)
@click_options(DescribeConfig)
@click_options(ExperimentConfig, without=_OTHER_FLAGS)
@config_option
def main(**flags: Any) -> None:
    """Describe the objects of a data set, and propose anchors, strides, and top-k limits for it.

    Sizes, shapes, crowding, overlap, and classes are printed and plotted. Ignored objects are only counted. Proposals
    are based on the training images; --write_config writes them to a file for the option --config of training.
    """
    given = {flag: value for flag, value in flags.items() if value is not None}
    own = {flag: given.pop(flag) for flag in settings(DescribeConfig) if flag in given}
    describe = merge(DescribeConfig(), flag_values(DescribeConfig, own))
    config = load_config(flags=given)
    check_trust(config.data.dataset, flags)
    check_file("picture", describe.picture, ".png")
    if describe.write_config is not None:
        check_new(describe.write_config)
    from examples import data_tables
    from examples.experiment import open_data

    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, cache_mb=0)
    )  # each image is read only once
    data = open_data(config, click.echo)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if data.validates_on_test:
        del splits["validation"]
    found = {name: data_tables.read_with_progress(name, split, describe.max_images) for name, split in splits.items()}
    objects = {name: each.targets() for name, each in found.items()}
    data_tables.print_images(found, splits)
    data_tables.print_objects(objects, data.class_names)
    sets, crowd = [], measure_crowding(objects, config)
    if len(objects["train"]):
        sets = make_anchor_sets(objects, config, describe, crowd)
        data_tables.print_anchors(sets, describe.coverage)
        data_tables.print_limits(sets[0].detector, sets[-1].detector, LIMIT_KEYS, crowd)
    else:
        click.echo("The training images contain no objects: no anchors are proposed.")
    draw_picture(describe, config, data, objects, sets)
    print_results(describe, given, own, sets)


# ---- files


def check_file(flag: str, name: str, suffix: str) -> Path:
    """Check early that a file can be written.

    Raises:
        UserError: If it cannot.
    """
    path = Path(name)
    if path.suffix.lower() != suffix:
        raise UserError(f"--{flag}={path}: must end in {suffix}")
    if not path.parent.is_dir():
        raise UserError(f"--{flag}={path}: there is no folder {path.parent}; create it first, or choose another")
    if path.is_dir():
        raise UserError(f"--{flag}={path}: is a folder; choose another name")
    return path


def check_new(name: str) -> None:
    """Check that a file does not exist yet, so that no options are overwritten.

    Raises:
        UserError: If it exists.
    """
    if check_file("write_config", name, ".toml").exists():
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

    flags = dict(given)
    file = flags.pop("config", None)
    layers = [{} if file is None else toml_values(ExperimentConfig, read_toml(file), file)]
    layers += [flag_values(ExperimentConfig, flags)]
    config = dataclasses.replace(merge(ExperimentConfig(), *layers), detector=detector)
    keys = {key for layer in layers for key in layer} | {*ANCHOR_KEYS, *LIMIT_KEYS}
    write_text(path, f"# Proposed by examples.describe_data: {about}\n\n{format_options(config, keys)}")


# ---- proposal


def measure_crowding(objects: Mapping[str, Objects], config: ExperimentConfig) -> Crowding:
    """Measure how many objects are close together in an image of any split, and in a training sample."""
    import numpy as np

    from datasets.statistics import count_in_crops
    from maskrcnn.model.proposal import Crowding

    fullest = max((_find_max_density(each, config.detector.limit_size) for each in objects.values()), default=0)
    size = config.augment.fixed_size or (0,)
    around = count_in_crops(objects["train"], (size[0], size[-1]))
    crop, typical = np.percentile(around, [99, 50]).tolist() if len(around) else (0.0, 0.0)
    return Crowding(fullest, round(crop), round(typical))


def _find_max_density(objects: Objects, limit_size: int) -> int:
    """Find the maximum number of objects per image, divided by the factor that scales the image's limits."""
    from datasets.statistics import count_per_image
    from maskrcnn.model.limits import limit_factor

    factors = [limit_factor((height, width), limit_size) for height, width in objects.sizes.tolist()]
    return max(
        (math.ceil(n / factor) for n, factor in zip(count_per_image(objects).tolist(), factors, strict=True)), default=0
    )


def make_targets(objects: Objects, detector: DetectorConfig) -> TargetBoxes:
    """Make the target boxes of objects in the detector's input."""
    import torch

    from maskrcnn.model.coverage import resize_targets

    return resize_targets(
        torch.from_numpy(objects.boxes), torch.from_numpy(objects.sizes[objects.image]), detector.image
    )


def make_anchor_sets(
    objects: Mapping[str, Objects], config: ExperimentConfig, describe: DescribeConfig, crowd: Crowding
) -> list[AnchorSet]:
    """Make the present anchors, the default anchors if they differ, and, last, the proposed anchors.

    The proposal for the other finest stride precedes the last.
    """
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.coverage import compute_best_ious
    from maskrcnn.model.proposal import propose_anchors, propose_limits

    present = config.detector
    targets = {name: make_targets(each, present) for name, each in objects.items()}

    def measured(name: str, detector: DetectorConfig) -> AnchorSet:
        return AnchorSet(
            name, detector, {split: compute_best_ious(each, detector).numpy() for split, each in targets.items()}
        )

    def proposed(name: str, strides: tuple[int, ...] | None) -> AnchorSet:
        detector = propose_anchors(targets["train"], present, describe.coverage, describe.max_anchors, strides)
        return measured(name, propose_limits(detector, crowd))

    sets = [measured("present", present)]
    default = dataclasses.replace(DetectorConfig(), image=present.image)
    if any(get_option(default, key) != get_option(present, key) for key in ANCHOR_KEYS[:5]):
        sets.append(measured("default", default))
    strides = None if describe.finest_stride == "auto" else (int(describe.finest_stride),)
    chosen = proposed("proposed", strides)
    if strides is None:
        other = 2 if chosen.detector.backbone.finest_stride == 4 else 4
        sets.append(proposed(f"--finest_stride={other}", (other,)))
    return [*sets, chosen]


def get_option(detector: DetectorConfig, key: str) -> Any:
    """Return an option by its dotted key, which starts with "detector."."""
    value: Any = detector
    for name in key.split(".")[1:]:
        value = getattr(value, name)
    return value


# ---- output


def draw_picture(
    describe: DescribeConfig,
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
        f"{len(each):,} objects in {len(each.sizes):,} {names[name]} images" for name, each in objects.items()
    )
    plot_data(figures, anchors, describe.picture, f"{config.data.dataset}: {numbers}")


def print_results(
    describe: DescribeConfig, given: Mapping[str, Any], own: Mapping[str, Any], sets: list[AnchorSet]
) -> None:
    """Print what was written, and the next command."""
    click.echo(f"Wrote {describe.picture}")
    if describe.write_config is None:
        again = [*as_typed(given), *as_typed(own), *["--write_config=anchors.toml"] * bool(sets)]
        if sets:
            click.echo(f"Next: {shlex.join(['python', '-m', 'examples.describe_data', *again])}")
        return
    if not sets:
        raise UserError(f"--write_config={describe.write_config}: not written, as there are no training objects")
    path = Path(describe.write_config)
    data = ", ".join(str(given[flag]) for flag in ("dataset", "dataset_root") if flag in given) or "the default data"
    write_config(path, given, sets[-1].detector, f"anchors, strides and limits for {data}")
    click.echo(f"Wrote {path}")
    read_anyway = path.resolve() == CONFIG_FILE.resolve()
    command = ["python", "example_smallobject_train.py", *[f"--config={path}"] * (not read_anyway)]
    click.echo(f"Next: {shlex.join(command)}")


if __name__ == "__main__":
    main()
