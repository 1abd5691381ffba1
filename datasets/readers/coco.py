"""COCO's instances files: outlines, run-length codes or boxes, in the layouts in which such data is handed on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import Tally, TallyByImage, boxes_beside_masks, in_words, inside_folder, usable_boxes
from datasets.config import ReadingConfig
from datasets.readers.coco_images import find_images
from datasets.readers.coco_index import SKIPPED, CocoIndex, Ints, read_index
from datasets.readers.coco_segmentation import code_of, fills
from datasets.readers.folders import in_any_form
from datasets.readers.json_stream import read_places
from datasets.readers.splitting import MissingSplit, check_split
from maskrcnn.config import UserError
from maskrcnn.images.reading import check_boxes_as_shown, describe_turn, read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

YEARS = (2017, 2014)
_AITOD_PARTS = {"train": ("trainval", "train"), "val": ("val",), "test": ("test",)}
_PARTS = {"train": ("train",), "val": ("val", "valid"), "test": ("test", "val", "valid")}
FILES = ("annotations.json", "_annotations.coco.json", "result.json")
_WHOLE = (*FILES, "annotations/instances_default.json")


class Coco:
    """One split of a data set with COCO annotations.

    ``ids`` are the annotations' ids, labels 1, 2, … the categories in the order of their ids. Crowds are to ``ignore``.
    Boxes are the file's; an object without 'bbox' gets the extent of its mask, one whose mask is missing or empty keeps
    its box and an empty mask. An outline or code that is wrong is found when its image is read, so that other images
    stay readable.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        year: int | None = None,
        masks: bool = True,
        reading: ReadingConfig | None = None,
        skip_bad: bool = False,
    ) -> None:
        """The first of these that is there, in ``root``, for "train" (for "test": val, or test before val or valid;
        for "val": val or valid, where that is not the test set):

        - ``annotations/instances_train2017.json``, images in ``train2017`` or ``images/train2017``; or of 2014;
        - ``train/annotations.json`` or ``train/_annotations.coco.json``, images in ``train/images`` or ``train``;
        - ``annotations/instances_train.json`` or ``annotations/train.json``, images in ``images/train`` or ``train``;
        - ``annotations.json``, ``_annotations.coco.json``, ``result.json`` or ``annotations/instances_default.json``
          with images in ``images`` or beside: a set without parts, for "train" only.

        File names may begin with the folder's name. An image that is not found by its name is looked for by the last
        part of it.

        ``annotations`` and ``images`` name file and folder, from ``root`` on, where it is none of these. With
        ``masks`` false, boxes only are read. ``skip_bad`` leaves annotations out that are broken, and counts them.

        Raises:
            UserError: no such files; annotations that are broken or contradict themselves; no image is there.
        """
        check_split(split)
        root = Path(root)
        if annotations is not None:
            file, folders = _named(root, root / annotations)
        else:
            file, folders = _first(root, split, _layouts(root, split, year))
            if split == "val" and file == _first(root, "test", _layouts(root, "test", year))[0]:
                raise MissingSplit(f"{file}: is the test set; there is no other for validation")
        folders = [root / images] if images is not None else folders
        self._open(file, folders, masks, reading or ReadingConfig(), skip_bad)

    def _open(self, file: Path, folders: Sequence[Path], masks: bool, reading: ReadingConfig, skip_bad: bool) -> None:
        self._index = index = read_index(file, skip_bad)
        self._skip_bad = skip_bad
        if reading.image_folder is not None:
            folders = [Path(reading.image_folder)]
        self._folder, self._found = find_images(folders, index)
        self._ignore = index.ignore | (index.crowd & (reading.crowds == "ignore"))
        opening = Tally()
        opening.counts.update(index.counts + _count_ignored(index, reading.crowds))
        self._tallies = TallyByImage(len(index.names), opening)
        self.class_names, self.category_ids = index.class_names, index.category_ids
        self.image_ids = index.image_ids
        self.image_names = [
            str(self._found[k].stem) if k in self._found else name for k, name in enumerate(index.names)
        ]
        self.has_masks = masks and bool(index.outlined.any())
        bare = np.isnan(index.boxes).any(axis=1) & index.outlined
        if not self.has_masks and bare.any():
            raise UserError(f"{file}: annotation {index.ids[bare.argmax()]}: has no 'bbox'; mend the file")

    @property
    def counts(self) -> Mapping[str, int]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        number = range(len(self))[index]
        if number in self._found:
            return self._found[number]
        where = f"{self._index.path}: image {self.image_ids[number]}"
        return in_any_form(inside_folder(self._folder, self._index.names[number] + self._index.suffixes[number], where))

    def annotation_files(self, index: int) -> list[Path]:
        """The files from which the objects of an image are read."""
        return [self._index.path]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its instances.

        UserError for an image that is missing, unreadable or of another size than the annotations say, and for an
        outline or run-length code that is wrong; they name file and object.
        """
        number = range(len(self))[index]
        where = f"{self._index.path}: image {self.image_ids[number]}"
        path = self.image_file(number)
        image = read_image(path)
        size = (int(image.shape[1]), int(image.shape[2]))
        said = self._index.sizes[number]
        if ((said != 0) & (said != size)).any():
            raise UserError(f"{where} is {in_words(said)}, but {path} is {in_words(size)}{describe_turn(path)}")
        rows = np.arange(self._index.starts[number], self._index.starts[number + 1])
        check_boxes_as_shown(path, self._corners(rows), size, where)
        make = self._with_masks if self.has_masks else self._with_boxes
        return image, make(rows, size, where, self._tallies.of(number))

    def _with_boxes(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> Instances:
        boxes, kept = usable_boxes(self._corners(rows), size, tally, where)
        labels, ignore, ids = self._fields(rows[kept])
        return Instances(size, torch.from_numpy(boxes), labels, ignore=ignore, ids=ids)

    def _with_masks(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> Instances:
        """Objects with the boxes of the file and their masks; where one of the two is missing, the other alone."""
        codes = self._codes(rows, size, where, tally)
        rows = np.array([row for row in rows if row not in codes or codes[row]], np.int64)
        outlined = np.flatnonzero(self._index.outlined[rows])
        windows = torch.zeros(len(rows), 4, dtype=torch.int32)
        nothing = [torch.zeros(0, 0, dtype=torch.uint8)] * len(rows)
        masks = CroppedMasks.from_windows(windows, nothing, size)
        masks = masks.replace_at(torch.from_numpy(outlined), self._drawn(rows[outlined], codes, size))
        boxes, kept = boxes_beside_masks(self._corners(rows), masks, tally, where)
        labels, ignore, ids = self._fields(rows[kept])
        chosen = torch.from_numpy(kept)
        return Instances(size, torch.from_numpy(boxes)[chosen], labels, masks=masks[chosen], ignore=ignore, ids=ids)

    def _corners(self, rows: Ints) -> NDArray[np.float64]:
        """Boxes x1 y1 x2 y2 as the file has them; NaN where it has none."""
        corner, extent = np.split(self._index.boxes[rows], 2, axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.concatenate([corner, corner + extent], axis=1)

    def _fields(self, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        labels = torch.from_numpy(self._index.labels[rows].astype(np.int64))
        return labels, torch.from_numpy(self._ignore[rows]), torch.from_numpy(self._index.ids[rows])

    def _codes(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> dict[int, dict[str, Any]]:
        """Run-length codes by row of the annotations that have a segmentation; empty for the broken ones to skip."""
        rows = rows[self._index.outlined[rows]]
        places = zip(self._index.offsets[rows].tolist(), self._index.lengths[rows].tolist(), strict=True)
        annotations = read_places(self._index.path, self._index.stamp, list(places))
        codes: dict[int, dict[str, Any]] = {}
        degenerate = 0
        for row, annotation in zip(rows.tolist(), annotations, strict=True):
            try:
                codes[row], dropped = code_of(annotation["segmentation"], size, self._index.boxes[row])
            except ValueError as error:
                if not self._skip_bad:
                    raise self._wrong(row, str(error)) from error
                codes[row], dropped = {}, 0
            degenerate += dropped
            if self._skip_bad and codes[row] and not fills(codes[row], size):
                codes[row] = {}
        tally.add("outlines of fewer than three points dropped", where, degenerate)
        tally.add(SKIPPED, where, sum(not code for code in codes.values()))
        return codes

    def _drawn(self, rows: Ints, codes: Mapping[int, dict[str, Any]], size: tuple[int, int]) -> CroppedMasks:
        """Masks of the annotations in these rows, all of which have a segmentation."""
        try:
            return CroppedMasks.from_rle([codes[row] for row in rows.tolist()], size)
        except ValueError as error:
            row = next(row for row in rows.tolist() if not fills(codes[row], size))
            reason = f"its run-length code does not fill the image of {in_words(size)} pixels"
            raise self._wrong(row, reason) from error

    def _wrong(self, row: int, reason: str) -> UserError:
        words = "fix the file, or --skip_bad leaves the annotation out"
        return UserError(f"{self._index.path}: annotation {self._index.ids[row]}: {reason}; {words}")


class AiTod(Coco):
    """AI-TOD, boxes only, in the folders of its own tools: ``annotations/aitod_trainval_v1.json`` and the like.

    "train" is its trainval, or its train where that is not there, and then "val" its val part; "test" its test part.
    Images are looked for in ``images/trainval``, ``trainval/images`` and ``trainval``.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        version: int = 1,
        part: str | None = None,
        reading: ReadingConfig | None = None,
        skip_bad: bool = False,
    ) -> None:
        """``version`` 2 has ``aitodv2_trainval.json``. ``part``: "train", "val", "trainval" or "test" by name."""
        check_split(split)
        if version not in (1, 2):
            raise UserError(f"version {version} of AI-TOD is unknown: use 1 or 2")
        name = "aitod_{}_v1.json" if version == 1 else "aitodv2_{}.json"
        parts = (part,) if part else _AITOD_PARTS[split]
        root = Path(root)
        layouts = (
            (folder / name.format(part), [root / "images" / part, root / part / "images", root / part])
            for part in parts
            for folder in (root / "annotations", root)
        )
        other = "aitodv2_*.json" if version == 1 else "aitod_*_v1.json"
        there = [path.name for folder in (root / "annotations", root) for path in sorted(folder.glob(other))]
        hint = f"; {there[0]} is of version {3 - version}: use --dataset=aitod:v{3 - version}" if there else ""
        file, folders = _first(root, split, layouts, f"AI-TOD v{version}", hint)
        if split == "val" and (file.parent / name.format("trainval")).is_file():
            raise MissingSplit(f"{file}: is part of trainval, which is trained on")
        self._open(file, folders, False, reading or ReadingConfig(), skip_bad)


def _count_ignored(index: CocoIndex, crowds: str) -> Counter[str]:
    """How many objects are ignored, and why; or how many crowds are not."""
    total, num_crowds = len(index.ids), int((index.crowd & ~index.ignore).sum())
    what = "ignored (--crowds=objects takes them as objects)" if crowds == "ignore" else "taken as objects"
    marked = f"of {total:,} objects are marked with 'ignore' and ignored"
    return Counter({f"of {total:,} objects are crowds and {what}": num_crowds, marked: int(index.ignore.sum())})


Layout = tuple[Path, list[Path]]  # annotation file, and the folders where the images may be


def _layouts(root: Path, split: str, year: int | None) -> Iterator[Layout]:
    annotations, pictures = root / "annotations", root / "images"
    years = YEARS if year is None else (year,)
    for each in years:
        # One year for both splits: 2017's training images hold most of 2014's validation images.
        if any((annotations / f"instances_{part}{each}.json").is_file() for part in ("train", "val")):
            years = (each,)
            break
    for each in years:
        part = f"{'train' if split == 'train' else 'val'}{each}"  # its test images have no annotations
        yield annotations / f"instances_{part}.json", [root / part, pictures / part, pictures, root]
    if year is not None:
        return
    for part in _PARTS[split]:
        yield from ((root / part / name, [root / part / "images", root / part, root]) for name in FILES)
        for name in (f"instances_{part}.json", f"{part}.json"):
            yield annotations / name, [pictures / part, root / part, root / part / "images", pictures, root]
    if split == "train":
        yield from ((root / name, [pictures, root]) for name in FILES)
        yield root / _WHOLE[-1], [pictures / "default", pictures, root]


def _first(root: Path, split: str, layouts: Iterable[Layout], kind: str = "COCO", hint: str = "") -> Layout:
    """The first layout whose annotation file is there. UserError with a hint if none is."""
    tried = []
    for file, folders in layouts:
        if file.is_file():
            return file, folders
        tried.append(file.relative_to(root).as_posix())
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one of {kind} as --dataset_root")
    whole = [name for name in _WHOLE if kind == "COCO" and (root / name).is_file()]
    if whole and split != "train":
        raise MissingSplit(
            f"{root}: holds one set without parts, {whole[0]}, which is 'train'; put that for '{split}' at {tried[0]}"
        )
    names = f"none of {', '.join(tried)}" if len(tried) > 1 else f"no {tried[0]}"
    words = f"{root}: has no annotations of {kind} for '{split}', {names}{hint or '; put them there'}"
    raise (UserError if split == "train" else MissingSplit)(words)


def _named(root: Path, file: Path) -> Layout:
    part = file.stem.removeprefix("instances_")
    return file, [root / part, root / "images" / part, file.parent / "images", file.parent, root / "images", root]
