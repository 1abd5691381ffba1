"""Folders of images and 16-bit label images, as StarDist and Cellpose read them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.splitting import SPLIT_FILE
from datasets.writing.pictures import paint, write_image, write_levels
from datasets.writing.sample import Losses, Sample, Writer
from maskrcnn.config import UserError

CLASS_NAME = "object"
MAX_OBJECTS = 65_535
_KINDS = ("images", "masks")


class LabelsWriter(Writer):
    """`<part>/images/*` and `<part>/masks/*.png`, in which an object's pixels have its number.

    Objects keep their ids where these are 1 to 65,535; else an image's objects are numbered from 1. A set of one part
    lies in the folder itself, with a `split.json` that says which it is.
    """

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        need_masks(has_masks, "labels")
        super().__init__(root, losses)
        self._classes = class_names
        self._names: dict[str, list[str]] = {}

    def add(self, part: str, sample: Sample) -> None:
        folder = self.root / part
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / "images", sample, IMAGE_SUFFIXES)
        write_levels(folder / "masks" / f"{sample.name}.png", self._labels(sample))
        count_plain(sample, self._classes, CLASS_NAME, self.losses)
        self._names.setdefault(part, []).append(sample.name)

    def _labels(self, sample: Sample) -> NDArray[np.uint16]:
        masks = sample.instances.masks
        assert masks is not None
        count = len(masks)
        if count > MAX_OBJECTS:
            raise UserError(f"image {sample.name} has {count} objects: 16-bit labels hold {MAX_OBJECTS}; use --to=coco")
        ids = np.arange(1, count + 1) if sample.instances.ids is None else sample.instances.ids.numpy()
        fits = ((ids >= 1) & (ids <= MAX_OBJECTS)).all() and len(np.unique(ids)) == count
        numbers = ids if fits else np.arange(1, count + 1)
        self.losses.add("the ids of {n} objects, which are numbered anew", int((numbers != ids).sum()))
        return np.concatenate([[0], numbers]).astype(np.uint16)[paint(masks, self.losses)]

    def finish(self) -> None:
        if len(self._names) != 1:
            return
        (part,) = self._names
        for kind in _KINDS:
            (self.root / part / kind).rename(self.root / kind)
        (self.root / part).rmdir()
        write_split(self.root, self._names)


def write_split(root: Path, names: dict[str, list[str]]) -> None:
    """`split.json` with the names of the images of each part."""
    text = json.dumps({part: [] for part in ("train", "test")} | names, indent=1) + "\n"
    (root / SPLIT_FILE).write_text(text, encoding="utf-8", newline="\n")


def need_masks(has_masks: bool, to: str) -> None:
    """UserError for data of boxes only."""
    if not has_masks:
        raise UserError(f"--to={to}: holds masks, but this data has boxes only; use --to=coco or --to=voc")


def count_plain(sample: Sample, class_names: Sequence[str], class_name: str, losses: Losses) -> None:
    """Count what a format of one class, without image ids and without objects to ignore, loses of an image."""
    count_flags(sample, losses)
    if tuple(class_names) != (class_name,):
        losses.add(f"the class of {{n}} objects: all are '{class_name}'", len(sample.instances))


def count_flags(sample: Sample, losses: Losses) -> None:
    losses.add("the ids of {n} images, which are known by name")
    losses.add("what says of {n} objects to ignore them", int(sample.instances.ignore.sum()))
