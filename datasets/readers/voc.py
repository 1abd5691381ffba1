"""PASCAL VOC and data in its layout: boxes in XML files, masks in `SegmentationObject`."""

import os
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor

from datasets.checks import (
    TalliedImages,
    Tally,
    TallyByImage,
    check_size,
    clip_boxes,
    format_size,
    reconcile_boxes,
    resolve_inside,
)
from datasets.readers.folders import derive_image_ids, find_image, index_by_stem, list_files, resolve_unicode_form
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.tables import quote, read_lines
from datasets.readers.voc_origin import find_first_pixel
from datasets.readers.voc_xml import VocAnnotation, read_annotation
from maskrcnn.config import UserError
from maskrcnn.images.reading import check_boxes_fit_upright, describe_rotation, read_image, read_labels
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.text import format_count

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CLASS_FILES = ("labels.txt", "classes.txt")
LABEL_MAP = "labelmap.txt"  # of CVAT: one line name:color:parts:actions per class
VOID = 255  # in SegmentationObject: border pixels that belong to no object
# Lists for "train" and "test", best first. A test.txt counts only if its images are annotated; those of 2012 are not.
_SETS = (("train", "test"), ("train", "val"), ("trainval", "test"))
_SETS_2007 = (("trainval", "test"), ("train", "test"), ("train", "val"))
_WHOLE = ("trainval.txt", "train.txt", "default.txt")  # for "train", if there is no pair of lists


class Voc(TalliedImages):
    """One split of `Annotations/*.xml`, `JPEGImages/*` and `ImageSets/`.

    The mask of object k of the XML file is where `SegmentationObject` is k; an object without pixels there is counted
    and gets an empty mask. Boxes are always those of the file. Difficult objects are marked as ignored. Instance ids
    number the objects of the XML file from 1.
    """

    has_ids = False  # files have none

    def __init__(
        self,
        root: str | Path,
        split: str,
        year: str = "2012",
        masks: bool = False,
        image_set: str | None = None,
        keep_difficult: bool = False,
        class_names: Sequence[str] | None = None,
        counts_from: str = "auto",
    ) -> None:
        """Open the split.

        "train" is train.txt, or trainval.txt for 2007. "test" is test.txt if its images are annotated, or else val.txt.
        "val" is val.txt, unless that is the test set or part of trainval.txt. The lists are in `ImageSets/Main`, or in
        `ImageSets/Segmentation` if masks are read. Without a second list, or without lists, all images are "train".

        Args:
            root: folder that contains `Annotations`, `VOC<year>` or `VOCdevkit/VOC<year>`.
            split: "train", "val" or "test".
            year: "2012" or "2007".
            masks: read masks.
            image_set: another list to read instead, such as "trainval".
            keep_difficult: do not ignore difficult objects.
            class_names: default: the lines of `labels.txt` or `classes.txt` in the folder, or the names in CVAT's
                `labelmap.txt`, or else the 20 classes of PASCAL VOC.
            counts_from: number of the first pixel in boxes, "0" or "1"; "auto": 0 if any box starts at 0 or the files
                are from CVAT, Label Studio or Roboflow, else 1.

        Raises:
            UserError: If a folder, split or list does not exist, or a list is empty, has duplicates or points out of
                the folder.
        """
        check_split(split)
        self._folder = _find_folder(Path(root), year)
        self.has_masks, self._keep_difficult = masks, keep_difficult
        self.class_names = _class_names(self._folder) if class_names is None else tuple(class_names)
        self._labels = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._lists = self._folder / "ImageSets" / ("Segmentation" if masks else "Main")
        given = _list_of(self._lists, image_set) if image_set else None
        self.image_names = _read_names(given) if given else self._choose_names(split, year)
        self.image_ids = derive_image_ids(self.image_names)
        opening = Tally()
        if counts_from == "auto":
            self._first_pixel, from_zero = find_first_pixel(self._folder / "Annotations")
            own = {normalize("NFC", name) for name in self.image_names}
            count = len(from_zero & own)  # other splits count their own files
            opening.counts["annotation files count pixels from 0; all boxes are read this way (see --voc_from)"] = count
        else:
            self._first_pixel = int(counts_from)
        self._tallies = TallyByImage(len(self.image_names), opening)

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        return find_image(self._folder / "JPEGImages", self.image_names[index], str(self._lists))

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        name = self.image_names[index]
        return [self._annotation_file(name)] + [self._mask_file(name)] * self.has_masks

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is missing or invalid, a class is unknown, or sizes differ.
        """
        name = self.image_names[index]
        path = self._annotation_file(name)
        annotation = read_annotation(path, self._first_pixel)
        labels = self._labels_of(annotation, path)
        image = read_image(self.image_file(index))
        size = (int(image.shape[1]), int(image.shape[2]))
        if annotation.size is not None and annotation.size != size:
            turn = describe_rotation(self.image_file(index))
            raise UserError(
                f"{path}: <size> is {format_size(annotation.size)} but the image is {format_size(size)}{turn}"
            )
        ignore = torch.tensor([each.difficult and not self._keep_difficult for each in annotation.objects]).bool()
        boxes = np.array([each.box for each in annotation.objects], np.float64).reshape(-1, 4)
        check_boxes_fit_upright(self.image_file(index), boxes, size, str(path))
        tally, masks = self._tallies.of(index), None
        with np.errstate(over="ignore"):  # such values are clipped
            if self.has_masks:
                masks = _read_masks(self._mask_file(name), size, len(labels))
                found, kept = reconcile_boxes(boxes, masks, tally, str(path))
                found, masks = found[kept], masks[torch.from_numpy(kept)]
            else:
                found, kept = clip_boxes(boxes, size, tally, str(path))
        ids = torch.from_numpy(kept.nonzero()[0]) + 1
        return image, Instances(
            size, torch.from_numpy(found), labels[ids - 1], masks=masks, ignore=ignore[ids - 1], ids=ids
        )

    def _labels_of(self, annotation: VocAnnotation, path: Path) -> Tensor:
        for number, each in enumerate(annotation.objects, start=1):
            if each.name not in self._labels:
                raise UserError(
                    f"{path}:{each.line}: object {number} has class {quote(each.name)}, not among the "
                    f"{len(self.class_names)} classes; list them, one per line, in {self._folder / CLASS_FILES[0]}"
                )
        return torch.tensor([self._labels[each.name] for each in annotation.objects], dtype=torch.int64)

    def _choose_names(self, split: str, year: str) -> list[str]:
        """Return the image names of the split from the first complete pair of lists; without lists, "train" is all."""
        own = self._folder.name
        pairs = _SETS_2007 if (own[3:] if own.startswith("VOC") else year) == "2007" else _SETS
        missing: Path | None = None
        for train, test in pairs:
            paths = {"train": self._lists / f"{train}.txt", "test": self._lists / f"{test}.txt"}
            if not all(path.is_file() for path in paths.values()):
                continue
            if not any(read_lines(paths["test"])):  # the converter writes an empty list if there is no test set
                continue
            first = self._annotation_of_first(paths["test"])
            if test == "test" and not os.path.exists(first):  # PASCAL VOC's test images come without annotations
                missing = first
                continue
            if train == "train" and test != "val":
                paths["val"] = self._lists / "val.txt"
            if split not in paths or (split == "val" and not paths["val"].is_file()):
                raise MissingSplit(f"{self._lists}: no list for '{split}' beside {train}.txt and {test}.txt")
            return _read_names(paths[split])
        if missing is not None:
            raise UserError(
                f"{missing}: no such file, but {self._lists / 'test.txt'} lists the image; add it, or val.txt"
            )
        return self._all_names(split)

    def _all_names(self, split: str) -> list[str]:
        """Return the names in the only list, such as default.txt; without lists, those of all annotations."""
        lists = [path for path in map(self._lists.joinpath, _WHOLE) if path.is_file()]
        if split != "train":
            raise MissingSplit(f"{self._lists}: no list for '{split}', such as {split}.txt; add it")
        if lists:
            return _read_names(lists[0])
        if self._lists.is_dir() and any(self._lists.glob("*.txt")):
            raise UserError(
                f"{self._lists}: has neither train.txt and val.txt, nor an annotated test.txt; add the lists"
            )
        folder = self._folder / ("SegmentationObject" if self.has_masks else "Annotations")
        names = list(index_by_stem(list_files(folder, (".png",) if self.has_masks else (".xml",))))
        if not names:
            raise UserError(f"{folder}: has no annotations; set --dataset_root to the folder of VOC")
        return names

    def _annotation_of_first(self, path: Path) -> Path:
        name = _read_names(path)[0]
        return self._mask_file(name) if self.has_masks else self._annotation_file(name)

    def _annotation_file(self, name: str) -> Path:
        return resolve_unicode_form(resolve_inside(self._folder / "Annotations", f"{name}.xml", str(self._lists)))

    def _mask_file(self, name: str) -> Path:
        return resolve_unicode_form(
            resolve_inside(self._folder / "SegmentationObject", f"{name}.png", str(self._lists))
        )


def _find_folder(root: Path, year: str) -> Path:
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if (folder / "Annotations").is_dir():
            return folder
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --dataset_root to the folder that contains VOC{year}")
    others = sorted({path.name for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(pattern)})
    there = f"but {', '.join(others[:5])}" if others else "nor Annotations"
    raise UserError(f"{root}: has no VOC{year} with Annotations, {there}; set --dataset_root to the folder of VOC")


def _class_names(folder: Path) -> tuple[str, ...]:
    """Read the class names from the first of the class files; default: those of PASCAL VOC."""
    for path in (folder / name for name in CLASS_FILES):
        if path.is_file():
            names = list(read_lines(path))
            if not names:
                raise UserError(f"{path}: is empty; write one class per line")
            for place, (line, name) in enumerate(names):
                if name in (other for _, other in names[:place]):
                    raise UserError(f"{path}:{line}: class {quote(name)} appears twice; remove one")
            return tuple(name for _, name in names)
    labels = folder / LABEL_MAP
    if labels.is_file():
        lines = [line.partition(":")[0] for _, line in read_lines(labels) if not line.startswith("#")]
        return tuple(dict.fromkeys(name for name in lines if name != "background")) or CLASS_NAMES
    return CLASS_NAMES


def _list_of(lists: Path, image_set: str) -> Path:
    path = resolve_inside(lists, f"{image_set}.txt", "image_set")
    if not path.is_file():
        raise UserError(f"{path}: no such list of images; check image_set")
    return path


def _read_names(path: Path) -> list[str]:
    lines: dict[str, int] = {}
    for line, name in read_lines(path):
        resolve_inside(path.parent, name, f"{path}:{line}")
        if lines.setdefault(name, line) != line:
            raise UserError(f"{path}:{line}: image {quote(name)} appears twice, first on line {lines[name]}")
    if not lines:
        raise UserError(f"{path}: lists no images")
    return list(lines)


def _read_masks(path: Path, size: tuple[int, int], count: int) -> CroppedMasks:
    """Read the masks of the objects 1 to `count`; empty for those without pixels."""
    labels = read_labels(path)
    check_size(path, labels.shape, size)
    present = torch.bincount(labels.flatten(), minlength=1)
    present[0] = 0
    present[VOID : VOID + 1] = 0
    numbers = present.nonzero().flatten()
    if len(numbers) and int(numbers[-1]) > count:
        raise UserError(
            f"{path}: has pixels of object {int(numbers[-1])} but its XML file lists {format_count(count, 'objects')}"
        )
    return CroppedMasks.from_label_image(torch.where(labels == VOID, 0, labels), torch.arange(1, count + 1))
