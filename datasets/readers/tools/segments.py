"""Label images of classes and instances: Cityscapes' `*_instanceIds.png`, and COCO panoptic with ids coded in RGB.

Structure from cityscapesScripts (`helpers/labels.py`, `preparation/json2instanceImg.py`) and from COCO's "Data format:
Panoptic Segmentation".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.checks import resolve_inside
from datasets.readers.tables import quote, read_lines
from datasets.readers.tools.dataset import AnnotatedImage, Contents, get_split
from datasets.readers.tools.files import (
    ImageFiles,
    find_containing,
    get_dict,
    get_list,
    get_name,
    get_size,
    name_images,
    read_json,
    recognize_content,
    walk,
)
from datasets.readers.tools.shapes import ANY_CLASS, Annotation, Bitmap, Shape
from maskrcnn.config import UserError
from maskrcnn.images.decoding import get_stored_values, open_image_file
from maskrcnn.structures.masks import CroppedMasks

# ids of Cityscapes' classes with instances; caravans and trailers are not evaluated
CITYSCAPES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_IGNORED = (29, 30)
_INSTANCES, _IMAGE = "_instanceIds.png", re.compile(r"_leftImg8bit$")
_LABELS = re.compile(r"(_gt(Fine|Coarse))?_instanceIds$")
_COLORS = "label_colors.txt"
_PER_CLASS = 1000
_NO_OBJECTS = ("background", "unlabeled", "void")
_PANOPTIC = b'"segments_info"'
_MAX_CHECKED = 20
Numbers = NDArray[np.int64]


def list_segments(numbers: Numbers, objects: Mapping[int, tuple[str, bool]]) -> Iterator[Shape]:
    """Yield the shapes of segments.

    Args:
        numbers: int64 [H, W], number of each pixel.
        objects: class, and whether it is ignored, by number.
    """
    ids = np.array(list(objects), np.int64)
    masks = CroppedMasks.from_label_image(torch.from_numpy(numbers), torch.from_numpy(ids))
    areas = masks.areas().tolist()
    for place, (number, (name, ignore)) in enumerate(objects.items()):
        if areas[place]:
            x, y = masks.windows[place, :2].tolist()
            yield Shape(number, name, bitmaps=(Bitmap(x, y, masks.window(place).numpy() >= 128),), ignore=ignore)


# ---- Cityscapes


def recognize_cityscapes(root: Path) -> str | None:
    """Return the first label image of instances in a folder."""
    return next((path.relative_to(root).as_posix() for path in walk(root, (_INSTANCES.lower(),))), None)


def find_cityscapes(root: Path) -> Contents:
    """List the images with label images of instances: `NAME_leftImg8bit.png` with `NAME_gtFine_instanceIds.png`.

    The classes are those of Cityscapes, or of the file `label_colors.txt` that CVAT and Datumaro write. A folder `test`
    without any object, as Cityscapes has it, is left out.

    Raises:
        UserError: If there are none, or an image is missing.
    """
    files = list(walk(root, (_INSTANCES.lower(),)))
    if not files:
        raise UserError(f"{root}: has no files *{_INSTANCES}; check --dataset_root")
    test = [path for path in files if get_split(str(path.relative_to(root))) == "test"]
    if not any((_read_values(path) >= _PER_CLASS).any() for path in test[:_MAX_CHECKED]):
        files = [path for path in files if path not in set(test)]
    images, names = ImageFiles(root), _read_class_names(root)
    found = []
    for path in files:
        stem = _LABELS.sub("", path.stem)
        image = images.find_by_stem(f"{stem}_leftImg8bit", path.parent) or images.find_by_stem(stem, path.parent)
        if image is None:
            raise UserError(f"{path}: its image {stem}_leftImg8bit.png is missing; unpack leftImg8bit next to gtFine")
        found.append(image)

    def item(name: str, image: Path, path: Path) -> AnnotatedImage:
        return AnnotatedImage(_IMAGE.sub("", name), image, (path,), lambda: read_cityscapes(path, names))

    listed = [item(*each) for each in zip(name_images(found, root), found, files, strict=True)]
    return Contents(listed, tuple(names.values()), True, category_ids=tuple(names))


def _read_class_names(root: Path) -> dict[int, str]:
    """Return the names of the classes by id."""
    path = next((each for each in walk(root, (_COLORS,))), None)
    if path is None:
        return CITYSCAPES
    names = [text.split(None, 3)[-1] for line, text in read_lines(path) if not text.startswith("#")]
    return {number: name for number, name in enumerate(names) if name.lower() not in _NO_OBJECTS} or CITYSCAPES


def read_cityscapes(path: Path, names: Mapping[int, str]) -> Annotation:
    """Read a label image of instances: 1000 times the id of the class plus the number of the object.

    Smaller numbers are ids of classes: regions of several objects, which are ignored, where the class has objects.

    Raises:
        UserError: If the file is not readable.
    """
    values = _read_values(path)
    annotation = Annotation((values.shape[0], values.shape[1]))
    objects: dict[int, tuple[str, bool]] = {}
    for number in np.unique(values[values > 0]).tolist():
        kind = number // _PER_CLASS if number >= _PER_CLASS else number
        if kind in names:
            objects[number] = (names[kind], number < _PER_CLASS)
        elif kind in _IGNORED and names is CITYSCAPES:
            objects[number] = (ANY_CLASS, True)
        elif number >= _PER_CLASS:
            annotation.invalid.append(
                f"number {number}: class {kind} is unknown; known are {', '.join(map(str, names))}"
            )
    annotation.shapes = list(list_segments(values, objects))
    return annotation


def _read_values(path: Path) -> Numbers:
    with open_image_file(path) as image:
        if image.mode not in ("L", "P", "I", "I;16", "I;16B"):
            raise UserError(f"{path}: must have one channel of 8 or 16 bits; the mode is {image.mode}")
        return np.asarray(get_stored_values(image), np.int64)


# ---- COCO panoptic


def recognize_panoptic(root: Path) -> str | None:
    """Return the first annotation file of COCO panoptic in a folder."""
    return recognize_content(root, (".json",), _PANOPTIC)


def find_panoptic(root: Path) -> Contents:
    """List the images of COCO panoptic annotations, `NAME.json` with label images in the folder `NAME`.

    The classes are the categories with `isthing`; segments of others are not objects. Crowds are ignored.

    Raises:
        UserError: If there is no annotation file, it is invalid, or images are missing.
    """
    files = find_containing(root, (".json",), _PANOPTIC)
    if not files:
        raise UserError(f"{root}: has no JSON files of COCO panoptic; check --dataset_root")
    folders = {path: _find_label_folder(path) for path in files}
    images = ImageFiles(root, without=[label for folder in folders.values() for label in walk(folder, (".png",))])
    listed: list[tuple[Path, Path, Path, list[Any], tuple[int, int] | None]] = []
    names: dict[int, str] = {}
    for path in files:
        try:
            data = get_dict(read_json(path))
            for category in get_list(data.get("categories"), "categories"):
                if get_dict(category).get("isthing", 1):
                    names[_get_id(category.get("id"))] = get_name(category.get("name"), "name")
            listed += _list_images(path, data, folders[path], images)
        except ValueError as error:
            raise UserError(f"{path}: is not a file of COCO panoptic: {error}; check the data set") from error
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise UserError(f"{files[0]}: category {quote(twice)} has several ids; rename one of them")
    ids = sorted(names)

    def item(
        name: str, image: Path, path: Path, file: Path, segments: list[Any], size: tuple[int, int] | None
    ) -> AnnotatedImage:
        return AnnotatedImage(name, image, (file, path), lambda: read_panoptic(file, segments, names, size))

    named = zip(name_images([image for image, *_ in listed], root), listed, strict=True)
    return Contents([item(name, *each) for name, each in named], tuple(names[k] for k in ids), True, tuple(ids))


def _find_label_folder(path: Path) -> Path:
    for folder in (path.with_suffix(""), path.parent / path.stem.removeprefix("panoptic_"), path.parent / "panoptic"):
        if folder.is_dir():
            return folder
    raise UserError(f"{path}: its folder of label images, {path.with_suffix('')}, is missing; unpack it there")


def _list_images(
    path: Path, data: dict[str, Any], folder: Path, images: ImageFiles
) -> Iterator[tuple[Path, Path, Path, list[Any], tuple[int, int] | None]]:
    """Yield image, annotation file, label image, segments and size of each annotation."""
    by_id = {_get_id(get_dict(each).get("id")): each for each in get_list(data.get("images"), "images")}
    for annotation in get_list(data.get("annotations"), "annotations"):
        number = _get_id(get_dict(annotation).get("image_id"))
        if number not in by_id:
            raise ValueError(f"an annotation names image {number}, which is not among the images")
        name, label = by_id[number].get("file_name"), annotation.get("file_name")
        if not isinstance(name, str) or not isinstance(label, str):
            raise ValueError(f"image {number} has no file_name")
        image = images.find(name, path.parent)
        if image is None:
            raise UserError(f"{path}: image {quote(name)} is missing; unpack the images there")
        file = resolve_inside(folder, label, str(path))
        size = get_size(by_id[number].get("height"), by_id[number].get("width"))
        yield image, path, file, get_list(annotation.get("segments_info"), "segments_info"), size


def _get_id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 62:
        raise ValueError(f"an id is {str(value)[:40]!r}; it must be an integer")
    return value


def read_panoptic(
    path: Path, segments: list[Any], names: Mapping[int, str], size: tuple[int, int] | None
) -> Annotation:
    """Read a label image whose colors are ids, R + 256 G + 65,536 B.

    Args:
        path: the label image.
        segments: what the annotation file knows of the segments.
        names: names of the classes by category id; segments of other categories are not objects.
        size: image size (H, W), if the file names it.

    Raises:
        UserError: If the label image is not readable.
    """
    annotation = Annotation(size)
    values = read_color_ids(path)
    present = set(np.unique(values).tolist())
    objects: dict[int, tuple[str, bool]] = {}
    for place, segment in enumerate(segments, start=1):
        try:
            number, category = (_get_id(get_dict(segment).get(key)) for key in ("id", "category_id"))
            if category in names and number not in present:
                raise ValueError(f"has id {number}, which no pixel of the label image has")
            if category in names:
                objects[number] = (names[category], bool(segment.get("iscrowd")))
        except ValueError as error:
            annotation.invalid.append(f"segment {place}: {error}")
    annotation.shapes = list(list_segments(values, objects))
    return annotation


def read_color_ids(path: Path) -> Numbers:
    """Read a label image whose colors are ids, as int64 [H, W].

    Raises:
        UserError: If the file is not readable, or not in color.
    """
    with open_image_file(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise UserError(f"{path}: must be in color, with ids R + 256 G + 65,536 B; the mode is {image.mode}")
        colors = np.asarray(image, np.int64)[..., :3]
    ids: Numbers = colors @ np.array([1, 256, 65_536])
    return ids
