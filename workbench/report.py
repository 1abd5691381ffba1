"""Lines that training prints, and the record of a run in TensorBoard."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.notices import Preview, write_notices
from maskrcnn.config import get_value, settings
from maskrcnn.evaluation.coco_format import BOXES_FILE, MASKS_FILE
from maskrcnn.evaluation.figures import explain_metrics
from maskrcnn.programs import format_command
from maskrcnn.text import format_count
from maskrcnn.training.config import DEFAULT_NUM_STEPS
from maskrcnn.training.runlog import read_metrics
from maskrcnn.values import as_text
from workbench.config import ExperimentConfig

if TYPE_CHECKING:
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
        steps = format_count(training.total_steps, "steps")
        length = f"{steps} ({epochs:.3g} epoch{'' if epochs == 1 else 's'})"
        experiment.log.info(f"{length}, evaluated {when}")
        if training.total_steps < FEW_STEPS and config.start_from is None:
            experiment.log.info(
                f"note: {format_count(training.total_steps, 'steps are')} few for training from scratch; the default "
                f"is at least {DEFAULT_NUM_STEPS} (--num_steps)"
            )


def log_finished(experiment: Experiment) -> None:
    """Log that a resumed run had finished, and the command that trains longer."""
    log, state = experiment.log, experiment.training.state
    longer = format_command("train", f"--config={log.folder / 'config.toml'}", f"--num_steps={2 * state.step}")
    done = f"{format_count(state.epoch, 'epochs')}, {format_count(state.step, 'steps')}"
    log.info(f"This run is finished ({done}): its test images are evaluated again.")
    log.info(f"To train longer, start a new run: {longer}")


def log_notices(experiment: Experiment) -> None:
    """Log the notices, print those added by reading the test and validation images, and store their counts."""
    data, log = experiment.data, experiment.log
    seen = data.seen_with_tests()
    for line in data.notes(seen):
        (log.write_line if line in data.shown else log.info)(line)
    write_notices(log.folder, data.splits(), seen)


def finish(experiment: Experiment) -> None:
    """Evaluate the best weights on the test images, and log the output files."""
    log, state = experiment.log, experiment.training.state
    seen = Preview() if state.epoch else experiment.data.seen_with_tests()
    counts = write_notices(log.folder, experiment.data.splits(), seen)
    for line in experiment.data.notes(seen, counts):
        (log.write_line if line in experiment.data.shown else log.info)(line)
    if not state.finished:
        log.info(f"Stopped after step {state.step}; checkpoint saved.")
        log.info(f"Resume with: {format_command('train', f'--resume={log.folder}')}")
        log.close()
        return
    metrics = experiment.test_best().metrics
    log.add_hyperparameters(list_hyperparameters(experiment.config), [f"test/{name}" for name in metrics])
    model_file = experiment.config.output.model_file
    if model_file:
        experiment.copy_weights(Path(model_file))
    given = experiment.config.output.min_score is not None
    images = "test" if experiment.data.validates_on_test else "validation"
    origin = "--plot_min_confidence" if given else f"operating threshold, the best F1 on {images} images"
    log.info(f"Test images: {format_headline(metrics)}   ({describe_weights(experiment)})")
    objects = [int((~target.ignore).sum()) for target in experiment.test.targets.values()]
    for line in format_legend(metrics, origin, sum(objects) / len(objects)):
        log.info(f"    {line}")
    log.info(f"Trained in {state.seconds:.0f} s (evaluation not counted)")
    log.info(f"Weights      {log.weights / 'best.pt'}, last.pt")
    log.info(f"Pictures     {experiment.plots}")
    masks = f", {MASKS_FILE}" if experiment.config.head == "mask_rcnn" else ""
    log.info(f"Predictions  {experiment.results / BOXES_FILE}{masks}")
    log.close()


def format_next_commands(run: Path, output_dir: str) -> list[str]:
    """Format the commands that predict with a run, evaluate it, show its curves, and compare heads with its options."""
    commands = (
        format_command("predict", "IMAGE_OR_FOLDER", f"--run={run}"),
        format_command("evaluate", str(run)),
        shlex.join(["tensorboard", "--logdir", output_dir]),
        format_command("compare", f"--config={run / 'config.toml'}"),
    )
    return [f"{'Next:' if n == 0 else '     '} {command}" for n, command in enumerate(commands)]


def format_headline(metrics: Mapping[str, float]) -> str:
    """Format the most important metrics."""
    return "   ".join(f"{name} {metrics[name]:.3f}" for name in HEADLINE if name in metrics)


def format_legend(metrics: Mapping[str, float], origin: str, objects_per_image: float) -> list[str]:
    """Return lines that explain the headline; `origin` describes the source of the score threshold."""
    shown = [name for name in HEADLINE if name in metrics]
    *others, counts = explain_metrics(shown, metrics["operating_threshold"], origin)
    return [*others, f"{counts} of {objects_per_image:.1f} objects on average"]


def describe_weights(experiment: Experiment) -> str:
    """Describe which weights were tested, and what they are the best of."""
    state = experiment.training.state
    lines = read_metrics(experiment.log.metrics_file)
    evaluated = {line["epoch"] for line in lines if line["kind"] == "evaluation" and line.get("split") == "validation"}
    if not state.best_epoch:
        return f"weights of epoch {state.epoch}, the last"
    if len(evaluated) == 1:
        return f"weights of epoch {state.best_epoch}, the only one that was evaluated"
    chosen_on = "these same" if experiment.data.validates_on_test else "the validation"
    return f"weights of epoch {state.best_epoch}, the best of {len(evaluated)} evaluated epochs on {chosen_on} images"


def list_hyperparameters(config: ExperimentConfig) -> dict[str, float | str]:
    """Return the options that may change the result, by their names on the command line, for TensorBoard."""
    tables = ("head", "preset", "start_from", "data.", "augment.", "detector.", "training.", "views.")
    known = [setting for key, setting in settings(ExperimentConfig).items() if setting.flag and key.startswith(tables)]
    values = {str(setting.flag): get_value(config, setting.key) for setting in known}
    return {flag: value if type(value) in (int, float) else as_text(value) for flag, value in values.items()}
