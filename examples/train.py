"""Train a detector: `python example_smallobject_train.py --head=mask_rcnn`."""

from __future__ import annotations

from typing import Any

import click

from maskrcnn.command_line import SettingsCommand, get_exit_code
from maskrcnn.programs import format_command
from maskrcnn.training.runs import NEWEST, find_run
from workbench.config import experiment_options, load_config, take_path
from workbench.training import run_experiment
from workbench.trust import check_trust


@click.command(
    cls=SettingsCommand,
    common=(
        "head",
        "dataset",
        "dataset_root",
        "num_steps",
        "num_epochs",
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
    example=format_command("train", "FOLDER", "--head=mask_rcnn"),
)
@click.argument("path", required=False)
@experiment_options
@click.option("--resume", is_flag=False, flag_value=NEWEST, metavar="[RUN]", help="resume this run, or the newest")
@click.option("--dry_run", "--dry-run", is_flag=True, help="take one step, print its time and memory, and stop")
def main(path: str | None, resume: str | None, dry_run: bool, **flags: Any) -> None:
    """Train an RPN, a Faster R-CNN or a Mask R-CNN on the data set at PATH (or --dataset), and evaluate it.

    The validation set selects the best weights, which are evaluated once on the test set at the end.

    Options are read from the command line, SMALLOBJECTS_* environment variables and smallobjects.toml, in this order.
    """
    flags = take_path(path, flags)
    folder = None if resume is None else find_run(resume, load_config(flags=flags).output.output_dir)
    config = load_config(None if folder is None else folder / "config.toml", flags)
    check_trust(config.data.dataset, flags, config.detector.backbone.name)
    experiment = run_experiment(config, folder, dry_run)
    if experiment is None:
        return
    if experiment.training.stopped_by is not None:
        raise click.exceptions.Exit(get_exit_code(experiment.training.stopped_by))
    from workbench.report import format_next_commands

    for line in format_next_commands(experiment.log.folder, experiment.config.output.output_dir):
        click.echo(line)


if __name__ == "__main__":
    main()
