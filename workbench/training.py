"""Training run of an experiment, with its log and output."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.config import DataConfig
from datasets.registry import AUTO, ELLIPSES, parse_names, short_name
from maskrcnn.command_line import format_flags, suggest_option
from maskrcnn.config import UserError, settings
from maskrcnn.training.config import DEFAULT_NUM_STEPS
from maskrcnn.training.runs import find_run
from maskrcnn.values import as_text
from workbench.config import ExperimentConfig, load_config
from workbench.trust import check_trust

if TYPE_CHECKING:
    from maskrcnn.inference.predictor import Predictor
    from workbench.data import Data
    from workbench.experiment import Experiment

HEADLINE = (
    "mask_ap",
    "mask_ap50",
    "box_ap",
    "box_ap50",
    "ar_100",
    "ar_1000",
    "dsb_mean_precision",
    "f1",
    "count_error",
)
FEW_STEPS = 200  # with fewer, a detector trained from scratch has hardly learned anything


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
        KeyboardInterrupt: If training was stopped; a checkpoint is saved, and the last line tells how to resume.
    """
    from maskrcnn.inference.loading import load
    from workbench.data import check_objects, open_data, resolve_dataset
    from workbench.given_data import make_splits, name_data

    flags = convert_options(options)
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
    from workbench.data import check_objects, open_data, resolve_dataset, set_image_options
    from workbench.experiment import Experiment
    from workbench.statistics import set_statistics

    config = resolve_dataset(config, click.echo)
    if data is None:
        data = open_data(config, click.echo, config.head)
        check_objects(data, click.echo)
    config = set_statistics(set_image_options(config, data), data.train, click.echo)
    if dry_run:
        from workbench.dry_run import describe

        describe(config, data)
        return None
    output = config.output
    folder = resumed or create_run(output.output_dir, f"{short_name(config.data.dataset)}-{config.head}")
    with remove_if_empty(folder), lock_run(folder):
        with ProgressDisplay(output.hide_progress_bar) as display:
            log = RunLog(folder, display.print, output.log_file)
            experiment = Experiment(config, log, data, display.on_step)
            if resumed:
                experiment.resume()
            else:
                experiment.start()
            log_experiment(experiment)
            log_notices(experiment)
            experiment.training.run()
        finish(experiment)
    return experiment


def log_experiment(experiment: Experiment) -> None:
    """Log the detector, data, device and number of steps."""
    config, data = experiment.config, experiment.data
    parameters = sum(p.numel() for p in experiment.detector.parameters())
    precision = "bfloat16" if experiment.machine.amp else "float32"
    experiment.log.info(
        f"{config.head} ({config.detector.backbone.name}, {parameters / 1e6:.1f} M parameters) on "
        f"{config.data.dataset}: {data.counted()}, {experiment.machine.device}, {precision}"
    )
    training = experiment.training
    if training.total_steps is not None:
        epochs = training.total_steps / training.steps_per_epoch
        every = training.eval_interval
        when = f"every {every} epochs" if every > 1 else "after each epoch"
        when = when if 0 < every < epochs else "after the last epoch"
        experiment.log.info(f"{training.total_steps} steps ({epochs:.3g} epochs), evaluated {when}")
        if training.total_steps < FEW_STEPS and config.start_from is None:
            experiment.log.info(
                f"note: {training.total_steps} steps are few for training from scratch; the default is at least "
                f"{DEFAULT_NUM_STEPS} (--num_steps)"
            )


def log_notices(experiment: Experiment) -> None:
    """Log the notices, print those added by reading the test and validation images, and store their counts."""
    from datasets.notices import write_notices

    data, log = experiment.data, experiment.log
    seen = data.seen_with_tests()
    for line in data.notes(seen):
        (log.write_line if line in data.shown else log.info)(line)
    write_notices(log.folder, data.splits(), seen)


def finish(experiment: Experiment) -> None:
    """Evaluate the best weights on the test images, and log the output files."""
    from datasets.notices import Preview, write_notices
    from maskrcnn.evaluation.coco_format import BOXES_FILE, MASKS_FILE

    log, state = experiment.log, experiment.training.state
    seen = Preview() if state.epoch else experiment.data.seen_with_tests()
    counts = write_notices(log.folder, experiment.data.splits(), seen)
    for line in experiment.data.notes(seen, counts):
        (log.write_line if line in experiment.data.shown else log.info)(line)
    if not state.finished:
        log.info(f"Stopped after step {state.step}; checkpoint saved.")
        log.info(f"Resume with: {shlex.join(['python', 'example_smallobject_train.py', f'--resume={log.folder}'])}")
        log.close()
        return
    metrics = experiment.test_best().metrics
    model_file = experiment.config.output.model_file
    if model_file:
        experiment.copy_weights(Path(model_file))
    given = experiment.config.output.min_score is not None
    images = "test" if experiment.data.validates_on_test else "validation"
    origin = "--plot_min_confidence" if given else f"best F1 on {images} images"
    chosen_on = "these same" if experiment.data.validates_on_test else "the validation"
    log.info(
        f"Test images: {format_headline(metrics)}   (weights of epoch {state.best_epoch or state.epoch}, the best of "
        f"{state.epoch} epochs on {chosen_on} images)"
    )
    for line in format_legend(metrics, origin):
        log.info(f"    {line}")
    log.info(f"Trained in {state.seconds:.0f} s (evaluation not counted)")
    log.info(f"Weights      {log.weights / 'best.pt'}, last.pt")
    log.info(f"Pictures     {experiment.plots}")
    masks = f", {MASKS_FILE}" if experiment.config.head == "mask_rcnn" else ""
    log.info(f"Predictions  {experiment.results / BOXES_FILE}{masks}")
    log.close()


def format_next_commands(config: ExperimentConfig, file: str | None = None) -> str:
    """Format the next commands, with the options of `file` if they were used."""
    usual = replace(DataConfig(), dataset=ELLIPSES)  # of --dataset=auto
    keys = {setting.flag: key for key, setting in settings(DataConfig).items() if setting.flag}
    given = {flag: getattr(config.data, key) for flag, key in keys.items()}
    flags = {flag: value for flag, value in given.items() if value != getattr(usual, keys[flag])}
    given_file = [] if file is None else [f"--config={file}"]
    compare = shlex.join(["python", "-m", "examples.compare_heads", *given_file, *format_flags(flags)])
    return f"Next: {shlex.join(['tensorboard', '--logdir', config.output.output_dir])}\n      {compare}"


def format_headline(metrics: Mapping[str, float]) -> str:
    """Format the most important metrics."""
    return "   ".join(f"{name} {metrics[name]:.3f}" for name in HEADLINE if name in metrics)


def format_legend(metrics: Mapping[str, float], origin: str) -> list[str]:
    """Return lines that explain the headline; `origin` describes the source of the score threshold."""
    shown = [name for name in HEADLINE if name in metrics]
    from maskrcnn.evaluation.figures import explain_metrics

    return explain_metrics(shown, metrics["operating_threshold"], origin)
