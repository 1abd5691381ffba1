"""Training run of an experiment, with its log and output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.registry import AUTO, parse_names, short_name
from maskrcnn.command_line import suggest_option
from maskrcnn.config import UserError, flag_values, settings
from maskrcnn.training.runs import find_run, remember_folder
from maskrcnn.values import as_text
from workbench.config import ExperimentConfig, load_config
from workbench.trust import check_trust

if TYPE_CHECKING:
    from maskrcnn.inference.predictor import Predictor
    from workbench.data import Data
    from workbench.experiment import Experiment


def train(
    data: Any,
    head: str = "mask_rcnn",
    *,
    class_names: Sequence[str] = (),
    resume: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Predictor:
    """Train and test a detector, as `python example_smallobject_train.py` does, with the same result.

    Args:
        data: the folder of a data set, whose format is recognized; the name of a data set, as in `--dataset`; a data
            set object; a list of pairs (image, `Instances`); or {"train": …, "val": …, "test": …} of objects or lists.
            Missing test and validation sets are drawn from the training images.
        head: "mask_rcnn", "faster_rcnn" or "rpn".
        class_names: names of the classes of pairs; default "1", "2", …
        resume: folder of a run that was stopped, to continue it with the same data; its options are used.
        **options: flags of the command: `num_epochs=5, fixed_size=128, hflip=False, seed=1`. Others are taken from
            environment variables and `smallobjects.toml`, as for the command.

    Returns:
        The detector with the best weights, which are also stored in the new folder of the run.

    Raises:
        UserError: If an option, the data or a folder is invalid.
        KeyboardInterrupt: If training was stopped; a checkpoint is saved, and the last line has the command to resume.
    """
    from maskrcnn.inference.loading import load
    from workbench.data import check_objects, open_data, resolve_dataset
    from workbench.given_data import make_splits, name_data

    flags = convert_options(options)
    flag_values(ExperimentConfig, flags | {"head": head}, prefix="")  # errors name arguments of Python
    as_object = not isinstance(data, str | os.PathLike)
    if as_object:
        flags["dataset"] = name_data(data)
    elif is_dataset_name(str(data)):
        flags["dataset"] = str(data)
    else:
        flags |= {"dataset_root": os.fspath(data), "dataset": flags.get("dataset", AUTO)}
    folder = None if resume is None else find_run(os.fspath(resume), load_config(flags=flags).output.output_dir)
    file = None if folder is None else folder / "config.toml"
    config = load_config(file, flags | ({"head": head} if folder is None else {}))
    check_trust(config.data.dataset, flags, config.detector.backbone.name)
    config = resolve_dataset(config, click.echo)
    splits = make_splits(data, config.data, class_names) if as_object else None
    opened = open_data(config, click.echo, config.head, splits)
    check_objects(opened, click.echo)
    experiment = run_experiment(config, folder, data=opened)
    assert experiment is not None
    if experiment.training.stopped_by is not None:
        raise KeyboardInterrupt
    return load(experiment.log.folder, device=config.training.device)


def is_dataset_name(text: str) -> bool:
    """Return whether a text is the name of data sets, and not a path."""
    try:
        parse_names(text)
    except UserError:
        return False
    return True


def convert_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Convert options of Python to the text that the command line would have; None means not given.

    Raises:
        UserError: If an option is unknown.
    """
    keys = {key: setting.flag for key, setting in settings(ExperimentConfig).items() if setting.flag}
    flags = list(keys.values())
    for name in options:
        if name not in flags:
            raise UserError(f"unknown option '{name}'{suggest_option(name, flags, keys)}")
    return {
        name: as_text(tuple(value) if isinstance(value, list) else value)
        for name, value in options.items()
        if value is not None
    }


def run_experiment(
    config: ExperimentConfig, resumed: Path | None = None, dry_run: bool = False, data: Data | None = None
) -> Experiment | None:
    """Train and test a detector.

    Args:
        config: options of the experiment.
        resumed: run folder to resume. Default: a new run.
        dry_run: describe the experiment and take one step, without training.
        data: the data, if it is already open.

    Returns:
        The finished experiment; None after a dry run.
    """
    from maskrcnn.training.lock import lock_run
    from maskrcnn.training.progress import ProgressDisplay
    from maskrcnn.training.runlog import RunLog, create_run, remove_if_empty
    from workbench.data import check_objects, open_data, resolve_dataset, resolve_head, set_image_options
    from workbench.experiment import Experiment
    from workbench.report import finish, log_experiment, log_finished, log_notices
    from workbench.statistics import set_statistics

    config = resolve_dataset(config, click.echo)
    if data is None:
        data = open_data(config, click.echo, config.head)
        check_objects(data, click.echo)
    config = resolve_head(config, data, click.echo)
    config = set_statistics(set_image_options(config, data), data.train, click.echo)
    if dry_run:
        from workbench.dry_run import describe

        describe(config, data)
        return None
    output = config.output
    folder = resumed or create_run(output.output_dir, f"{short_name(config.data.dataset)}-{config.head}")
    remember_folder(folder.parent)
    with remove_if_empty(folder), lock_run(folder):
        with ProgressDisplay(output.hide_progress_bar) as display:
            log = RunLog(folder, display.print, output.log_file)
            experiment = Experiment(config, log, data, display.on_step)
            if resumed:
                experiment.resume()
            else:
                experiment.start()
            log_experiment(experiment)
            if experiment.training.state.finished:
                log_finished(experiment)
            log_notices(experiment)
            experiment.training.run()
        finish(experiment)
    return experiment
