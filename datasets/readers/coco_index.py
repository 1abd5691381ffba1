"""What an instances JSON says, as arrays: all but the outlines, of which only the places in the file are kept."""

import math
import os
import re
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from datasets.checks import inside_folder
from datasets.readers.json_stream import Entry, JsonStream, Stamp, line_of
from maskrcnn.config import UserError

_LISTS = ("categories", "images", "annotations")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # they would break a message's one line
_DOUBTFUL = re.compile(r"[/\\:]|\.\.")  # in a file name: there inside_folder decides
_NO_BOX = (math.nan,) * 4
_NO_OUTLINES: tuple[Any, ...] = (None, [], [[]], {}, "", 0)
_MAX_SIDE = 2**31 - 1
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CocoIndex:
    """I images in the order of the file, and their A annotations, image by image, each's in the order of the file.

    A few dozen bytes an annotation: nothing of Python's is kept for it.
    """

    path: Path
    stamp: Stamp
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of the classes; of categories that share a name the lowest
    image_ids: list[int]
    names: list[str]  # of the images' files, without suffix
    suffixes: list[str]
    sizes: Ints  # [I, 2], H and W; 0 where the file does not say
    starts: Ints  # [I + 1]: annotations starts[i] to starts[i + 1] belong to image i
    ids: Ints  # [A]
    labels: NDArray[np.int32]  # [A]
    crowd: NDArray[np.bool_]  # [A]
    boxes: NDArray[np.float64]  # [A, 4], x y width height; NaN where there is none
    outlined: NDArray[np.bool_]  # [A], whether there is a segmentation
    offsets: Ints  # [A], of the annotation's text in the file
    lengths: Ints  # [A]


def read_index(path: Path) -> CocoIndex:
    """Read the file once, as a stream.

    Raises:
        UserError: not JSON; a list, key or value that is missing or of the wrong type; an id that is there twice or
            does not exist; a file name that leads out of the data folder. Outlines are not looked at.
    """
    columns = _Columns(path)
    with JsonStream(path) as stream:
        take: dict[str, Callable[[Entry], None]] = {
            "categories": columns.add_category,
            "images": columns.add_image,
            "annotations": columns.add_annotation,
        }
        for entry in stream.entries(_LISTS):
            take[entry.key](entry)
        for key in _LISTS:
            if key not in stream.keys:
                raise UserError(f"{path}: has no list '{key}'; this reads COCO's instances files")
    if not columns.names:
        raise UserError(f"{path}: lists no images")
    return columns.index(stream.stamp)


class _Columns:
    """The arrays while they grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.suffixes: list[str] = []
        self.categories: dict[int, str] = {}
        self.image_ids, self.sizes = array("q"), array("q")
        self.ids, self.images, self.kinds = array("q"), array("q"), array("q")
        self.offsets, self.lengths = array("q"), array("q")
        self.boxes = array("d")
        self.crowd, self.outlined = bytearray(), bytearray()

    def add_category(self, entry: Entry) -> None:
        value = self._object(entry)
        number, name = self._whole(entry, "id"), value.get("name")
        if not isinstance(name, str) or _UNPRINTABLE.search(name):
            self._refuse(entry, "'name' must be a line of text")
        if number in self.categories:
            self._refuse(entry, "this id is there twice")
        self.categories[number] = name

    def add_image(self, entry: Entry) -> None:
        value = self._object(entry)
        number, name = self._whole(entry, "id"), value.get("file_name")
        if not isinstance(name, str) or _UNPRINTABLE.search(name):
            self._refuse(entry, "'file_name' must be a line of text")
        if not name.strip(". ") or _DOUBTFUL.search(name):
            inside_folder(Path(), name, f"{self.path}: image {number}")
        stem, suffix = os.path.splitext(name)
        self.names.append(stem)
        self.suffixes.append(sys.intern(suffix))
        self.image_ids.append(number)
        self.sizes.extend((self._side(entry, "height"), self._side(entry, "width")))

    def add_annotation(self, entry: Entry) -> None:
        value = self._object(entry)
        self.ids.append(self._whole(entry, "id"))
        self.images.append(self._whole(entry, "image_id"))
        self.kinds.append(self._whole(entry, "category_id"))
        crowd = value.get("iscrowd")
        if crowd not in (None, 0, 1):
            self._refuse(entry, "'iscrowd' must be 0 or 1")
        self.crowd.append(crowd == 1)
        self.outlined.append(value.get("segmentation") not in _NO_OUTLINES)
        self.boxes.extend(self._box(entry))
        self.offsets.append(entry.offset)
        self.lengths.append(entry.length)

    def _object(self, entry: Entry) -> dict[str, Any]:
        if not isinstance(entry.value, dict):
            self._refuse(entry, "must be an object in braces")
        return entry.value

    def _whole(self, entry: Entry, key: str) -> int:
        """An id; tables that had gaps write 7.0 for 7."""
        value = entry.value.get(key)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not -(2**63) <= value < 2**63:
            self._refuse(entry, f"'{key}' must be a whole number")
        return value

    def _side(self, entry: Entry, key: str) -> int:
        """Height or width of an image; 0 where the file does not say, or says that."""
        value = entry.value.get(key)
        if value is None:
            return 0
        if isinstance(value, bool | str | list | dict) or not 0 <= value <= _MAX_SIDE or value != int(value):
            self._refuse(entry, f"'{key}' must be a whole number of pixels")
        return int(value)

    def _box(self, entry: Entry) -> tuple[float, ...]:
        box = entry.value.get("bbox")
        if not box and (box is None or isinstance(box, list)):
            if not self.outlined[-1]:
                self._refuse(entry, "has neither 'bbox' nor 'segmentation'")
            return _NO_BOX
        if isinstance(box, list) and len(box) == 4 and {int, float}.issuperset(map(type, box)):
            try:
                return float(box[0]), float(box[1]), float(box[2]), float(box[3])
            except OverflowError:
                pass
        self._refuse(entry, "'bbox' must be four numbers [x, y, width, height]")

    def _refuse(self, entry: Entry, reason: str) -> NoReturn:
        kind = {"categories": "category", "images": "image", "annotations": "annotation"}[entry.key]
        number = entry.value.get("id") if isinstance(entry.value, dict) else None
        place = f"{self.path}:{line_of(self.path, entry.offset)}"
        name = f"{kind} {number}" if type(number) is int else f"{kind} at byte {entry.offset}"
        raise UserError(f"{place}: {name}: {reason}; mend the file")

    def index(self, stamp: Stamp) -> CocoIndex:
        images, ids = _whole_array(self.image_ids), _whole_array(self.ids)
        self._check_once(images, "image")
        self._check_once(ids, "annotation")
        image = self._places(images, self.images, "image_id")
        labels, class_names, category_ids = self._labels()
        order = np.argsort(image, kind="stable")
        starts = np.searchsorted(image[order], np.arange(len(images) + 1))
        return CocoIndex(
            path=self.path,
            stamp=stamp,
            class_names=class_names,
            category_ids=category_ids,
            image_ids=self.image_ids.tolist(),
            names=self.names,
            suffixes=self.suffixes,
            sizes=_whole_array(self.sizes).reshape(-1, 2),
            starts=starts,
            ids=ids[order],
            labels=labels[order],
            crowd=np.frombuffer(self.crowd, np.bool_)[order],
            boxes=np.frombuffer(self.boxes, np.float64).reshape(-1, 4)[order],
            outlined=np.frombuffer(self.outlined, np.bool_)[order],
            offsets=_whole_array(self.offsets)[order],
            lengths=_whole_array(self.lengths)[order],
        )

    def _labels(self) -> tuple[NDArray[np.int32], tuple[str, ...], tuple[int, ...]]:
        """Categories in the order of their ids are labels 1, 2, …; those of one name are one class."""
        numbers = sorted(self.categories)
        class_names = tuple(dict.fromkeys(self.categories[number] for number in numbers))
        label_of = {name: label for label, name in enumerate(class_names, start=1)}
        id_of = {self.categories[number]: number for number in reversed(numbers)}
        labels = np.array([label_of[self.categories[number]] for number in numbers], np.int32)
        places = self._places(np.array(numbers, np.int64), self.kinds, "category_id")
        return labels[places], class_names, tuple(id_of[name] for name in class_names)

    def _places(self, known: Ints, asked: array, key: str) -> Ints:
        """Where each number asked for stands among the known ones."""
        wanted, order = _whole_array(asked), np.argsort(known)
        place = np.searchsorted(known, wanted, sorter=order)
        place = order[place.clip(max=len(known) - 1)] if len(known) else np.zeros_like(wanted)
        strange = known[place] != wanted if len(known) else np.ones(len(wanted), np.bool_)
        if strange.any():
            first = int(strange.argmax())
            raise UserError(
                f"{self.path}: annotation {self.ids[first]}: {key} {wanted[first]} does not exist; mend the file"
            )
        return place

    def _check_once(self, ids: Ints, kind: str) -> None:
        rising = np.sort(ids)
        twice = rising[1:] == rising[:-1]
        if twice.any():
            raise UserError(f"{self.path}: {kind} {rising[1:][twice][0]} is there twice; ids must differ")


def _whole_array(numbers: array) -> Ints:
    return np.frombuffer(numbers, np.int64) if len(numbers) else np.zeros(0, np.int64)
