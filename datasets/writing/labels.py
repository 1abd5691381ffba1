"""Writer of images with 16-bit label images, as read by StarDist and Cellpose."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.splitting import SPLIT_FILE
from datasets.writing.images import paint_label_image, write_image, write_levels
from datasets.writing.sample import Losses, Sample, Writer
from maskrcnn.config import UserError

CLASS_NAME = "object"
MAX_OBJECTS = 65_535
_KINDS = ("images", "masks")


class LabelsWriter(Writer):
    """Writes `<part>/images/*` and label images `<part>/masks/*.png`.

    Object ids are kept if they are unique and between 1 and 65,535; otherwise the objects of the image are numbered
    from 1. A data set with one part is written to the folder itself; `split.json` names its images as training images,
    if they are.
    """

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        require_masks(has_masks, "labels")
        super().__init__(root, losses)
        self._classes = class_names
        self._names: dict[str, list[str]] = {}

    def add(self, part: str, sample: Sample) -> None:
        """Write the image and its label image."""
        folder = self.root / part
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / "images", sample, IMAGE_SUFFIXES)
        write_levels(folder / "masks" / f"{sample.name}.png", self._labels(sample))
        count_class_losses(sample, self._classes, CLASS_NAME, self.losses)
        self._names.setdefault(part, []).append(sample.name)

    def _labels(self, sample: Sample) -> NDArray[np.uint16]:
        masks = sample.instances.masks
        assert masks is not None
        count = len(masks)
        if count > MAX_OBJECTS:
            raise UserError(
                f"image {sample.name}: has {count} objects; 16-bit labels support {MAX_OBJECTS}; use --to=coco"
            )
        ids = np.arange(1, count + 1) if sample.instances.ids is None else sample.instances.ids.numpy()
        fits = ((ids >= 1) & (ids <= MAX_OBJECTS)).all() and len(np.unique(ids)) == count
        numbers = ids if fits else np.arange(1, count + 1)
        self.losses.add_renumbered(int((numbers != ids).sum()))
        return np.concatenate([[0], numbers]).astype(np.uint16)[paint_label_image(masks, self.losses)]

    def finish(self) -> None:
        """Move a single part to the root folder, and write `split.json` as `write_split` does."""
        if len(self._names) != 1:
            return
        (part,) = self._names
        for kind in _KINDS:
            (self.root / part / kind).rename(self.root / kind)
        (self.root / part).rmdir()
        write_split(self.root, self._names)


def write_split(root: Path, names: dict[str, list[str]]) -> None:
    """Write `split.json` with the image names of each part, unless there is one part and it is not "train".

    Such images serve for all splits: readers draw the splits where no file names them.
    """
    if len(names) > 1 or "train" in names:
        text = json.dumps(names, indent=1) + "\n"
        (root / SPLIT_FILE).write_text(text, encoding="utf-8", newline="\n")


def require_masks(has_masks: bool, to: str) -> None:
    """Raise a UserError for data that has only boxes."""
    if not has_masks:
        raise UserError(f"--to={to}: stores masks, but this data has only boxes; use --to=coco or --to=voc")


def count_class_losses(sample: Sample, class_names: Sequence[str], class_name: str, losses: Losses) -> None:
    """Count what is lost by a format with one class and without image ids and ignore flags."""
    count_flag_losses(sample, losses)
    if tuple(class_names) != (class_name,):
        losses.add(f"the class of {{n}} objects: all are '{class_name}'", len(sample.instances))


def count_flag_losses(sample: Sample, losses: Losses) -> None:
    """Count what is lost by a format without image ids and ignore flags."""
    losses.add_named_image()
    losses.add("the ignore flags of {n} objects", int(sample.instances.ignore.sum()))
