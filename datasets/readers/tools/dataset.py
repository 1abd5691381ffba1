"""Data sets of annotation tools: what is common to all formats, from the list of images to the instances."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datasets.checks import TalliedImages, Tally, TallyByImage, clip_boxes, format_size, reconcile_boxes
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.tools.shapes import ANY_CLASS, Annotation, Shape, draw_masks, expand_regions, merge_groups
from maskrcnn.config import UserError
from maskrcnn.images.decoding import check_declared_size
from maskrcnn.images.reading import check_boxes_fit_upright, describe_rotation, read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.text import describe_error

SKIPPED = "invalid annotations skipped"
NOT_ANNOTATED = "images without an annotation file left out"
_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and how to read its annotation.

    Attributes:
        name: unique name in the data set, relative to its folder.
        image: the image file; None if the image is stored in the annotation.
        files: the annotation files.
        read: function that reads the annotation.
    """

    name: str
    image: Path | None
    files: tuple[Path, ...]
    read: Callable[[], Annotation]


@dataclass(frozen=True)
class Contents:
    """What a folder holds: the images, classes, and whether any object has a mask.

    Attributes:
        images: all images.
        class_names: names of the classes, in the order of their labels.
        has_masks: false if all objects are boxes.
        category_ids: ids of the classes, if the files give them.
        left_out: number of files that are left out, by rule.
    """

    images: Sequence[AnnotatedImage]
    class_names: tuple[str, ...]
    has_masks: bool
    category_ids: tuple[int, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


class ToolDataset(TalliedImages):
    """One split of the images that an annotation tool exported.

    A split is what lies in a folder of its name, at any depth: `train`, `val` (or `valid`, `validation`) and `test`.
    Of `val` and `test` alone, the one that exists is the test set. Without a folder `train`, all images are "train".
    An object is drawn from its outlines and bitmaps, and has a box alone where the tool has a box.
    """

    has_ids = False  # files have none

    def __init__(self, root: Path, split: str, contents: Contents, skip_bad: bool = False) -> None:
        """Open the split.

        Args:
            root: folder of the data set.
            split: "train", "val" or "test".
            contents: what it holds.
            skip_bad: leave out invalid shapes, and count them.

        Raises:
            UserError: If there are no images or classes.
            MissingSplit: If the data set has no such split.
        """
        check_split(split)
        if not contents.images:
            raise UserError(f"{root}: has no images with annotations; check --dataset_root")
        if not contents.class_names:
            for image in contents.images:  # an invalid file is the likeliest reason
                _check(image.read(), str(image.files[0]))
            raise UserError(f"{root}: its annotation files have no objects; check --dataset_root")
        self._images = _choose_split(root, contents.images, split)
        numbers = {image.name: number for number, image in enumerate(contents.images)}
        self.class_names, self.has_masks = contents.class_names, contents.has_masks
        if contents.category_ids is not None:
            self.category_ids = contents.category_ids
        self.image_names = [image.name for image in self._images]
        self.image_ids = [numbers[name] for name in self.image_names]
        self._labels = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._skip_bad = skip_bad
        opening = Tally()
        opening.counts.update(contents.left_out)
        self._tallies = TallyByImage(len(self._images), opening)

    def image_file(self, index: int) -> Path:
        """Return the path of the image file, or of the annotation file that the image is stored in."""
        item = self._images[index]
        return item.files[0] if item.image is None else item.image

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return list(self._images[index].files)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is missing or invalid, sizes differ, or, unless such shapes are skipped, a shape is
                invalid.
        """
        item = self._images[index]
        where, tally = str(item.files[0]), self._tallies.of(index)
        annotation = item.read()
        self._report(annotation, where, tally)
        image = read_image(item.image) if item.image is not None else _decode(item.files[0], annotation.embedded)
        size = (int(image.shape[1]), int(image.shape[2]))
        if annotation.size is not None and annotation.size != size:
            turn = describe_rotation(item.image) if item.image is not None else "; correct one of them"
            raise UserError(
                f"{where}: names a size of {format_size(annotation.size)}, but {item.name} is {format_size(size)}{turn}"
            )
        shapes = expand_regions(merge_groups(annotation.shapes), self.class_names)
        return image, self._make_instances(item, shapes, size, tally)

    def _report(self, annotation: Annotation, where: str, tally: Tally) -> None:
        if not self._skip_bad:
            _check(annotation, where)
        if annotation.invalid:
            tally.add(SKIPPED, f"{where}: {annotation.invalid[0]}", len(annotation.invalid))
        for rule, count in annotation.dropped.items():
            tally.add(rule, where, count)

    def _make_instances(
        self, item: AnnotatedImage, shapes: Sequence[Shape], size: tuple[int, int], tally: Tally
    ) -> Instances:
        where = str(item.files[0])
        nowhere = (np.nan,) * 4
        boxes = np.array([each.box or nowhere for each in shapes], np.float64).reshape(-1, 4)
        if item.image is not None:
            check_boxes_fit_upright(item.image, boxes, size, where)
        masks = draw_masks(shapes, size, tally, where) if self.has_masks else None
        if masks is None:
            found, kept = clip_boxes(boxes, size, tally, where)
        else:
            found, kept = reconcile_boxes(boxes, masks, tally, where)
            found, masks = found[kept], masks[torch.from_numpy(kept)]
        chosen = [shape for shape, is_kept in zip(shapes, kept, strict=True) if is_kept]
        return Instances(
            size,
            torch.from_numpy(found),
            self._get_labels(chosen, where),
            masks=masks,
            ignore=torch.tensor([each.ignore for each in chosen], dtype=torch.bool),
            ids=torch.tensor([each.number for each in chosen], dtype=torch.int64),
        )

    def _get_labels(self, shapes: Sequence[Shape], where: str) -> Tensor:
        unknown = next((each for each in shapes if each.name not in self._labels), None)
        if unknown is not None:
            raise UserError(
                f"{where}: shape {unknown.number} has class {unknown.name!r}, not among the classes; open the data anew"
            )
        return torch.tensor([self._labels[each.name] for each in shapes], dtype=torch.int64)


def _check(annotation: Annotation, where: str) -> None:
    """Raise a UserError if a shape is invalid."""
    if annotation.invalid:
        hint = "fix the file, or use --skip_bad to leave such annotations out"
        raise UserError(f"{where}: {annotation.invalid[0]}; {hint}")


def _decode(path: Path, content: bytes | None) -> Tensor:
    """Decode an image that is stored in an annotation file."""
    if content is None:
        raise UserError(f"{path}: its image is missing, and is not stored in the file either; add the image")
    try:
        with Image.open(io.BytesIO(content)) as file:
            check_declared_size(path, file.size)
            upright = ImageOps.exif_transpose(file)
            values = np.asarray(upright if upright.mode.startswith("I;16") else upright.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for invalid files
        reason = describe_error(error)
        raise UserError(f"{path}: the image stored in the file is invalid ({reason}); add the image file") from error
    pixels = np.empty((3, *values.shape[:2]), values.dtype.newbyteorder("="))
    pixels[:] = values if values.ndim == 2 else values.transpose(2, 0, 1)
    return torch.from_numpy(pixels)


# ---- splits


def _choose_split(root: Path, images: Sequence[AnnotatedImage], split: str) -> list[AnnotatedImage]:
    parts = [get_split(os.path.relpath((image.image or image.files[0]), root)) for image in images]
    if "train" not in parts:
        if split != "train":
            raise MissingSplit(f"{root}: has no folders for splits; all images are 'train'")
        return list(images)
    wanted = {"test": "test", "val": "val"}.get(split, "train")
    if "test" not in parts:
        wanted = {"test": "val", "val": ""}.get(split, "train")
    chosen = [image for image, part in zip(images, parts, strict=True) if (part or "train") == wanted]
    if not chosen:
        raise MissingSplit(f"{root}: has a folder train but none for '{split}' with annotations")
    return chosen


def get_split(path: str) -> str:
    """Return the split of a file from the folders in its relative path; "" if none names one."""
    folders = [each.lower().rstrip("0123456789") for each in Path(path).parts[:-1]]  # train2017
    return next((_SPLIT_FOLDERS[each] for each in folders if each in _SPLIT_FOLDERS), "")


# ---- classes


class Survey(NamedTuple):
    """What shapes have: the names of their classes, and whether any has a mask."""

    names: frozenset[str]
    has_masks: bool


def survey(images: Sequence[AnnotatedImage]) -> tuple[tuple[str, ...], bool]:
    """Read all annotations for the names of the classes, sorted, and whether any object has a mask.

    Unreadable files are skipped: their error is raised when the image is read.
    """
    names, has_masks = set[str](), False
    for image in images:
        with suppress(UserError):
            found = survey_shapes(image.read().shapes)
            names |= found.names
            has_masks |= found.has_masks
    return tuple(sorted(names)), has_masks


def survey_shapes(shapes: Iterable[Shape]) -> Survey:
    """Return the names of the classes of shapes, and whether any has a mask."""
    names, has_masks = set[str](), False
    for shape in shapes:
        names |= {shape.name} - {ANY_CLASS}
        has_masks |= shape.has_outline
    return Survey(frozenset(names), has_masks)
