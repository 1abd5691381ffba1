"""CST, a toy data set of circles, squares and triangles: one CSV file per split, and masks as JPEG files."""

from pathlib import Path

import torch
from torch import Tensor

from datasets.checks import TalliedImages, TallyByImage, resolve_inside
from datasets.readers.folders import derive_image_ids, find_image, list_folders
from datasets.readers.mask_files import read_masks
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.tables import parse_number, quote, read_table
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances

CLASS_LETTERS = {"c": 1, "s": 2, "t": 3}
COLUMNS = ("image_id", "object_id", "class", "bbox", "mask_path")
MASK_THRESHOLD = 128  # JPEG compression leaves gray levels along the edges
_OWN_FOLDER = "cst-dataset"


class _Objects:
    """Objects of one image, in file order."""

    def __init__(self, where: str) -> None:
        self.where = where  # file and line of the first object
        self.labels: list[int] = []
        self.masks: list[Path] = []


class Cst(TalliedImages):
    """One split of `annotation/anno-<split>.csv` and `<split>/<id>/<id>.jpg` with the mask files listed in the CSV.

    Masks are thresholded at 128, and boxes are computed from them; those in the file are 5 pixels wider and only
    validated. Empty masks are dropped and counted. Instance ids number the rows of an image from 1. A folder without
    rows is an image without objects.
    """

    has_ids = False  # files have none
    class_names: tuple[str, ...] = ("circle", "square", "triangle")
    has_masks = True

    def __init__(self, root: str | Path, split: str) -> None:
        """Open the split.

        Args:
            root: folder that contains `annotation`, or a folder `cst-dataset` that does.
            split: "train", "val" or "test".

        Raises:
            UserError: If a folder or the split does not exist, there are no images, or the CSV file is invalid.
        """
        check_split(split)
        base = Path(root) / _OWN_FOLDER if (Path(root) / _OWN_FOLDER).is_dir() else Path(root)
        if not (base / "annotation").is_dir():
            raise UserError(f"{base}: has no folder 'annotation'; set --dataset_root to the folder of CST")
        self._stage = base / split
        self._table = base / "annotation" / f"anno-{split}.csv"
        if split != "train" and not self._table.exists():
            raise MissingSplit(f"{self._table}: no such file; add it")
        objects = _read_objects(self._table, self._stage)
        for name in list_folders(self._stage):
            objects.setdefault(name, _Objects(str(self._stage)))
        if not objects:
            raise UserError(f"{self._stage}: has no images; set --dataset_root to the folder of CST")
        self.image_names = sorted(objects, key=lambda name: (len(name), name))
        self.image_ids = derive_image_ids(self.image_names)
        self._objects = [objects[name] for name in self.image_names]
        self._tallies = TallyByImage(len(self._objects))

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        where = self._objects[index].where
        folder = resolve_inside(self._stage, self.image_names[index], where)
        return find_image(folder, folder.name, where)

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return [self._table, *self._objects[index].masks]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable or a mask differs in size from the image.
        """
        objects = self._objects[index]
        image = read_image(self.image_file(index))
        masks, ids = read_masks(objects.masks, (int(image.shape[1]), int(image.shape[2])), MASK_THRESHOLD)
        self._tallies.of(index).add("empty masks dropped", objects.where, len(objects.masks) - len(ids))
        labels = torch.tensor(objects.labels, dtype=torch.int64)[ids - 1]
        return image, Instances.from_masks(masks, labels, ids=ids)


def _read_objects(path: Path, stage: Path) -> dict[str, _Objects]:
    """Read the objects of each image."""
    objects: dict[str, _Objects] = {}
    lines: dict[str, int] = {}
    for line, (image, name, letter, box, mask) in read_table(path, COLUMNS):
        where = f"{path}:{line}"
        if letter not in CLASS_LETTERS:
            raise UserError(f"{where}: class of object {quote(name)} is {quote(letter)}; use c, s or t")
        if lines.setdefault(name, line) != line:
            raise UserError(f"{where}: object {quote(name)} appears twice, first on line {lines[name]}")
        _check_box(box, where)
        if image not in objects:
            resolve_inside(stage, image, where)
        entry = objects.setdefault(image, _Objects(where))
        entry.labels.append(CLASS_LETTERS[letter])
        entry.masks.append(resolve_inside(stage, mask, where))
    return objects


def _check_box(text: str, where: str) -> None:
    words = text.split()
    if len(words) != 4:
        raise UserError(f"{where}: bbox is {quote(text)}; it must be four numbers 'x0 y0 x1 y1'")
    x1, y1, x2, y2 = (parse_number(word, where, "bbox") for word in words)
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{where}: bbox {quote(text)} is inverted or empty; it must be 'x0 y0 x1 y1'")
