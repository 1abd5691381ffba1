"""Reader of generated data sets: images, label images and COCO annotations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import check_size
from datasets.readers.folders import check_pairs, index_by_stem, list_files
from datasets.readers.splitting import SPLITS, MissingSplit, check_split
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image, read_labels
from maskrcnn.programs import format_command
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

_HINT = f"create the data with {format_command('ellipses')} or {format_command('create')}"


class Generated:
    """One split of a data set of `images/*.png`, `labels/*.png` and `annotations.json`.

    Instance ids are the numbers in the label image. Objects with `iscrowd` in the annotations are ignored.
    """

    has_masks = True

    def __init__(self, root: str | Path, split: str) -> None:
        """Open the split.

        Args:
            root: folder of the data set.
            split: "train", "val" or "test".

        Raises:
            UserError: If the folder or split does not exist, there are no images, or images and labels do not match.
        """
        check_split(split)
        self._root = Path(root) / split
        if not self._root.is_dir():
            others = any((Path(root) / each).is_dir() for each in SPLITS)
            raise (MissingSplit if others else UserError)(f"{self._root}: no such folder; {_HINT}")
        images, labels = (index_by_stem(list_files(self._root / kind)) for kind in ("images", "labels"))
        if not images and not labels:
            raise UserError(f"{self._root}: has no images; {_HINT}")
        check_pairs(images, labels, "labels")
        self._images, self._labels = list(images.values()), [labels[name] for name in images]
        categories, ids, self._classes = _read_annotations(self._root / "annotations.json")
        self.class_names, self.category_ids = tuple(categories.values()), tuple(categories)
        for path in self._images:
            if path.name not in ids:
                raise UserError(f"{path}: is not listed in annotations.json; create the data again")
        self.image_ids = [ids[path.name] for path in self._images]
        self.image_names = [path.stem for path in self._images]

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of dropped or corrected annotations so far, by rule."""
        return {}

    def __len__(self) -> int:
        return len(self._images)

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        return self._images[index]

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return [self._root / "annotations.json", self._labels[index]]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable, image and labels differ in size, or an object has no class.
        """
        image, labels = read_image(self._images[index]), read_labels(self._labels[index])
        check_size(self._labels[index], labels.shape, image.shape[1:])
        masks, numbers = extract_masks(labels)
        classes, ignore = self._look_up(index, numbers.numpy())
        return image, Instances.from_masks(masks, classes, ignore=ignore, ids=numbers)

    def _look_up(self, index: int, numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return labels and ignore flags; an object that is not annotated gets the only class."""
        known = self._classes.get(self.image_ids[index], _NOTHING)
        place = np.searchsorted(known[0], numbers)
        missing = np.append(known[0], -1)[place] != numbers
        if missing.any() and len(self.class_names) > 1:
            path, number = self._labels[index], numbers[missing][0]
            raise UserError(
                f"{path}: object {number} is not in annotations.json, so it has no class; create the data again"
            )
        rows = np.append(known[1:], [[1], [0]], axis=1)[:, np.where(missing, -1, place)]
        return torch.from_numpy(rows[0]), torch.from_numpy(rows[1] > 0)


_NOTHING = np.zeros((3, 0), np.int64)


def extract_masks(labels: Tensor) -> tuple[CroppedMasks, Tensor]:
    """Extract the masks of a label image.

    Args:
        labels: integer [H, W], instance numbers, 0 for background.

    Returns:
        The N masks, and their instance numbers in ascending order, int64 [N].
    """
    present = torch.bincount(labels.flatten())
    present[0] = 0
    numbers = present.nonzero().flatten()
    return CroppedMasks.from_label_image(labels, numbers), numbers


def _read_annotations(path: Path) -> tuple[dict[int, str], dict[str, int], dict[int, Any]]:
    """Read the annotations.

    Returns:
        Class names by category id, image ids by file name, and, by image id, int64 [3, N]: instance numbers in
        ascending order, labels and ignore flags.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(data["categories"], key=lambda each: each["id"])
        label_of = {int(each["id"]): label for label, each in enumerate(categories, start=1)}
        names = {int(each["id"]): str(each["name"]) for each in categories}
        ids = {str(each["file_name"]): int(each["id"]) for each in data["images"]}
        rows: dict[int, list[tuple[int, int, int]]] = {}
        for each in data["annotations"]:
            row = int(each["instance"]), label_of[int(each["category_id"])], int(each["iscrowd"])
            rows.setdefault(int(each["image_id"]), []).append(row)
        return names, ids, {image: np.array(sorted(each), np.int64).T.copy() for image, each in rows.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); create the data again") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not valid JSON ({error.msg}); create the data again") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: is not an annotation file of generated data ({error!r}); create the data again"
        ) from error
