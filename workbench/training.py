"""Training run of an experiment, with its log and output."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datasets.config import DataConfig
from datasets.registry import ELLIPSES, short_name
from maskrcnn.command_line import format_flags
from maskrcnn.config import settings
from maskrcnn.training.config import DEFAULT_NUM_STEPS
from workbench.config import ExperimentConfig

if TYPE_CHECKING:
    from workbench.data import Data
    from workbench.experiment import Experiment

FEW_STEPS = 200  # with fewer, a detector trained from scratch has hardly learned anything


def train(
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
    from workbench.data import check_objects, open_data, resolve_dataset, set_gray_levels
    from workbench.experiment import Experiment
    from workbench.statistics import set_statistics

    config = resolve_dataset(config, click.echo)
    if data is None:
        data = open_data(config, click.echo, config.head)
        check_objects(data, click.echo)
    config = set_statistics(set_gray_levels(config, data), data.train, click.echo)
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
    from workbench.experiment import format_headline, format_legend

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
    usual = replace(DataConfig(), dataset=ELLIPSES, gray_levels=config.data.gray_levels)  # of --dataset=auto; measured
    keys = {setting.flag: key for key, setting in settings(DataConfig).items() if setting.flag}
    given = {flag: getattr(config.data, key) for flag, key in keys.items()}
    flags = {flag: value for flag, value in given.items() if value != getattr(usual, keys[flag])}
    given_file = [] if file is None else [f"--config={file}"]
    compare = shlex.join(["python", "-m", "examples.compare_heads", *given_file, *format_flags(flags)])
    return f"Next: {shlex.join(['tensorboard', '--logdir', config.output.output_dir])}\n      {compare}"
