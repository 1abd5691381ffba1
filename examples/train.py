"""Trains a detector: `python example_smallobject_train.py --head=mask_rcnn`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.registry import short_name
from examples.command_line import SettingsCommand, as_typed, exit_code_of
from examples.config import ExperimentConfig, experiment_options, load_config
from examples.trust import check_trust
from maskrcnn.config import UserError
from maskrcnn.training.config import DEFAULT_NUM_STEPS

if TYPE_CHECKING:
    from examples.experiment import Data, Experiment

NEWEST = "newest"
FEW_STEPS = 200  # below, a detector with random weights has hardly learned anything


@click.command(
    cls=SettingsCommand,
    common=(
        "head",
        "dataset",
        "dataset_root",
        "num_steps",
        "num_epochs",
        "minutes",
        "batch_size",
        "learning_rate",
        "preset",
        "start_from",
        "fixed_size",
        "scale_u_range",
        "rot_range_mag",
        "views",
        "seed",
        "device",
        "output_dir",
        "config",
        "resume",
        "dry_run",
    ),
    example="python example_smallobject_train.py --dataset=coco --dataset_root=FOLDER --head=mask_rcnn",
)
@experiment_options
@click.option("--resume", is_flag=False, flag_value=NEWEST, metavar="[RUN]", help="go on with this run, or the newest")
@click.option("--dry_run", "--dry-run", is_flag=True, help="resolve everything, take one step, say what it takes, stop")
def main(resume: str | None, dry_run: bool, **flags: Any) -> None:
    """Train an RPN, a Faster R-CNN or a Mask R-CNN on images of small objects, and evaluate it on test images.

    Validation images choose the best weights; these are evaluated once on the test images, at the end.

    Settings come from the command line, else from SMALLOBJECTS_* variables, else from smallobjects.toml.
    """
    folder = None if resume is None else find_run(resume, load_config(flags=flags).output.output_dir)
    config = load_config(None if folder is None else folder / "config.toml", flags)
    check_trust(config.data.dataset, flags)
    experiment = train(config, folder, dry_run)
    if experiment is None:
        return
    if experiment.training.stopped_by is not None:
        raise click.exceptions.Exit(exit_code_of(experiment.training.stopped_by))
    click.echo(what_next(experiment.config, flags["config"]))


def find_run(name: str, output_dir: str, flag: str = "--resume") -> Path:
    """The folder of a run by its path or its name; the newest with weights where `name` says so.

    Errors begin with `flag`. Only `--resume` needs the state that is in `weights/last.pt`.
    """
    weights = ("last.pt",) if flag == "--resume" else ("best.pt", "last.pt")
    if name == NEWEST:
        runs = sorted(Path(output_dir).glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
        usable = [path.parent for path in runs if any((path.parent / "weights" / each).is_file() for each in weights)]
        if not usable:
            left = f" ({len(runs)} stopped before their first checkpoint)" if runs else ""
            raise UserError(
                f"{flag}: no run with weights in {output_dir}{left}; name one, or train one with "
                "example_smallobject_train.py"
            )
        if usable[-1] != runs[-1].parent:
            click.echo(f"{runs[-1].parent} stopped before its first checkpoint; taking {usable[-1]}")
        return usable[-1]
    for path in (Path(name), Path(output_dir) / name):
        if (path / "config.toml").is_file():
            if flag == "--resume" and not (path / "weights/last.pt").is_file():
                raise UserError(f"{flag}={name}: stopped before its first checkpoint, weights/last.pt; start a new run")
            return path
    raise UserError(f"{flag}={name}: no run there (a folder with config.toml); see the folders in {output_dir}")


def train(
    config: ExperimentConfig, resumed: Path | None = None, dry_run: bool = False, data: Data | None = None
) -> Experiment | None:
    """Run an experiment to its end, on ``data`` if it is open already; None after a dry run."""
    from examples.experiment import Experiment, check_objects, open_data
    from examples.opening import with_gray_levels
    from maskrcnn.training.lock import lock_run
    from maskrcnn.training.progress import ProgressDisplay
    from maskrcnn.training.runlog import RunLog, create_run, removed_if_empty

    if data is None:
        data = open_data(config, click.echo, config.head)
        check_objects(data, click.echo)
    config = with_gray_levels(config, data)
    if dry_run:
        from examples.dry_run import describe

        describe(config, data)
        return None
    output = config.output
    folder = resumed or create_run(output.output_dir, f"{short_name(config.data.dataset)}-{config.head}")
    with removed_if_empty(folder), lock_run(folder):
        with ProgressDisplay(output.hide_progress_bar) as display:
            log = RunLog(folder, display.say, output.log_file)
            experiment = Experiment(config, log, data, display.on_step)
            if resumed:
                experiment.resume()
            else:
                experiment.start()
            say_what_runs(experiment)
            say_notices(experiment)
            experiment.training.run()
        finish(experiment)
    return experiment


def say_what_runs(experiment: Experiment) -> None:
    config, data = experiment.config, experiment.data
    parameters = sum(p.numel() for p in experiment.detector.parameters())
    precision = "bfloat16" if experiment.machine.amp else "float32"
    experiment.log.say(
        f"{config.head} ({config.detector.backbone.name}, {parameters / 1e6:.1f} M parameters) on "
        f"{config.data.dataset}: {data.counted()}, {experiment.machine.device}, {precision}"
    )
    training = experiment.training
    if training.total_steps is not None:
        epochs = training.total_steps / training.steps_per_epoch
        every = training.eval_interval
        when = f"every {every} epochs" if every > 1 else "after each epoch"
        when = when if 0 < every < epochs else "after the last epoch"
        experiment.log.say(f"{training.total_steps} steps ({epochs:.3g} epochs), evaluated {when}")
        if training.total_steps < FEW_STEPS and config.start_from is None:
            experiment.log.say(
                f"note: {training.total_steps} steps are few for training from scratch; the default is at least "
                f"{DEFAULT_NUM_STEPS} (--num_steps)"
            )


def say_notices(experiment: Experiment) -> None:
    """Log the notices, show those that reading the test and validation images has added, and store their counts."""
    from datasets.notices import write_notices

    data, log = experiment.data, experiment.log
    seen = data.seen_with_tests()
    for line in data.notes(seen):
        (log.keep if line in data.shown else log.say)(line)
    write_notices(log.folder, data.splits(), seen)


def finish(experiment: Experiment) -> None:
    """Evaluate the best weights on the test images, and say where everything is."""
    from datasets.notices import Preview, write_notices
    from examples.experiment import headline, legend
    from maskrcnn.evaluation.coco import BOXES_FILE, MASKS_FILE

    log, state = experiment.log, experiment.training.state
    seen = Preview() if state.epoch else experiment.data.seen_with_tests()
    counts = write_notices(log.folder, experiment.data.splits(), seen)
    for line in experiment.data.notes(seen, counts):
        log.say(line)
    if not state.finished:
        log.say(f"Stopped after step {state.step}; all is saved.")
        log.say(f"Go on with: {shlex.join(['python', 'example_smallobject_train.py', f'--resume={log.folder}'])}")
        log.close()
        return
    metrics = experiment.test_best().metrics
    model_file = experiment.config.output.model_file
    if model_file:
        experiment.copy_weights(Path(model_file))
    given = experiment.config.output.plot_min_confidence is not None
    images = "test" if experiment.data.validates_on_test else "validation"
    origin = "--plot_min_confidence" if given else f"best F1 on {images} images"
    chosen_on = "these same" if experiment.data.validates_on_test else "the validation"
    log.say(
        f"Test images: {headline(metrics)}   (weights of epoch {state.best_epoch or state.epoch}, the best of "
        f"{state.epoch} epochs on {chosen_on} images)"
    )
    for line in legend(metrics, origin):
        log.say(f"    {line}")
    log.say(f"Trained in {state.seconds:.0f} s (evaluation not counted)")
    log.say(f"Weights      {log.weights / 'best.pt'}, last.pt")
    log.say(f"Pictures     {experiment.plots}")
    masks = f", {MASKS_FILE}" if experiment.config.head == "mask_rcnn" else ""
    log.say(f"Predictions  {experiment.results / BOXES_FILE}{masks}")
    log.close()


def what_next(config: ExperimentConfig, file: str | None = None) -> str:
    """What to type next, with the settings of ``file`` if they were used."""
    names: tuple[str, ...] = ("dataset", "dataset_root", "split_file", "subsetseed", "test_fraction", "val_fraction")
    names += ("subset", "test_subset", "skip_bad")
    given = {name: getattr(config.data, name) for name in names}
    flags = {name: value for name, value in given.items() if value != getattr(ExperimentConfig().data, name)}
    given_file = [] if file is None else [f"--config={file}"]
    compare = shlex.join(["python", "-m", "examples.compare_heads", *given_file, *as_typed(flags)])
    return f"Next: {shlex.join(['tensorboard', '--logdir', config.output.output_dir])}\n      {compare}"


if __name__ == "__main__":
    main()
