"""Check a data set: files against their hashes, annotations against label images, boxes against masks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datasets.config import ReadingConfig
from datasets.registry import AUTO
from maskrcnn.command_line import SettingsCommand, click_options, take_flags
from maskrcnn.config import UserError, flag_values, merge
from maskrcnn.images.config import StoredImagesConfig
from maskrcnn.programs import format_command
from maskrcnn.text import escape, format_count
from workbench.config import take_folder
from workbench.progress import iterate_with_bar

if TYPE_CHECKING:
    from datasets.interface import DetectionDataset
    from datasets.survey import Survey

SWEEP = "sweep.json"
MAX_JUDGED = 200  # images per split of generated data, evenly spaced


@dataclass
class Seen:
    """Results of the check: problems and their counts, notices, and by rule, what looks wrong and notes about it."""

    path: Path
    problems: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    concerns: dict[str, list[str]] = field(default_factory=dict)  # lines
    num_wrong: int = 0  # of the concerns, without notes
    compared: bool = False  # whether data was compared with a manifest

    def report(self, problems: Iterable[str]) -> None:
        """Print and count problems."""
        for problem in map(escape, problems):
            if problem not in self.problems:
                click.echo(problem)
            self.problems[problem] += 1

    def judge(
        self, folder: Path, dataset: str, splits: Mapping[str, DetectionDataset], surveys: Mapping[str, Survey]
    ) -> None:
        """Note what looks wrong in the splits of a folder."""
        from workbench.judgment import judge_splits

        for where, concern in judge_splits(splits, surveys, dataset, str(folder)):
            kind = "note" if concern.is_note else "looks wrong"
            lines = [f"{kind}: {self.place(folder)}{where}: {concern.describe()}", f"    {concern.advice}"]
            self.num_wrong += not concern.is_note
            self.concerns.setdefault(concern.rule, []).extend(lines)

    def place(self, folder: Path) -> str:
        """Return the start of a line that needs the folder, of which there are several in a sweep."""
        return f"{folder}: " * (folder != self.path)


@click.command(
    cls=SettingsCommand,
    common=("dataset", "crowds", "voc_from", "image_folder", "classes", "map_classes", "select"),
    example=format_command("check", "data/ellipses"),
)
@click.argument("path", required=False)
@click.option("--dataset_root", "--dataset-root", metavar="PATH", help="folder of the data set, as in training")
@click.option("--dataset", default="auto", show_default=True, help="format of the data, as in training")
@click_options(ReadingConfig)
@click_options(StoredImagesConfig)
def main(path: str | None, dataset_root: str | None, dataset: str, **flags: Any) -> None:
    """Read everything in the data set at PATH and list what cannot be read. Exit code 2 if there is anything.

    What is readable, but probably meant otherwise, is listed as "looks wrong", with what to do. A "note" is about
    how the data is read or detected.

    Data that this project made is compared with its manifest, too: every file's SHA-256 and every image's pixels. Of a
    sweep every data set is checked.
    """
    path = take_folder(path, dataset_root)
    if path is None:
        raise UserError("the folder of the data set is missing: give it as PATH")
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder")
    from maskrcnn.images.options import make_image_options, use_image_options

    files = merge(StoredImagesConfig(), flag_values(StoredImagesConfig, take_flags(StoredImagesConfig, flags)))
    click.get_current_context().with_resource(use_image_options(make_image_options(files)))
    seen, reading = Seen(folder), merge(ReadingConfig(), flag_values(ReadingConfig, flags))
    folders = find_folders(folder) if dataset == AUTO else [folder]
    for each in folders:
        try:
            check(each, None if dataset == AUTO else dataset, seen, reading)
        except UserError as error:
            if len(folders) == 1:
                raise
            seen.report([str(error)])  # and continue with the next data set of the sweep
    for problem, count in seen.problems.items():
        if count > 1:
            click.echo(f"found {count} times: {problem}")
    for line in (*seen.notes, *(line for lines in seen.concerns.values() for line in lines)):
        click.echo(escape(line))
    if problems := len(seen.problems):
        raise UserError(f"{path}: {format_count(problems, 'problems')}; fix the files or create them again")
    readable = "unchanged and readable" if seen.compared else "readable"
    click.echo(f"{path}: {readable}, {format_judgment(seen.num_wrong)}")


def format_judgment(num_wrong: int) -> str:
    """Return the end of the last line."""
    if not num_wrong:
        return "nothing looks wrong"
    return f"but {format_count(num_wrong, 'things')} look{'s' * (num_wrong == 1)} wrong"


def check(folder: Path, dataset: str | None, seen: Seen, reading: ReadingConfig) -> None:
    """Print the kind of data in a folder and its problems."""
    if dataset is None and (folder / "manifest.json").exists():
        click.echo(f"{folder}: created by this project; compared with its manifest")
        seen.report(check_generated(folder, seen))
        seen.compared = True
        return
    name, reason = (dataset, "") if dataset else recognize(folder)
    click.echo(f"{folder}: read as --dataset={name}" + f" (found {reason})" * bool(reason))
    seen.report(check_read(folder, name, seen, reading))


def find_folders(folder: Path) -> list[Path]:
    """Return the folder, or those of the data sets of a sweep; raise a UserError for an invalid sweep.json."""
    path = folder / SWEEP
    if not path.is_file():
        return [folder]
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["values"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not as sweep_data writes it; check its data sets one by one") from error
    click.echo(f"{folder}: a sweep of {format_count(len(names), 'data sets')}")
    return [folder / name for name in names]


def recognize(folder: Path) -> tuple[str, str]:
    """Return the format of the data in a folder, and why; raise a UserError for generated data without a manifest."""
    from datasets.recognition import GENERATED
    from datasets.recognition import recognize as recognize_format

    found = recognize_format(folder)
    if found.name in GENERATED:
        raise UserError(
            f"{folder / 'manifest.json'}: is missing, so there is nothing to compare this data with; "
            f"make it again, or --dataset={found.name} only reads it"
        )
    return found


def check_generated(folder: Path, seen: Seen) -> Iterator[str]:
    """Yield the problems of generated data; a modified label image is reported once."""
    from datasets.synthetic.verification import check_annotations, compare_file, find_unlisted_files, read_manifest

    manifest = read_manifest(folder)
    yield from find_unlisted_files(folder, manifest)
    files: set[str] = set()  # modified files, whose annotations are not reported again
    for name, hashes in iterate_with_bar(manifest.items(), "Comparing files"):
        if problem := compare_file(folder, name, hashes):
            files.add(str(folder / name))
            yield problem
    splits = sorted(path.parent.name for path in folder.glob("*/annotations.json"))
    for split in splits:
        try:
            for problem in iterate_with_bar(check_annotations(folder, split), f"Checking {split}"):
                if problem and problem.partition(": ")[0] not in files:
                    yield problem
        except UserError as error:
            yield str(error)
    if not seen.problems:
        judge_generated(folder, splits, seen)


def judge_generated(folder: Path, splits: Sequence[str], seen: Seen) -> None:
    """Note what looks wrong in a sample of the images of each split of generated data."""
    from datasets.statistics import choose_evenly_spaced
    from datasets.survey import Survey
    from datasets.writing.discovery import find_openers

    openers = find_openers(folder, "shapes")
    parts, surveys = {part: openers[part]() for part in splits if part in openers}, {}
    for part, data in parts.items():
        surveys[part] = survey = Survey(data.class_names)
        for index in iterate_with_bar(choose_evenly_spaced(len(data), MAX_JUDGED), f"Reading {part}"):
            survey.add(data.image_names[index], *data[index])
    seen.judge(folder, "shapes", parts, surveys)


def check_read(folder: Path, dataset: str, seen: Seen, reading: ReadingConfig) -> Iterator[str]:
    """Yield the unreadable parts and images; note what was dropped or clipped, and what looks wrong."""
    from datasets.notices import NAMES, describe_notices
    from datasets.survey import Survey
    from datasets.writing.discovery import find_openers, get_roles

    parts, surveys = {}, {}
    openers = find_openers(folder, dataset, reading)
    for part, opener in {role: openers[part] for part, role in get_roles(dataset, openers).items()}.items():
        try:
            parts[part] = data = opener()
        except UserError as error:
            yield str(error)
            continue
        surveys[part] = survey = Survey(data.class_names)
        for index in iterate_with_bar(range(len(data)), f"Reading {part}"):
            try:
                survey.add(data.image_names[index], *data[index])
            except UserError as error:
                yield str(error)
        survey.counts = data.counts
    counts = {NAMES[part]: data.counts for part, data in parts.items()}
    seen.notes += (seen.place(folder) + line for line in describe_notices(counts))
    seen.judge(folder, dataset, parts, surveys)


if __name__ == "__main__":
    main()
