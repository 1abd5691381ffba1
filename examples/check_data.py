"""Checks a data set: files against their hashes, annotations against label images, boxes against masks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from datasets.config import ReadingConfig
from maskrcnn.config import UserError, flag_values, merge
from maskrcnn.text import escape
from workbench.command_line import SettingsCommand, click_options
from workbench.progress import with_bar

SWEEP = "sweep.json"
NO_OBJECTS = "{}: holds no object, so that nothing can be learned from it or measured on it"


@dataclass
class Seen:
    """What was met on the way: problems that were said, how often the same came again, and what is no problem."""

    problems: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    compared: bool = False  # with a manifest, not only read

    def say(self, problems: Iterable[str]) -> None:
        for problem in map(escape, problems):
            if problem not in self.problems:
                click.echo(problem)
            self.problems[problem] += 1


@click.command(cls=SettingsCommand, example="python -m examples.check_data data/ellipses")
@click.argument("path")
@click.option("--dataset", default=None, help="kind of data, as in training  [default: seen from its files]")
@click_options(ReadingConfig)
def main(path: str, dataset: str | None, **flags: Any) -> None:
    """Read everything in the data set at PATH and list what is wrong with it. Exit code 2 if anything is.

    Data that this project made is compared with its manifest, too: every file's SHA-256 and every image's pixels. Of a
    sweep every data set is checked.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder")
    seen, reading = Seen(), merge(ReadingConfig(), flag_values(ReadingConfig, flags))
    folders = find_folders(folder) if dataset is None else [folder]
    for each in folders:
        try:
            check(each, dataset, seen, reading)
        except UserError as error:
            if len(folders) == 1:
                raise
            seen.say([str(error)])  # and on to the next of the sweep
    for problem, count in seen.problems.items():
        if count > 1:
            click.echo(f"met {count} times: {problem}")
    for note in seen.notes:
        click.echo(note)
    if problems := len(seen.problems):
        raise UserError(f"{path}: {problems} problem{'s' * (problems > 1)}; mend the files or make them again")
    click.echo(f"{path}: {'everything is as it should be' if seen.compared else 'all images can be read'}")


def check(folder: Path, dataset: str | None, seen: Seen, reading: ReadingConfig) -> None:
    """Say what kind of data a folder holds and what is wrong with it."""
    if dataset is None and (folder / "manifest.json").exists():
        click.echo(f"{folder}: made by this project; compared with its manifest")
        seen.say(check_made(folder, seen))
        seen.compared = True
        return
    name = dataset or recognised(folder)
    click.echo(f"{folder}: read as --dataset={name}")
    seen.say(check_read(folder, name, seen, reading))


def find_folders(folder: Path) -> list[Path]:
    """The folder, or those of the data sets in a sweep's. UserError for a sweep.json that names none."""
    path = folder / SWEEP
    if not path.is_file():
        return [folder]
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["values"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not as sweep_data writes it; check its data sets one by one") from error
    click.echo(f"{folder}: a sweep of {len(names)} data sets")
    return [folder / name for name in names]


def recognised(folder: Path) -> str:
    from datasets.writing.sources import recognise

    name = recognise(folder)
    if name == "shapes":
        raise UserError(
            f"{folder / 'manifest.json'}: is missing, so there is nothing to compare this data with; "
            "make it again, or --dataset=shapes only reads it"
        )
    return name


def check_made(folder: Path, seen: Seen) -> Iterator[str]:
    """Problems of data that was made by this project. A label image that is none any more is named once."""
    from datasets.synthetic.checking import check_annotations, compare_file, find_unlisted_files, read_manifest

    manifest = read_manifest(folder)
    yield from find_unlisted_files(folder, manifest)
    files: set[str] = set()  # that are not what they were: what follows from that is not said again
    for name, hashes in with_bar(manifest.items(), "Comparing files"):
        if problem := compare_file(folder, name, hashes):
            files.add(str(folder / name))
            yield problem
    for split in sorted(path.parent.name for path in folder.glob("*/annotations.json")):
        try:
            for problem in with_bar(check_annotations(folder, split), f"Checking {split}"):
                if problem and problem.partition(": ")[0] not in files:
                    yield problem
            if not has_objects(folder / split / "annotations.json"):
                seen.notes.append(NO_OBJECTS.format(folder / split))
        except UserError as error:
            yield str(error)


def has_objects(annotations: Path) -> bool:
    """Whether a split that was made here holds any object that is not to ignore."""
    from datasets.readers.json_stream import JsonStream

    with JsonStream(annotations) as stream:
        return any(not entry.value.get("iscrowd") for entry in stream.entries(("annotations",)))


def check_read(folder: Path, dataset: str, seen: Seen, reading: ReadingConfig) -> Iterator[str]:
    """Parts and images that cannot be read; what was dropped or clipped, and parts without any object, are noted."""
    from datasets.writing.sources import find_parts

    for part, opener in find_parts(folder, dataset, reading).items():
        try:
            data = opener()
        except UserError as error:
            yield str(error)
            continue
        objects, all_read = 0, True
        for index in with_bar(range(len(data)), f"Reading {part}"):
            try:
                objects += int((~data[index][1].ignore).sum())
            except UserError as error:
                all_read = False
                yield str(error)
        seen.notes += [f"{part}: {count} {rule}" for rule, count in data.counts.items() if count]
        if all_read and not objects:
            seen.notes.append(NO_OBJECTS.format(f"{folder}: {part}"))


if __name__ == "__main__":
    main()
