"""What was found so far in a folder of images, one line per image, so that a search that was stopped can go on."""

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
from maskrcnn.structures.instances import Instances

LOG_FILE = "predictions.jsonl"


@dataclass
class PredictionLog:
    """The images of a search that are done, in its folder; complete results are written from it.

    settings: what the results depend on; a search goes on only with the same.
    """

    folder: Path
    settings: Mapping[str, Any]
    category_ids: Sequence[int]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: size (H, W) and COCO entries without image

    @property
    def path(self) -> Path:
        """The file of the log."""
        return self.folder / LOG_FILE

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(H, W) of each image that is done, by name."""
        return {name: (line["size"][0], line["size"][1]) for name, line in self.done.items()}

    def add(self, name: str, found: Instances) -> None:
        """Append what was found in an image; it is on the disk when this returns."""
        entries = to_coco_results({0: found}, category_ids=self.category_ids)
        for entry in entries:
            del entry["image_id"]
        line = {"name": name, "size": list(found.size), "entries": entries}
        lines = [line] if self.done or self.path.exists() else [{"settings": self.settings}, line]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(each) + "\n" for each in lines)
            file.flush()
            os.fsync(file.fileno())
        self.done[name] = line

    def write_results(self, names: Sequence[str], class_names: Sequence[str], with_masks: bool) -> None:
        """Write the results and the list of images, of which the ids are the places among `names` from 1.

        `COCO("images.json").loadRes("coco_boxes.json")` has everything.
        """
        ids = {name: number for number, name in enumerate(names, start=1) if name in self.done}
        entries = [{"image_id": ids[name]} | entry for name in ids for entry in self.done[name]["entries"]]
        write_coco_entries(self.folder, entries, with_masks)
        nothing = {ids[name]: Instances.empty(size) for name, size in self.sizes.items() if name in ids}
        images = to_coco_dataset(
            nothing, class_names, {ids[name]: name for name in ids}, category_ids=self.category_ids
        )
        write_text(self.folder / "images.json", json.dumps(images, indent=1) + "\n")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Print how to go on where the block is stopped or fails."""
        try:
            yield
        except BaseException:
            if self.done:
                click.echo(f"{len(self.done)} images are done; go on with the same command and --resume={self.folder}")
            raise

    def remove(self) -> None:
        """Take the log away, once the results are complete."""
        self.path.unlink(missing_ok=True)


def read_log(folder: Path, settings: Mapping[str, Any], category_ids: Sequence[int]) -> PredictionLog:
    """The log in the folder of a search that was stopped.

    Raises:
        UserError: nothing to go on with there, or other settings than those that the search was started with.
    """
    log = PredictionLog(folder, settings, category_ids)
    if not log.path.is_file():
        raise UserError(f"--resume={folder}: no search that was stopped ({LOG_FILE}); leave --resume out to start one")
    lines = _whole_lines(log.path)
    before = lines[0].get("settings", {}) if lines else settings
    changed = [name for name in settings if before.get(name) != json.loads(json.dumps(settings[name]))]
    if changed:
        raise UserError(
            f"--resume={folder}: was started with other settings ({', '.join(changed)}); repeat its command line, or "
            "leave --resume out"
        )
    log.done = {line["name"]: line for line in lines[1:]}
    return log


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that was cut is taken out of the file."""
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
    """A hash of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
