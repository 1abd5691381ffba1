"""Checks a data set: files against their hashes, annotations against label images, boxes against masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from examples.command_line import SettingsCommand
from examples.progress import with_bar
from maskrcnn.config import UserError

MOST_SAID = 50  # problems that are named


@click.command(cls=SettingsCommand)
@click.argument("path")
@click.option("--dataset", default=None, help="kind of data, as in training  [default: made by this project]")
def main(path: str, dataset: str | None) -> None:
    """Read everything in the data set at PATH and list what is wrong with it. Exit code 2 if anything is.

    Data that this project made is compared with its manifest, too: every file's SHA-256 and every image's pixels.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder")
    checks = check_made if dataset is None else check_read
    problems = 0
    counts: dict[str, int] = {}
    for problem in checks(folder, dataset or "shapes", counts):
        problems += 1
        if problems <= MOST_SAID:
            click.echo(problem)
    if problems > MOST_SAID:
        click.echo(f"… and {problems - MOST_SAID} more")
    for rule, count in counts.items():
        click.echo(f"{count} {rule}")
    if problems:
        raise UserError(f"{path}: {problems} problem{'s' * (problems > 1)}; mend the files or make them again")
    click.echo(f"{path}: {'all images can be read' if counts else 'everything is as it should be'}")


def check_made(folder: Path, dataset: str, counts: dict[str, int]) -> Iterator[str]:
    """Problems of data that was made by this project. UserError if it was not."""
    from datasets.synthetic.checking import check_annotations, compare_file, find_strangers, read_manifest

    manifest = read_manifest(folder)
    yield from find_strangers(folder, manifest)
    for name, hashes in with_bar(manifest.items(), "Comparing files"):
        if problem := compare_file(folder, name, hashes):
            yield problem
    for split in sorted(path.parent.name for path in folder.glob("*/annotations.json")):
        for problem in with_bar(check_annotations(folder, split), f"Checking {split}"):
            if problem:
                yield problem


def check_read(folder: Path, dataset: str, counts: dict[str, int]) -> Iterator[str]:
    """Images of other data that cannot be read; ``counts`` gets what was dropped or clipped."""
    from datasets.registry import open_dataset

    for split in ("train", "test"):
        try:
            data = open_dataset(dataset, folder, split)
        except UserError as error:
            yield str(error)
            continue
        for index in with_bar(range(len(data)), f"Reading {split}"):
            try:
                data[index]
            except UserError as error:
                yield str(error)
        for rule, count in data.counts.items():
            counts[rule] = counts.get(rule, 0) + count


if __name__ == "__main__":
    main()
