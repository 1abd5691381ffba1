"""Reader of the data that ``create_ellipses.py`` makes: images, label images and COCO annotations beside them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.images import list_images, read_image, read_labels
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SPLITS = ("train", "test")


class Ellipses:
    """One split of a data set of ``images/*.png``, ``labels/*.png`` and ``annotations.json``.

    Instance ids are the numbers in the label image. Every label is 1; objects that the annotations mark ``iscrowd``
    are to ``ignore``.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        """UserError: no such folder or split, no images, an image without labels or labels without image."""
        if split not in SPLITS:
            raise UserError(f"split '{split}' is unknown: use one of {', '.join(SPLITS)}")
        self._root = Path(root) / split
        if not self._root.is_dir():
            raise UserError(f"{self._root}: no such folder; make the data with python create_ellipses.py")
        self._images = list_images(self._root / "images")
        self._labels = list_images(self._root / "labels")
        if not self._images and not self._labels:
            raise UserError(f"{self._root}: holds no images; make the data with python create_ellipses.py")
        _check_pairs(self._images, self._labels)
        self.class_names, ids, self._ignored = _read_annotations(self._root / "annotations.json")
        for path in self._images:
            if path.name not in ids:
                raise UserError(f"{path}: is not listed in annotations.json; make the data again")
        self.image_ids = [ids[path.name] for path in self._images]
        self.image_names = [path.stem for path in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its instances. UserError for an unreadable file or sizes that differ."""
        image, labels = read_image(self._images[index]), read_labels(self._labels[index])
        if image.shape[1:] != labels.shape:
            height, width = image.shape[1:]
            raise UserError(
                f"{self._labels[index]}: is {labels.shape[1]} x {labels.shape[0]} but its image is {width} x {height}"
            )
        masks, numbers = masks_of_labels(labels)
        ignored = self._ignored.get(self.image_ids[index], [])
        ignore = torch.isin(numbers, torch.tensor(ignored, dtype=torch.int64))
        return image, Instances.from_masks(masks, torch.ones_like(numbers), ignore=ignore, ids=numbers)


def masks_of_labels(labels: Tensor) -> tuple[CroppedMasks, Tensor]:
    """Masks of an image of instance numbers int [H, W], and the numbers there, rising, int64 [N]."""
    present = torch.bincount(labels.flatten())
    present[0] = 0
    numbers = present.nonzero().flatten()
    return CroppedMasks.from_label_image(labels, numbers), numbers


def _check_pairs(images: list[Path], labels: list[Path]) -> None:
    missing = sorted({path.name for path in images} ^ {path.name for path in labels})
    if not missing:
        return
    for path in images + labels:
        if path.name == missing[0]:
            what = "image has no file of that name in labels" if path in images else "labels have no image of that name"
            more = f" ({len(missing)} such files)" if len(missing) > 1 else ""
            raise UserError(f"{path}: {what}{more}; add it or remove this one")


def _read_annotations(path: Path) -> tuple[tuple[str, ...], dict[str, int], dict[int, list[int]]]:
    """Class names, image ids by file name, and the numbers to ignore by image id."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(each["name"] for each in sorted(data["categories"], key=lambda each: each["id"]))
        ids = {str(each["file_name"]): int(each["id"]) for each in data["images"]}
        ignored: dict[int, list[int]] = {}
        for each in data["annotations"]:
            if each["iscrowd"]:
                ignored.setdefault(int(each["image_id"]), []).append(int(each["instance"]))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make the data again") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not valid JSON ({error.msg}); make the data again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not the annotation file of such data ({error!r}); make the data again") from error
    return names, ids, ignored
