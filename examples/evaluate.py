"""Evaluate runs, or COCO results files of any detector, with intervals: `python -m examples.evaluate newest`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.config import DataConfig, ReadingConfig
from maskrcnn.command_line import SettingsCommand, click_options, format_flags, take_flags
from maskrcnn.config import UserError, flag_values, merge, option
from maskrcnn.programs import format_command
from maskrcnn.text import escape, format_count, to_file_name
from workbench.config import config_option, load_config
from workbench.progress import iterate_with_bar

if TYPE_CHECKING:
    from maskrcnn.evaluation.coco_reading import AnnotatedImages
    from workbench.assessment import Assessment, Request
    from workbench.results import Method


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    annotations: str | None = option(
        None, "COCO annotation file of the images of --results, instead of a data set", flag="annotations"
    )
    sizes: tuple[float, ...] = option(
        (0.0, 8.0, 16.0, 32.0),
        "edges of the bins of object size √area (px), with a last bin above them",
        flag="sizes",
    )
    match: str = option("distance:3", "maximum distance of matched centers (px), beside IoU", flag="match")
    replicates: int = option(1000, "replicates of the bootstrap", flag="replicates", minimum=20, maximum=100_000)
    output_dir: str = option("evaluations", "folder in which each call creates a new folder", flag="output_dir")


@click.command(
    cls=SettingsCommand,
    common=(
        "results",
        "annotations",
        "dataset_root",
        "dataset",
        "sizes",
        "match",
        "replicates",
        "output_dir",
        "config",
    ),
    example=format_command("evaluate", "--results=mine=results.json", "--annotations=annotations.json"),
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option(
    "--results", metavar="NAME=FILE", multiple=True, help="COCO results file; several of one name are its seeds"
)
@click_options(EvaluateConfig)
@click_options(DataConfig)
@click_options(ReadingConfig)
@config_option
def main(runs: tuple[str, ...], results: tuple[str, ...], **flags: Any) -> None:
    """Measure detections with 95% intervals: of finished runs (default: newest), or of COCO results files.

    A run is a folder, a name, newest, or NAME=RUN; several with one NAME are seeds of one method, and so are several
    files of --results. Of two or more methods, the differences are paired by image.
    """
    typed = {flag: value for flag, value in flags.items() if value is not None}
    options = merge(EvaluateConfig(), flag_values(EvaluateConfig, take_flags(EvaluateConfig, flags)))
    request = make_request(options)
    annotated, methods = read_all(runs, results, options, flags)
    from maskrcnn.training.runlog import create_run, remove_if_empty
    from workbench.assessment import assess, describe_comparison, draw, print_tables

    request = replace(request, class_agnostic=any(method.class_agnostic for method in methods))
    found = [assess(method, annotated, request) for method in iterate_with_bar(methods, "Measuring")]
    print_tables(found, annotated)
    print_notes(found, annotated)
    for first, other in combinations(found, 2):
        for line in describe_comparison(first, other, len(annotated.targets)):
            click.echo(escape(line))
    folder = create_run(options.output_dir, to_file_name("-".join(each.name for each in methods)[:80]))
    with remove_if_empty(folder):
        pictures = draw(found, annotated, folder, f"{format_count(len(annotated.targets), 'images')}")
        file = write_json(found, annotated, folder)
    click.echo(f"Figures      {file}")
    click.echo(f"Pictures     {folder}: {', '.join(path.name for path in pictures)}")
    click.echo(f"Next: {escape(format_next_command(runs, results, methods, typed))}")


def make_request(options: EvaluateConfig) -> Request:
    """Check the options of what is measured; raise a UserError for invalid ones."""
    from workbench.assessment import Request

    edges = options.sizes
    if len(edges) < 2 or edges[0] < 0 or any(low >= high for low, high in pairwise(edges)):
        text = ",".join(f"{edge:g}" for edge in edges)
        raise UserError(f"--sizes={text}: give at least two ascending sizes in pixels, such as 0,4,8,16,32")
    kind, _, distance = options.match.partition(":")
    try:
        pixels = float(distance) if kind == "distance" else -1.0
    except ValueError:
        pixels = -1.0
    if not 0 < pixels < 1e6:
        raise UserError(f"--match={options.match}: give distance:PIXELS, such as distance:3")
    return Request(edges, pixels, options.replicates)


def read_all(
    runs: tuple[str, ...], results: tuple[str, ...], options: EvaluateConfig, flags: dict[str, Any]
) -> tuple[AnnotatedImages, list[Method]]:
    """Read the ground truth and the detections of all methods.

    Raises:
        UserError: If there are none, they are not finished, or of other images or categories.
    """
    from workbench.results import find_runs, load_run_config, read_files, read_runs, read_targets

    if runs and results:
        raise UserError(
            f"{runs[0]}: give runs or --results, not both; the results of a run are in its predictions folder"
        )
    config = load_config(flags=flags)
    if results:
        if options.annotations is None and config.data.dataset_root is None and flags.get("dataset") is None:
            raise UserError(
                "--results: of which images? Give --annotations=FILE, or --dataset_root=FOLDER of a data set"
            )
        annotated = read_targets(config, options.annotations, click.echo)
        return annotated, read_files(results, annotated)
    if options.annotations is not None:
        raise UserError(f"--annotations={options.annotations}: is for --results=NAME=FILE; a run knows its data")
    found = find_runs(runs or ("newest",), config.output.output_dir, click.echo)
    configs = {folder: load_run_config(folder, flags) for folders in found.values() for folder in folders}
    annotated = read_targets(next(iter(configs.values())), None, click.echo)
    return annotated, read_runs(found, annotated, {folder: each.head for folder, each in configs.items()})


def print_notes(found: list[Assessment], annotated: AnnotatedImages) -> None:
    """Print what the intervals and thresholds are of."""
    objects = sum(int((~target.ignore).sum()) for target in annotated.targets.values())
    click.echo(f"{format_count(len(annotated.targets), 'images')} with {format_count(objects, 'objects')}")
    for each in found:
        name, interval = escape(each.method.name), next(iter(each.intervals["box"].values()), None)
        if interval is not None:
            click.echo(f"{name}: 95% intervals {interval.describe_source()}; rows without ± are of its first seed")
        figures = each.figures["box"]
        origin = f"best F1 on {figures['threshold_from']}"
        biased = " (there are no others, so figures at this threshold are too good)"
        click.echo(
            f"{name}: score threshold {figures['threshold']:.3g}, {origin}{biased * (each.method.threshold is None)}"
        )


def write_json(found: list[Assessment], annotated: AnnotatedImages, folder: Path) -> Path:
    """Write all figures and differences."""
    from maskrcnn.files import write_text
    from workbench.assessment import compare, to_json

    count = len(annotated.targets)
    differences = {
        f"{first.method.name} - {other.method.name}": {
            kind: {name: asdict(each) for name, each in by_name.items()}
            for kind, by_name in compare(first, other, count).items()
        }
        for first, other in combinations(found, 2)
    }
    contents = {
        "num_images": count,
        "class_names": annotated.class_names,
        "methods": {each.method.name: to_json(each) for each in found},
        "differences": differences,
    }
    path = folder / "evaluation.json"
    write_text(path, json.dumps(contents, indent=1) + "\n")
    return path


def format_next_command(
    runs: tuple[str, ...], results: tuple[str, ...], methods: list[Method], typed: Mapping[str, Any]
) -> str:
    """Format a command that compares with another method, or shows the detections of the run."""
    if results:
        more = [f"--results={each}" for each in results] + ["--results=OTHER=FILE"] * (len(methods) == 1)
        sizes = {"sizes": "0,4,8,16,32"} if len(methods) > 1 else {}
        return format_command("evaluate", *more, *format_flags({**typed, **sizes}))
    if len(methods) == 1:
        return format_command("evaluate", *(runs or ("newest",)), "OTHER_RUN", *format_flags(typed))
    return format_command("predict", "IMAGE_OR_FOLDER", f"--run={methods[0].sources[0]}")


if __name__ == "__main__":
    main()
