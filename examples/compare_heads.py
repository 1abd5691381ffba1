"""Compare the three heads on the same data, seed and budget: `python -m examples.compare_heads`."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.registry import short_name
from maskrcnn.command_line import SettingsCommand, get_exit_code
from maskrcnn.model.config import HEADS
from maskrcnn.programs import format_command
from workbench.config import ExperimentConfig, experiment_options, load_config, take_path
from workbench.timing import compute_median_step_seconds, describe_times, get_load_average
from workbench.training import run_experiment
from workbench.trust import check_trust

if TYPE_CHECKING:
    from workbench.data import Data
    from workbench.evaluation import Predictions
    from workbench.experiment import Experiment

Row = dict[str, Any]
SIZES = {"very_tiny": "<8px", "tiny": "8-16px", "aitod_small": "16-32px", "aitod_medium": ">32px"}
COLUMNS = {
    "head": "head",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "box_ap_very_tiny": f"box AP {SIZES['very_tiny']}",
    "box_ap_tiny": SIZES["tiny"],
    "box_ap_aitod_small": SIZES["aitod_small"],
    "ar_100": "AR@100",
    "ar_1000": "AR@1000",
    "train_seconds": "train s",
    "inference_ms": "ms/image",
    "load": "load",
    "parameters": "parameters",
}
OF_ONE_HEAD = ("head", "start_from", "model_file", "plot_dir", "predictions_dir")  # settings of a single run


@click.command(
    cls=SettingsCommand,
    common=(
        "dataset",
        "dataset_root",
        "num_steps",
        "num_epochs",
        "minutes",
        "batch_size",
        "learning_rate",
        "preset",
        "fixed_size",
        "views",
        "seed",
        "device",
        "output_dir",
        "config",
    ),
    example=format_command("compare", "--dataset=ellipses", "--num_steps=640"),
)
@click.argument("path", required=False)
@functools.partial(experiment_options, without=OF_ONE_HEAD)
def main(path: str | None, **flags: Any) -> None:
    """Train all three heads on the data set at PATH (or --dataset) with one seed and budget, and print one table.

    Box AP is class-agnostic here, so that the RPN's proposals can be compared with detections. AR is that of the
    proposals of each detector's RPN. The three runs are written to one new folder, with the table and a plot.
    """
    from maskrcnn.plotting.curves import plot_heads
    from maskrcnn.training.runlog import create_run, remove_if_empty

    flags = take_path(path, flags)
    config = load_config(flags=flags)
    check_trust(config.data.dataset, flags, config.detector.backbone.name)
    from workbench.data import check_objects, open_data, resolve_dataset
    from workbench.experiment import describe_run

    config = resolve_dataset(config, click.echo)
    data = open_data(config, click.echo)
    check_objects(data, click.echo)
    heads = [head for head in HEADS if data.has_masks or head != "mask_rcnn"]
    if not data.has_masks:
        click.echo(f"{config.data.dataset} has boxes only: mask_rcnn is left out")
    folder = create_run(config.output.output_dir, f"{short_name(config.data.dataset)}-heads")
    with remove_if_empty(folder):
        rows = [measure(train_head(config, head, folder, data)) for head in heads]
    title = describe_run(config, rows[0]["epochs"], with_head=False)
    print_table(rows, title)
    write_csv(rows, folder / "heads.csv")
    plot_heads(rows, folder / "heads.png", title)
    click.echo(f"Wrote {folder / 'heads.csv'} and {folder / 'heads.png'}; the runs are in the same folder.")


def train_head(config: ExperimentConfig, head: str, folder: Path, data: Data) -> Experiment:
    """Train a detector with this head; its run is written to the folder."""
    output = dataclasses.replace(
        config.output, output_dir=str(folder), model_file=None, plot_dir=None, predictions_dir=None
    )
    experiment = run_experiment(dataclasses.replace(config, head=head, start_from=None, output=output), data=data)
    assert experiment is not None
    if experiment.training.stopped_by is not None:
        raise click.exceptions.Exit(get_exit_code(experiment.training.stopped_by))
    return experiment


def measure(experiment: Experiment) -> Row:
    """Compute the metrics of the best weights of one run on the test images."""
    from maskrcnn.evaluation.coco import compute_proposal_recall
    from maskrcnn.evaluation.figures import evaluate
    from maskrcnn.training.runlog import read_metrics
    from workbench.evaluation import predict

    config, classes = experiment.config, experiment.data.class_names
    targets = experiment.test.targets
    state = experiment.training.state
    seconds_per_step = compute_median_step_seconds(read_metrics(experiment.log.metrics_file))
    load = get_load_average()
    found, seconds_per_image = predict_timed(experiment)
    how = (experiment.detector, experiment.test.samples, experiment.machine, config.training.batch_size, config.views)
    proposals = predict(*how, proposals_only=True)
    row: Row = {
        "head": config.head,
        "data": config.data.dataset,
        "seed": config.training.seed,
        "epochs": state.epoch,
        "steps": state.step,
    }
    threshold = experiment.tested.metrics["operating_threshold"] if experiment.tested is not None else 0.5
    row |= evaluate(targets, found, classes, config.head, class_agnostic=True, score_threshold=threshold).metrics
    row |= compute_proposal_recall(targets, proposals)
    row["train_seconds"] = state.seconds if seconds_per_step is None else seconds_per_step * state.step
    row["inference_ms"] = seconds_per_image * 1000
    row["load"] = load
    row["parameters"] = sum(p.numel() for p in experiment.detector.parameters())
    return row


def predict_timed(experiment: Experiment) -> tuple[Predictions, float]:
    """Return detections in the test images, and the median time per image (s) of the batches."""
    from datasets.selection import Subset
    from maskrcnn.training.loading import KeyedSamples
    from workbench.evaluation import predict

    dataset, size = experiment.test.dataset, experiment.config.training.batch_size
    found: Predictions = {}
    seconds = []
    for start in range(0, len(dataset), size):
        places = range(start, min(start + size, len(dataset)))
        started = time.perf_counter()
        samples = KeyedSamples(Subset(dataset, places))
        found |= predict(experiment.detector, samples, experiment.machine, size, experiment.config.views)
        seconds.append((time.perf_counter() - started) / len(places))
    return found, statistics.median(seconds)


def print_table(rows: list[Row], title: str) -> None:
    """Print the table; `title` names the data, the number of epochs and the seed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Heads compared: {title}", caption=describe_times())
    for name, title in COLUMNS.items():
        table.add_column(title, justify="left" if name == "head" else "right")
    for row in rows:
        table.add_row(*(format_cell(row.get(name)) for name in COLUMNS))
    Console(width=160).print(table)


def format_cell(value: Any) -> str:
    """Format a value of the table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1.5 else f"{value:.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def name_column(metric: str) -> str:
    """Name a metric in the CSV file: `box_ap_tiny` is `box_ap_8-16px`."""
    for size, limits in SIZES.items():
        if metric.endswith(f"_{size}"):
            return f"{metric.removesuffix(size)}{limits}"
    return metric


def write_csv(rows: list[Row], path: Path) -> None:
    """Write all metrics as CSV; object sizes are named by their limits, as in the table."""
    from maskrcnn.files import write_text

    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name_column(name) for name in names])
    writer.writerows([row.get(name) for name in names] for row in rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
