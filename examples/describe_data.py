"""What a data set is like, and what it asks of a detector: `python -m examples.describe_data --dataset=ellipses`."""

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

    max_images: int = option(2000, "images of a split to read, evenly spaced", flag="max_images", minimum=1)
    picture: str = option("data.png", "PNG file to write", flag="picture")
    write_config: str | None = option(None, "TOML file to write with what is proposed", flag="write_config")
    coverage: float = option(
        0.95, "share of the training objects to match at IoU .5", flag="coverage", minimum=0.0, maximum=1.0
    )
    max_anchors: int = option(9, "most anchors a location", flag="max_anchors", minimum=1, maximum=30)
    finest_stride: str = option(
        "auto",
        "finest stride to propose; auto: 2 (twice the time) where a twentieth of the objects is below 8 px, else 4",
        flag="finest_stride",
        choices=("auto", "2", "4"),
    )


@dataclass(frozen=True)
class AnchorSet:
    """A detector's settings and how well its anchors fit: the best IoU of each truth, by split."""

    name: str
    detector: DetectorConfig
    ious: Mapping[str, Any]


@click.command(
    cls=SettingsCommand, example="python -m examples.describe_data --dataset=dsbowl2018 --write_config=nuclei.toml"
)
@click_options(DescribeConfig)
@click_options(ExperimentConfig, without=_OTHER_FLAGS)
@config_option
def main(**flags: Any) -> None:
    """Describe the objects of a data set, and propose the anchors, strides and top-k limits that they ask for.

    Sizes, shapes, crowding, overlap and classes are printed and drawn in one picture. Objects to ignore are counted
    only. Proposals come from the training images; --write_config writes them where training takes them with --config.
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

    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_mb=0))  # each image is read once
    data = open_data(config, click.echo)
    splits = {"train": data.train, "test": data.test}
    found = {name: data_tables.read(name, split, describe.max_images) for name, split in splits.items()}
    objects = {name: each.targets() for name, each in found.items()}
    data_tables.say_images(found, splits)
    data_tables.say_objects(objects, data.class_names)
    sets, crowd = [], crowding(objects, config)
    if len(objects["train"]):
        sets = anchor_sets(objects, config, describe, crowd)
        data_tables.say_anchors(sets, describe.coverage)
        data_tables.say_limits(sets[0].detector, sets[-1].detector, LIMIT_KEYS, crowd)
    else:
        click.echo("The training images hold no objects: there is nothing to propose.")
    draw(describe, config, data, objects, sets)
    finish(describe, given, own, sets)


# ---- files


def check_file(flag: str, name: str, suffix: str) -> Path:
    """UserError now for a file that could not be written in the end."""
    path = Path(name)
    if path.suffix.lower() != suffix:
        raise UserError(f"--{flag}={path}: must end in {suffix}")
    if not path.parent.is_dir():
        raise UserError(f"--{flag}={path}: there is no folder {path.parent}; make it first, or choose another")
    if path.is_dir():
        raise UserError(f"--{flag}={path}: is a folder; choose another name")
    return path


def check_new(name: str) -> None:
    """UserError where writing would overwrite somebody's settings."""
    if check_file("write_config", name, ".toml").exists():
        raise UserError(
            f"--write_config={name}: exists already, and is not overwritten; choose another name (training takes it "
            f"with --config, over what {CONFIG_FILE} says)"
        )


def some_toml(config: ExperimentConfig, keys: set[str]) -> str:
    """TOML text of some settings, with their helps."""
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
    """What is proposed, and what was said about the data on the command line or in another file."""
    from maskrcnn.files import write_text

    flags = dict(given)
    file = flags.pop("config", None)
    layers = [{} if file is None else toml_values(ExperimentConfig, read_toml(file), file)]
    layers += [flag_values(ExperimentConfig, flags)]
    config = dataclasses.replace(merge(ExperimentConfig(), *layers), detector=detector)
    keys = {key for layer in layers for key in layer} | {*ANCHOR_KEYS, *LIMIT_KEYS}
    write_text(path, f"# Proposed by examples.describe_data: {about}\n\n{some_toml(config, keys)}")


# ---- what is proposed


def crowding(objects: Mapping[str, Objects], config: ExperimentConfig) -> Crowding:
    """How many objects are close together in an image of any split, and in a training sample."""
    import numpy as np

    from datasets.statistics import count_in_crops
    from maskrcnn.model.proposal import Crowding

    fullest = max((_densest(each, config.detector.limit_size) for each in objects.values()), default=0)
    size = config.augment.fixed_size or (0,)
    around = count_in_crops(objects["train"], (size[0], size[-1]))
    crop, typical = np.percentile(around, [99, 50]).tolist() if len(around) else (0.0, 0.0)
    return Crowding(fullest, round(crop), round(typical))


def _densest(objects: Objects, limit_size: int) -> int:
    """The largest number of objects in an image, divided by the factor that its limits are scaled by."""
    from datasets.statistics import count_per_image
    from maskrcnn.model.limits import limit_factor

    factors = [limit_factor((height, width), limit_size) for height, width in objects.sizes.tolist()]
    return max(
        (math.ceil(n / factor) for n, factor in zip(count_per_image(objects).tolist(), factors, strict=True)), default=0
    )


def make_targets(objects: Objects, detector: DetectorConfig) -> TargetBoxes:
    import torch

    from maskrcnn.model.coverage import resize_targets

    return resize_targets(
        torch.from_numpy(objects.boxes), torch.from_numpy(objects.sizes[objects.image]), detector.image
    )


def anchor_sets(
    objects: Mapping[str, Objects], config: ExperimentConfig, describe: DescribeConfig, crowd: Crowding
) -> list[AnchorSet]:
    """The present anchors, the default ones where these are others, and, last, those that are proposed.

    Before the last, what the other finest stride would ask for.
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
    if any(get(default, key) != get(present, key) for key in ANCHOR_KEYS[:5]):
        sets.append(measured("default", default))
    strides = None if describe.finest_stride == "auto" else (int(describe.finest_stride),)
    chosen = proposed("proposed", strides)
    if strides is None:
        other = 2 if chosen.detector.backbone.finest_stride == 4 else 4
        sets.append(proposed(f"--finest_stride={other}", (other,)))
    return [*sets, chosen]


def get(detector: DetectorConfig, key: str) -> Any:
    """A setting by its dotted key, which begins with "detector."."""
    value: Any = detector
    for name in key.split(".")[1:]:
        value = getattr(value, name)
    return value


# ---- the end


def draw(
    describe: DescribeConfig,
    config: ExperimentConfig,
    data: Data,
    objects: Mapping[str, Objects],
    sets: list[AnchorSet],
) -> None:
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
    names = {"train": "training", "test": "test"}
    numbers = ", ".join(
        f"{len(each):,} objects in {len(each.sizes):,} {names[name]} images" for name, each in objects.items()
    )
    plot_data(figures, anchors, describe.picture, f"{config.data.dataset}: {numbers}")


def finish(describe: DescribeConfig, given: Mapping[str, Any], own: Mapping[str, Any], sets: list[AnchorSet]) -> None:
    """What was written, and what to type next."""
    click.echo(f"Wrote {describe.picture}")
    if describe.write_config is None:
        again = [*as_typed(given), *as_typed(own), *["--write_config=anchors.toml"] * bool(sets)]
        if sets:
            click.echo(f"Next: {shlex.join(['python', '-m', 'examples.describe_data', *again])}")
        return
    if not sets:
        raise UserError(f"--write_config={describe.write_config}: not written, there are no objects to propose for")
    path = Path(describe.write_config)
    data = ", ".join(str(given[flag]) for flag in ("dataset", "dataset_root") if flag in given) or "the default data"
    write_config(path, given, sets[-1].detector, f"anchors, strides and limits for {data}")
    click.echo(f"Wrote {path}")
    read_anyway = path.resolve() == CONFIG_FILE.resolve()
    command = ["python", "example_smallobject_train.py", *[f"--config={path}"] * (not read_anyway)]
    click.echo(f"Next: {shlex.join(command)}")


if __name__ == "__main__":
    main()
