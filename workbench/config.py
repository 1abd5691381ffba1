"""Options of an experiment, and how they are read from TOML files, the environment and the command line."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from augment.config import AugmentConfig
from datasets.config import DataConfig, ReadingConfig
from maskrcnn.command_line import Command, click_options, format_flags
from maskrcnn.config import (
    UserError,
    environment_values,
    flag_values,
    merge,
    option,
    read_toml,
    to_toml,
    toml_values,
)
from maskrcnn.inference.config import DetectionsConfig, ViewsConfig
from maskrcnn.model.config import HEADS, DetectorConfig
from maskrcnn.model.presets import PRESETS, get_preset
from maskrcnn.training.config import BUDGET, TrainingConfig

CONFIG_FILE = Path("smallobjects.toml")
WAITING_BACKBONES = ("unet5_wn", "unet5_bn")


@dataclass(frozen=True)
class PathsConfig:
    """Folders of the data sets."""

    ellipses_root: str = option("data/ellipses", "ellipses of create_ellipses.py (created if missing)")
    shapes_root: str = option("data/shapes", "shapes of examples.create_shapes")
    kaggle_dsbowl2018_root: str | None = option(None, "Kaggle's 2018 Data Science Bowl: the folder of stage1_train")
    coco_root: str | None = option(None, "COCO, or data in its format: the folder of annotations")
    voc_root: str | None = option(None, "PASCAL VOC: the folder of VOCdevkit, or one with Annotations")
    yolo_root: str | None = option(None, "YOLO: the folder of data.yaml, or of images and labels")
    labels_root: str | None = option(None, "images with label images: the folder of train and test, or one to split")
    cst_root: str | None = option(None, "CST: the folder of annotation")
    aitod_root: str | None = option(None, "AI-TOD: the folder of annotations and images")
    visdrone_root: str | None = option(None, "VisDrone-DET: the folder of VisDrone2019-DET-train and -val")
    tools_root: str | None = option(
        None, "files of an annotation tool, such as LabelMe, CVAT or QuPath, with their images"
    )


@dataclass(frozen=True)
class OutputConfig(DetectionsConfig):
    """Output."""

    output_dir: str = option("runs", "folder of the runs", flag="output_dir")
    plot_dir: str | None = option(None, "folder for pictures (default: plots in the run folder)", flag="plot_dir")
    predictions_dir: str | None = option(
        None, "folder for predictions (default: predictions in the run folder)", flag="predictions_dir"
    )
    prediction_every_n_epochs: int = option(
        -1,
        "draw and write predictions every n epochs (-1: at every evaluation; 0: only after the last epoch)",
        flag="prediction_every_n_epochs",
        minimum=-1,
    )
    model_file: str | None = option(None, "also write the best weights to this file", flag="model_file")
    log_file: str | None = option(None, "also write the log to this file", flag="log_file")


AUTO_HEAD = "auto"  # mask_rcnn if the data has masks, otherwise faster_rcnn


@dataclass(frozen=True)
class ExperimentConfig:
    """Experiment."""

    head: str = option(
        AUTO_HEAD,
        "stages of the detector: rpn, faster_rcnn or mask_rcnn (auto: mask_rcnn, or faster_rcnn without masks)",
        flag="head",
        choices=(AUTO_HEAD, *HEADS),
    )
    preset: str = option(
        "small",
        "preset that sets the defaults of the options under [detector]",
        flag="preset",
        choices=tuple(PRESETS),
        renamed_values={"ancestor": "britefury"},
    )
    start_from: str | None = option(
        None, "initial weights: a .pt file of a run, or a torchvision file with its preset", flag="start_from"
    )
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


def experiment_options(command: Command, without: Collection[str] = ()) -> Command:
    """Add the flags of an experiment, except those in `without`, to a click command, as arguments of `load_config`."""
    return click_options(ExperimentConfig, without)(config_option(command))


def config_option(command: Command) -> Command:
    """Add the flags `--config`, for `load_config`, and `--trust`, for `check_trust`, to a click command."""
    config = "TOML file that overrides smallobjects.toml"
    trust = "run the code of a class named by a TOML file or run folder"
    return click.option("--config", metavar="FILE", help=config)(
        click.option("--trust", is_flag=True, default=None, help=trust)(command)
    )


def take_folder(path: str | None, root: str | None) -> str | None:
    """Return the folder of a data set, which is given as an argument or as --dataset_root.

    Raises:
        UserError: If it is given twice.
    """
    if path is not None and root is not None:
        raise UserError(f"{path}: --dataset_root={root} names the data set, too; give one folder")
    return root if path is None else path


def take_path(path: str | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags with the folder of a data set that was given as an argument, whose format is recognized.

    Raises:
        UserError: If --dataset_root is given, too.
    """
    if path is None:
        return dict(flags)
    folder = take_folder(path, flags.get("dataset_root"))
    return {**flags, "dataset_root": folder, "dataset": flags.get("dataset") or "auto"}


def format_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Format flags as on the command line, with the folder of a data set of any format as `take_path` reads it."""
    if flags.get("dataset") != "auto" or flags.get("dataset_root") is None:
        return format_flags(flags)
    rest = {flag: value for flag, value in flags.items() if flag not in ("dataset", "dataset_root")}
    return [str(flags["dataset_root"]), *format_flags(rest)]


def load_config(
    path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> ExperimentConfig:
    """Load the options of an experiment: command line over environment over TOML over defaults.

    Args:
        path: TOML file. Default: smallobjects.toml in the working directory, if it exists.
        flags: {flag: text, bool or value}, None for those that are not given; see `experiment_options`. "config" is
            another TOML file, whose options override those of `smallobjects.toml`.
        environ: environment variables. Default: those of the process.

    Raises:
        UserError: If an option is invalid, unknown or not supported yet.
    """
    given = dict(flags or {})
    given.pop("trust", None)  # see `workbench.trust`
    file = given.pop("config", None)
    if file is not None and path is not None:
        raise UserError(f"--config={file}: the options of {path} are used here; remove --config")
    over = {} if file is None else toml_values(ExperimentConfig, read_toml(file), file, show_notice)
    if path is None and CONFIG_FILE.is_file():
        tables = toml_values(ExperimentConfig, read_toml(CONFIG_FILE), CONFIG_FILE, show_notice)
        return _merge_layers(tables, over, given, environ)
    return resolve({} if path is None else read_toml(path), path or CONFIG_FILE, given, environ, over)


def resolve(
    tables: Mapping[str, Any],
    where: str | Path,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    over: Mapping[str, Any] | None = None,
) -> ExperimentConfig:
    """Load options like `load_config` from nested tables that are already read, as from a checkpoint.

    Args:
        tables: nested tables.
        where: source of the tables, for error messages.
        flags: {flag: text, bool or value}.
        environ: environment variables. Default: those of the process.
        over: options {dotted key: value} that override the tables.

    Raises:
        UserError: If an option is invalid, unknown or not supported yet.
    """
    return _merge_layers(toml_values(ExperimentConfig, tables, where), over or {}, flags or {}, environ)


def show_notice(line: str) -> None:
    """Print a notice of an option's old name to stderr."""
    click.echo(f"note: {line}", err=True)


def _merge_layers(
    tables: Mapping[str, Any], over: Mapping[str, Any], flags: Mapping[str, Any], environ: Mapping[str, str] | None
) -> ExperimentConfig:
    layers = (
        dict(tables),
        dict(over),
        environment_values(ExperimentConfig, os.environ if environ is None else environ, show_notice),
        flag_values(ExperimentConfig, flags, show_notice),
    )
    _settle_budget(layers)
    chosen = merge(ExperimentConfig(), *layers).preset
    config = merge(ExperimentConfig(detector=get_preset(chosen)), *layers)
    if config.detector.backbone.name in WAITING_BACKBONES:
        raise UserError(f"backbone {config.detector.backbone.name} is not available yet; use resnet18 to resnet101")
    if "," in config.training.device:
        raise UserError(f"device {config.training.device}: training on several GPUs is not available yet; name one")
    return config


def _settle_budget(layers: Sequence[dict[str, Any]]) -> None:
    """Let the training budget of a layer replace those of lower layers; raise a UserError for two in one layer."""
    keys = [f"training.{name}" for name in BUDGET]
    for layer in layers:
        given = [key for key in keys if layer.get(key) is not None]
        if len(given) == 1:
            layer.update({key: None for key in keys if key != given[0]})
        elif given:
            replace(TrainingConfig(), **{key.rpartition(".")[2]: layer[key] for key in given})  # raises the error


def default_toml() -> str:
    """Return the text of smallobjects.toml: data folders, and all options with help and default, commented out."""
    header = (
        "# Default options of all programs in this folder. A command-line flag overrides an environment variable\n"
        "# (SMALLOBJECTS_LEARNING_RATE), which overrides this file. Remove the # to change an option.\n\n"
    )
    lines, in_paths = [], False
    for line in to_toml(ExperimentConfig()).splitlines():
        in_paths = line == "[paths]" if line.startswith("[") else in_paths
        is_setting = bool(line) and line[0] not in "[#"
        lines.append(f"# {line}" if is_setting and not in_paths else line)
    return header + "\n".join(lines) + "\n"


if __name__ == "__main__":  # python -m workbench.config > smallobjects.toml
    print(default_toml(), end="")
