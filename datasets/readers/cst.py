"""CST, the toy set of circles, squares and triangles: a CSV file for each split, and masks as JPEG files."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from datasets.checks import TallyByImage, inside_folder
from datasets.readers.folders import folders_in, ids_of, image_named
from datasets.readers.mask_files import read_masks
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.tables import number_in, quoted, read_table
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances

CLASS_LETTERS = {"c": 1, "s": 2, "t": 3}
COLUMNS = ("image_id", "object_id", "class", "bbox", "mask_path")
MASK_THRESHOLD = 128  # JPEG leaves grey around the border
_OWN_FOLDER = "cst-dataset"


class _Objects:
    """The objects of one image, in the order of the file."""

    def __init__(self, where: str) -> None:
        self.where = where  # file and line of the first
        self.labels: list[int] = []
        self.masks: list[Path] = []


class Cst:
    """One split of ``annotation/anno-<split>.csv`` and ``<split>/<id>/<id>.jpg`` with the masks that the CSV names.

    Boxes come from the masks, thresholded at 128 (those in the file are 5 pixels wider, and only checked to be boxes);
    empty masks are dropped and counted. Ids are the places of an image's rows from 1. A folder without rows is an image
    without objects.
    """

    class_names: tuple[str, ...] = ("circle", "square", "triangle")
    has_masks = True

    def __init__(self, root: str | Path, split: str) -> None:
        """``root`` holds ``annotation``, or ``cst-dataset`` that does; ``split`` is "train", "val" or "test".

        Raises:
            UserError: no such folder or split, no images, a broken CSV, an unknown class, an object id twice, a path
                that leads out of the folder.
        """
        check_split(split)
        base = Path(root) / _OWN_FOLDER if (Path(root) / _OWN_FOLDER).is_dir() else Path(root)
        if not (base / "annotation").is_dir():
            raise UserError(f"{base}: holds no folder annotation; give CST's own folder as --dataset_root")
        self._stage = base / split
        self._table = base / "annotation" / f"anno-{split}.csv"
        if split != "train" and not self._table.exists():
            raise MissingSplit(f"{self._table}: no such file; add it")
        objects = _read_objects(self._table, self._stage)
        for name in folders_in(self._stage):
            objects.setdefault(name, _Objects(str(self._stage)))
        if not objects:
            raise UserError(f"{self._stage}: holds no images; give CST's own folder as --dataset_root")
        self.image_names = sorted(objects, key=lambda name: (len(name), name))
        self.image_ids = ids_of(self.image_names)
        self._objects = [objects[name] for name in self.image_names]
        self._tallies = TallyByImage(len(self._objects))

    @property
    def counts(self) -> Counter[str]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self._objects)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        where = self._objects[index].where
        folder = inside_folder(self._stage, self.image_names[index], where)
        return image_named(folder, folder.name, where)

    def annotation_files(self, index: int) -> list[Path]:
        """The files from which the objects of an image are read."""
        return [self._table, *self._objects[index].masks]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its objects. UserError for an unreadable file or sizes that differ."""
        objects = self._objects[index]
        image = read_image(self.image_file(index))
        masks, ids = read_masks(objects.masks, (int(image.shape[1]), int(image.shape[2])), MASK_THRESHOLD)
        self._tallies.of(index).add("empty masks dropped", objects.where, len(objects.masks) - len(ids))
        labels = torch.tensor(objects.labels, dtype=torch.int64)[ids - 1]
        return image, Instances.from_masks(masks, labels, ids=ids)


def _read_objects(path: Path, stage: Path) -> dict[str, _Objects]:
    """Objects by image."""
    objects: dict[str, _Objects] = {}
    lines: dict[str, int] = {}
    for line, (image, name, letter, box, mask) in read_table(path, COLUMNS):
        where = f"{path}:{line}"
        if letter not in CLASS_LETTERS:
            raise UserError(f"{where}: class of object {quoted(name)} is {quoted(letter)}; use c, s or t")
        if lines.setdefault(name, line) != line:
            raise UserError(f"{where}: object {quoted(name)} is there twice, first in line {lines[name]}")
        _check_box(box, where)
        if image not in objects:
            inside_folder(stage, image, where)
        entry = objects.setdefault(image, _Objects(where))
        entry.labels.append(CLASS_LETTERS[letter])
        entry.masks.append(inside_folder(stage, mask, where))
    return objects


def _check_box(text: str, where: str) -> None:
    words = text.split()
    if len(words) != 4:
        raise UserError(f"{where}: bbox is {quoted(text)}; it must be four numbers 'x0 y0 x1 y1'")
    x1, y1, x2, y2 = (number_in(word, where, "bbox") for word in words)
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{where}: bbox {quoted(text)} is inverted or empty; it must be 'x0 y0 x1 y1'")
