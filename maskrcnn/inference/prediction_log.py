"""Log of the detections in a folder of images, one line per image, from which a stopped program continues."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco_format import to_coco_dataset, to_coco_results, write_coco_entries
from maskrcnn.files import write_text
from maskrcnn.inference.exports import Table, write_tables
from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count

LOG_FILE = "predictions.jsonl"


@dataclass
class PredictionLog:
    """Detections of the images that are done; the results are written from it.

    Attributes:
        folder: output folder.
        settings: options that the results depend on, which must not change when the program continues.
        category_ids: category id of each class.
        done: by name of the image, its size (H, W) and its COCO entries without `image_id`.
    """

    folder: Path
    settings: Mapping[str, Any]
    category_ids: Sequence[int]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """File of the log."""
        return self.folder / LOG_FILE

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Size (H, W) of each image that is done, by name."""
        return {name: (line["size"][0], line["size"][1]) for name, line in self.done.items()}

    def add(self, name: str, found: Instances, table: Table) -> None:
        """Append the detections of an image, and their table for `objects.csv`, and sync the file to the disk."""
        entries = to_coco_results({0: found}, category_ids=self.category_ids)
        for entry in entries:
            del entry["image_id"]
        line = {"name": name, "size": list(found.size), "entries": entries, **table._asdict()}
        lines = [line] if self.done or self.path.exists() else [{"settings": self.settings}, line]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(each) + "\n" for each in lines)
            file.flush()
            os.fsync(file.fileno())
        self.done[name] = line

    def write_results(self, names: Sequence[str], class_names: Sequence[str], with_masks: bool) -> None:
        """Write results, tables and `images.json`, for `COCO("images.json").loadRes("coco_boxes.json")`.

        Args:
            names: names of all images; the id of an image is its position, from 1.
            class_names: names of labels 1, 2, ...
            with_masks: whether to write a file with masks.
        """
        ids = {name: number for number, name in enumerate(names, start=1) if name in self.done}
        entries = [{"image_id": ids[name]} | entry for name in ids for entry in self.done[name]["entries"]]
        write_coco_entries(self.folder, entries, with_masks)
        nothing = {ids[name]: Instances.empty(size) for name, size in self.sizes.items() if name in ids}
        images = to_coco_dataset(
            nothing, class_names, {ids[name]: name for name in ids}, category_ids=self.category_ids
        )
        tables = {name: Table(*(self.done[name].get(part, ()) for part in Table._fields)) for name in ids}
        write_tables(self.folder, tables, class_names)
        write_text(self.folder / "images.json", json.dumps(images, indent=1) + "\n")

    @contextmanager
    def report_interruption(self) -> Iterator[None]:
        """Print how to continue if the block is interrupted or fails."""
        try:
            yield
        except BaseException:
            if self.done:
                done = format_count(len(self.done), "images are done")
                click.echo(f"{done}; continue with the same command and --resume={self.folder}")
            raise

    def remove(self) -> None:
        """Remove the log when the results are complete."""
        self.path.unlink(missing_ok=True)


def read_log(folder: Path, settings: Mapping[str, Any], category_ids: Sequence[int]) -> PredictionLog:
    """Read the log of a program that was stopped.

    Raises:
        UserError: If there is no log in the folder, or it was started with other settings.
    """
    log = PredictionLog(folder, settings, category_ids)
    if not log.path.is_file():
        raise UserError(f"--resume={folder}: no stopped prediction ({LOG_FILE}); remove --resume to start a new one")
    lines = _read_complete_lines(log.path)
    before = lines[0].get("settings", {}) if lines else settings
    changed = [name for name in settings if before.get(name) != json.loads(json.dumps(settings[name]))]
    if changed:
        raise UserError(
            f"--resume={folder}: was started with other settings ({', '.join(changed)}); repeat its command line, or "
            "remove --resume"
        )
    log.done = {line["name"]: line for line in lines[1:]}
    return log


def _read_complete_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log, and remove an incomplete last line from the file."""
    lines, end = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            lines.pop()
            break
        end += len(line)
    os.truncate(path, end)
    return lines


def hash_file(path: Path) -> str:
    """Compute the SHA-256 hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
