"""COCO annotations as arrays. Segmentations are not kept, only their position in the file."""

import math
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from datasets.checks import resolve_inside
from datasets.readers.coco_segmentation import has_outline
from datasets.readers.json_stream import FileStamp, JsonEntry, JsonStream, find_line
from maskrcnn.config import UserError

_LISTS = ("categories", "images", "annotations")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # they would break a message's one line
_SUSPICIOUS = re.compile(r"[/\\:]|\.\.")  # file names that resolve_inside has to check
_NO_BOX = (math.nan,) * 4
_FLAGS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True, None: False}
_MAX_SIDE = 2**31 - 1
_WHOLE = re.compile(r"\s*-?[0-9]{1,19}\s*")
_FIX_ANNOTATION = "fix the file, or use --skip_bad to leave the annotation out"
TINY_PERSON = "tiny_set"  # start of the names of its files
SKIPPED = "invalid annotations skipped"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CocoIndex:
    """Index of I images in file order and their A annotations, sorted by image and then in file order.

    Takes a few dozen bytes per annotation, because it stores arrays and no Python objects per annotation.
    """

    path: Path
    stamp: FileStamp
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # per class; the lowest of categories that share a name
    image_ids: list[int]
    names: list[str]  # of the image files, without suffix
    suffixes: list[str]
    sizes: Ints  # [I, 2], H and W; 0 where the file gives none
    starts: Ints  # [I + 1]: annotations starts[i] to starts[i + 1] belong to image i
    ids: Ints  # [A]
    labels: NDArray[np.int32]  # [A]
    crowd: NDArray[np.bool_]  # [A]
    ignore: NDArray[np.bool_]  # [A], marked as ignored
    boxes: NDArray[np.float64]  # [A, 4], x y width height; NaN where there is none
    outlined: NDArray[np.bool_]  # [A], whether there is a segmentation
    offsets: Ints  # [A], byte offset of the annotation in the file
    lengths: Ints  # [A], in bytes
    outside: dict[int, str]  # by image: error if its file name points out of the data folder
    counts: Counter[str]  # number of suspicious entries, by rule


def read_index(path: Path, skip_bad: bool = False) -> CocoIndex:
    """Read the annotations in one streaming pass. Segmentations are not checked.

    Args:
        path: the JSON file.
        skip_bad: leave out invalid annotations, and count them.

    Raises:
        UserError: If the file is not JSON, a list, key or value is missing or has the wrong type, or an image or
            category id appears twice or does not exist.
    """
    columns = _Columns(path, skip_bad)
    with JsonStream(path) as stream:
        take: dict[str, Callable[[JsonEntry], None]] = {
            "categories": columns.add_category,
            "images": columns.add_image,
            "annotations": columns.add_annotation,
        }
        for entry in stream.entries(_LISTS):
            take[entry.key](entry)
        for key in _LISTS:
            if key not in stream.keys:
                raise UserError(f"{path}: has no list '{key}'; a COCO instances file is expected")
    if not columns.names:
        raise UserError(f"{path}: lists no images")
    return columns.index(stream.stamp)


class _Columns:
    """The arrays while the file is read."""

    def __init__(self, path: Path, skip_bad: bool) -> None:
        self.path, self.skip_bad = path, skip_bad
        self.ignoring = ("ignore", "uncertain") if path.name.startswith(TINY_PERSON) else ("ignore",)
        self.counts: Counter[str] = Counter()
        self.names: list[str] = []
        self.suffixes: list[str] = []
        self.categories: dict[int, str] = {}
        self.image_ids, self.sizes = array("q"), array("q")
        self.ids, self.images, self.kinds = array("q"), array("q"), array("q")
        self.offsets, self.lengths = array("q"), array("q")
        self.boxes = array("d")
        self.has_id, self.crowd, self.ignore, self.outlined = bytearray(), bytearray(), bytearray(), bytearray()

    def add_category(self, entry: JsonEntry) -> None:
        """Add a category."""
        value = self._object(entry)
        number, name = self._whole(entry, "id"), value.get("name")
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or _UNPRINTABLE.search(name):
            self._raise_error(entry, "'name' must be a single line of text")
        if number in self.categories:
            self._raise_error(entry, "this id appears twice")
        self.categories[number] = name

    def add_image(self, entry: JsonEntry) -> None:
        """Add an image."""
        value = self._object(entry)
        number, name = self._whole(entry, "id"), value.get("file_name")
        if not isinstance(name, str) or _UNPRINTABLE.search(name):
            self._raise_error(entry, "'file_name' must be a single line of text")
        stem, suffix = os.path.splitext(name)
        self.names.append(stem)
        self.suffixes.append(sys.intern(suffix))
        self.image_ids.append(number)
        self.sizes.extend((self._side(entry, "height"), self._side(entry, "width")))

    def add_annotation(self, entry: JsonEntry) -> None:
        """Add an annotation; invalid ones are skipped and counted if `skip_bad`."""
        try:
            value = self._object(entry)
            outlined = has_outline(value.get("segmentation"))
            image, kind = self._whole(entry, "image_id"), self._whole(entry, "category_id")
            crowd, ignore = self._flag(entry, "iscrowd"), any(self._flag(entry, key) for key in self.ignoring)
            box = self._box(entry, outlined)
        except UserError:
            if not self.skip_bad:
                raise
            self.counts[SKIPPED] += 1
            return
        number = _as_whole(value.get("id"))
        self.ids.append(number or 0)
        self.has_id.append(number is not None)
        self.images.append(image)
        self.kinds.append(kind)
        self.crowd.append(crowd)
        self.ignore.append(ignore)
        self.outlined.append(outlined)
        self.boxes.extend(box)
        self.offsets.append(entry.offset)
        self.lengths.append(entry.length)

    def _flag(self, entry: JsonEntry, key: str) -> bool:
        value = entry.value.get(key)
        value = value.strip().lower() if isinstance(value, str) else value
        if not isinstance(value, int | float | str | None) or value not in _FLAGS:
            self._raise_error(entry, f"'{key}' must be 0 or 1")
        return _FLAGS[value]

    def _object(self, entry: JsonEntry) -> dict[str, Any]:
        if not isinstance(entry.value, dict):
            self._raise_error(entry, "must be a JSON object")
        return entry.value

    def _whole(self, entry: JsonEntry, key: str) -> int:
        """Return an id."""
        number = _as_whole(entry.value.get(key))
        if number is None:
            self._raise_error(entry, f"'{key}' must be an integer")
        return number

    def _side(self, entry: JsonEntry, key: str) -> int:
        """Return the height or width of an image; 0 if the file gives none or 0."""
        value = entry.value.get(key)
        if value is None:
            return 0
        number = _as_whole(value)
        if number is None or not 0 <= number <= _MAX_SIDE:
            self._raise_error(entry, f"'{key}' must be an integer number of pixels")
        return number

    def _box(self, entry: JsonEntry, outlined: bool) -> tuple[float, ...]:
        box = entry.value.get("bbox")
        if not box and (box is None or isinstance(box, list)):
            if not outlined:
                self._raise_error(entry, "has neither 'bbox' nor 'segmentation'")
            return _NO_BOX
        if isinstance(box, list) and len(box) == 4 and {int, float, str}.issuperset(map(type, box)):
            try:
                return float(box[0]), float(box[1]), float(box[2]), float(box[3])
            except (OverflowError, ValueError):
                pass
        self._raise_error(entry, "'bbox' must be four numbers [x, y, width, height]")

    def _raise_error(self, entry: JsonEntry, reason: str) -> NoReturn:
        kind = {"categories": "category", "images": "image", "annotations": "annotation"}[entry.key]
        number = entry.value.get("id") if isinstance(entry.value, dict) else None
        place = f"{self.path}:{find_line(self.path, entry.offset)}"
        name = f"{kind} {number}" if type(number) is int else f"{kind} at byte {entry.offset}"
        raise UserError(f"{place}: {name}: {reason}; {_FIX_ANNOTATION if kind == 'annotation' else 'fix the file'}")

    def index(self, stamp: FileStamp) -> CocoIndex:
        """Build the index."""
        images = _whole_array(self.image_ids)
        self._check_once(images, "image")
        image, known_image = self._places(images, self.images, "image_id")
        labels, known_label, class_names, category_ids = self._labels()
        kept = np.flatnonzero(known_image & known_label)
        self.counts[SKIPPED] += len(image) - len(kept)
        order = kept[np.argsort(image[kept], kind="stable")]
        starts = np.searchsorted(image[order], np.arange(len(images) + 1))
        index = CocoIndex(
            path=self.path,
            stamp=stamp,
            class_names=class_names,
            category_ids=category_ids,
            image_ids=self.image_ids.tolist(),
            names=self.names,
            suffixes=self.suffixes,
            sizes=_whole_array(self.sizes).reshape(-1, 2),
            starts=starts,
            ids=self._numbers()[order],
            labels=labels[order],
            crowd=np.frombuffer(self.crowd, np.bool_)[order],
            ignore=np.frombuffer(self.ignore, np.bool_)[order],
            boxes=np.frombuffer(self.boxes, np.float64).reshape(-1, 4)[order],
            outlined=np.frombuffer(self.outlined, np.bool_)[order],
            offsets=_whole_array(self.offsets)[order],
            lengths=_whole_array(self.lengths)[order],
            outside=find_outside(self.path, self.image_ids, self.names, self.suffixes),
            counts=self.counts,
        )
        _count_suspicious(index)
        return index

    def _numbers(self) -> Ints:
        """Return the annotation ids; 1, 2, … if some are missing or duplicated."""
        ids = _whole_array(self.ids)
        count = len(ids) - len(np.unique(ids[np.frombuffer(self.has_id, np.bool_)]))
        if not count:
            return ids
        self.counts[f"of {len(ids):,} annotation ids are missing or duplicated; all are renumbered"] = count
        return np.arange(1, len(ids) + 1)

    def _labels(self) -> tuple[NDArray[np.int32], NDArray[np.bool_], tuple[str, ...], tuple[int, ...]]:
        """Assign labels 1, 2, … to the categories sorted by id; categories with the same name are one class."""
        used = set(self.kinds)
        # LabelMe's tools list a background category that no object has.
        numbers = sorted(n for n, name in self.categories.items() if name != "_background_" or n in used)
        class_names = tuple(dict.fromkeys(self.categories[number] for number in numbers))
        label_of = {name: label for label, name in enumerate(class_names, start=1)}
        id_of = {self.categories[number]: number for number in reversed(numbers)}
        labels = np.array([label_of[self.categories[number]] for number in numbers], np.int32)
        if len(class_names) < len(numbers):
            count = len(numbers) - len(class_names)
            self.counts[f"of {len(numbers)} categories have the name of another one and are merged with it"] = count
        places, known = self._places(np.array(numbers, np.int64), self.kinds, "category_id")
        found = labels[places] if len(labels) else np.zeros(len(places), np.int32)
        return found, known, class_names, tuple(id_of[name] for name in class_names)

    def _places(self, known: Ints, asked: array, key: str) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the position of each requested id among the known ones, and whether it is known."""
        wanted, order = _whole_array(asked), np.argsort(known)
        place = np.searchsorted(known, wanted, sorter=order)
        place = order[place.clip(max=len(known) - 1)] if len(known) else np.zeros_like(wanted)
        unknown = known[place] != wanted if len(known) else np.ones(len(wanted), np.bool_)
        if unknown.any() and not self.skip_bad:
            first = int(unknown.argmax())
            raise UserError(
                f"{self.path}: annotation {self.ids[first]}: {key} {wanted[first]} does not exist; {_FIX_ANNOTATION}"
            )
        return place, ~unknown

    def _check_once(self, ids: Ints, kind: str) -> None:
        ascending = np.sort(ids)
        twice = ascending[1:] == ascending[:-1]
        if twice.any():
            raise UserError(f"{self.path}: {kind} {ascending[1:][twice][0]} appears twice; ids must be unique")


def find_outside(path: Path, image_ids: Sequence[int], names: Sequence[str], suffixes: Sequence[str]) -> dict[int, str]:
    """Return the errors of the images whose file names point out of the data folder, by their place in the list."""
    found: dict[int, str] = {}
    for place, name in enumerate(map(str.__add__, names, suffixes)):
        if not name.strip(". ") or _SUSPICIOUS.search(name):
            try:
                resolve_inside(Path(), name, f"{path}: image {image_ids[place]}")
            except UserError as error:
                found[place] = str(error)
    return found


def _count_suspicious(index: CocoIndex) -> None:
    """Count entries that are read as they are, but may be mistakes."""
    total, counts = len(index.ids), index.counts
    files: Counter[str] = Counter(map(str.__add__, index.names, index.suffixes))
    repeated = len(index.names) - len(files)
    counts[f"of {len(index.names):,} images have the file of an image listed before under another id"] = repeated
    boxed = ~np.isnan(index.boxes).any(axis=1)
    boxes = index.boxes[boxed]
    with np.errstate(over="ignore", invalid="ignore"):
        far = boxes[:, :2] + boxes[:, 2:]
        fractions = int(((boxes >= 0).all(axis=1) & (far <= 1).all(axis=1)).sum())
    if 2 * fractions > len(boxes):
        rule = f"of {len(boxes):,} boxes are between 0 and 1: pixels are expected, not fractions of the image"
        counts[rule] = fractions
    images = np.repeat(np.arange(len(index.names)), np.diff(index.starts))[boxed]
    same = len(boxes) - len(np.unique(_hash_rows([images, index.labels[boxed], *boxes.T])))
    counts[f"of {total:,} objects repeat another one: same image, class and box"] = same


def _hash_rows(columns: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    """Hash rows to 64 bits: sorting them whole would take several times the memory of all annotations."""
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes ^= (column.astype(np.float64) + 0.0).view(np.uint64)  # 0.0 is also -0.0
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _as_whole(value: Any) -> int | None:
    """Return a 64-bit integer, or None for anything else. Some tools write 7.0 or "7" for 7."""
    if (isinstance(value, str) and _WHOLE.fullmatch(value)) or (type(value) is float and value.is_integer()):
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _whole_array(numbers: array) -> Ints:
    return np.frombuffer(numbers, np.int64) if len(numbers) else np.zeros(0, np.int64)
