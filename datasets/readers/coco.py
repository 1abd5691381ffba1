"""Data sets with COCO instance annotations (polygons, RLE or boxes) in common folder layouts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import TalliedImages, Tally, TallyByImage, clip_boxes, format_size, reconcile_boxes, resolve_inside
from datasets.config import ReadingConfig
from datasets.readers.coco_cache import open_index
from datasets.readers.coco_images import find_images
from datasets.readers.coco_index import SKIPPED, CocoIndex, Ints
from datasets.readers.coco_segmentation import covers_image, to_rle
from datasets.readers.folders import resolve_unicode_form
from datasets.readers.json_stream import read_entries
from datasets.readers.splitting import MissingSplit, check_split
from maskrcnn.config import UserError
from maskrcnn.images.reading import check_boxes_fit_upright, describe_rotation, read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

YEARS = (2017, 2014)
_AITOD_PARTS = {"train": ("trainval", "train"), "val": ("val",), "test": ("test",)}
_PARTS = {"train": ("train",), "val": ("val", "valid"), "test": ("test", "val", "valid")}
FILES = ("annotations.json", "_annotations.coco.json", "result.json")
OTHER_FILES = (  # of a part: SODA-D and SODA-A in COCO's form, TinyPerson
    "Annotations/{}.json",
    "annotations/tiny_set_{}.json",
    "tiny_set_{}.json",
    "mini_annotations/tiny_set_{}_all.json",
)
_WHOLE = (*FILES, "annotations/instances_default.json")


class Coco(TalliedImages):
    """One split of a data set with COCO annotations.

    `ids` are the annotation ids; labels 1, 2, … are the categories sorted by id. Crowds are marked as ignored. Boxes
    are those of the file. An object without 'bbox' gets the bounding box of its mask; an object whose mask is missing
    or empty keeps its box and gets an empty mask. Segmentations are parsed when their image is read, so an invalid one
    does not prevent reading the other images.
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
        """Open the split.

        The first of these layouts that exists in `root` is read for "train". For "test" it is `val` in the first
        layout and the first of `test`, `val` and `valid` in the others; for "val" it is `val` or `valid`, unless that
        is the test set.

        - `annotations/instances_train2017.json`, images in `train2017` or `images/train2017`; or 2014;
        - `train/annotations.json` or `train/_annotations.coco.json`, images in `train/images` or `train`;
        - `annotations/instances_train.json` or `annotations/train.json`, images in `images/train` or `train`;
        - `Annotations/train.json`, images in `Images` (SODA); `annotations/tiny_set_train.json` (TinyPerson);
        - `annotations.json`, `_annotations.coco.json`, `result.json` or `annotations/instances_default.json` with
          images in `images` or next to it: a data set without splits, which serves as "train" only.

        File names may start with the folder name. An image that is not found under its name is searched for by the
        last component of the name.

        Args:
            root: folder of the data set.
            split: "train", "val" or "test".
            annotations: annotation file relative to `root`, if it is none of the above.
            images: image folder relative to `root`, if it is none of the above.
            year: 2017 or 2014, to read only that year's files.
            masks: read masks; otherwise only boxes.
            reading: options for reading annotations.
            skip_bad: leave out invalid annotations, and count them.

        Raises:
            UserError: If files are missing, annotations are invalid or inconsistent, or no image is found.
        """
        check_split(split)
        root = Path(root)
        if annotations is not None:
            file, folders = _named(root, root / annotations)
        else:
            file, folders = _first(root, split, _layouts(root, split, year))
            if split == "val" and file == _first(root, "test", _layouts(root, "test", year))[0]:
                raise MissingSplit(f"{file}: is the test set; there is no separate validation set")
        folders = [root / images] if images is not None else folders
        self._open(file, folders, masks, reading or ReadingConfig(), skip_bad)

    def _open(self, file: Path, folders: Sequence[Path], masks: bool, reading: ReadingConfig, skip_bad: bool) -> None:
        self._index = index = open_index(file, skip_bad)
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
            raise UserError(f"{file}: annotation {index.ids[bare.argmax()]}: has no 'bbox'; fix the file")

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        number = range(len(self))[index]
        if number in self._found:
            return self._found[number]
        where = f"{self._index.path}: image {self.image_ids[number]}"
        return resolve_unicode_form(
            resolve_inside(self._folder, self._index.names[number] + self._index.suffixes[number], where)
        )

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return [self._index.path]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If the image is missing, unreadable or of another size than annotated, or a segmentation is
                invalid.
        """
        number = range(len(self))[index]
        where = f"{self._index.path}: image {self.image_ids[number]}"
        path = self.image_file(number)
        image = read_image(path)
        size = (int(image.shape[1]), int(image.shape[2]))
        annotated = self._index.sizes[number]
        if ((annotated != 0) & (annotated != size)).any():
            raise UserError(
                f"{where} is {format_size(annotated)}, but {path} is {format_size(size)}{describe_rotation(path)}"
            )
        rows = np.arange(self._index.starts[number], self._index.starts[number + 1])
        check_boxes_fit_upright(path, self._get_corners(rows), size, where)
        make = self._with_masks if self.has_masks else self._with_boxes
        return image, make(rows, size, where, self._tallies.of(number))

    def _with_boxes(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> Instances:
        boxes, kept = clip_boxes(self._get_corners(rows), size, tally, where)
        labels, ignore, ids = self._get_fields(rows[kept])
        return Instances(size, torch.from_numpy(boxes), labels, ignore=ignore, ids=ids)

    def _with_masks(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> Instances:
        """Build objects from boxes and masks; where one of the two is missing, the other is used alone."""
        codes = self._read_rles(rows, size, where, tally)
        rows = np.array([row for row in rows if row not in codes or codes[row]], np.int64)
        outlined = np.flatnonzero(self._index.outlined[rows])
        windows = torch.zeros(len(rows), 4, dtype=torch.int32)
        nothing = [torch.zeros(0, 0, dtype=torch.uint8)] * len(rows)
        masks = CroppedMasks.from_windows(windows, nothing, size)
        masks = masks.replace_at(torch.from_numpy(outlined), self._draw_masks(rows[outlined], codes, size))
        boxes, kept = reconcile_boxes(self._get_corners(rows), masks, tally, where)
        labels, ignore, ids = self._get_fields(rows[kept])
        chosen = torch.from_numpy(kept)
        return Instances(size, torch.from_numpy(boxes)[chosen], labels, masks=masks[chosen], ignore=ignore, ids=ids)

    def _get_corners(self, rows: Ints) -> NDArray[np.float64]:
        """Return boxes x1 y1 x2 y2 as annotated; NaN where there is none."""
        corner, extent = np.split(self._index.boxes[rows], 2, axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.concatenate([corner, corner + extent], axis=1)

    def _get_fields(self, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        labels = torch.from_numpy(self._index.labels[rows].astype(np.int64))
        return labels, torch.from_numpy(self._ignore[rows]), torch.from_numpy(self._index.ids[rows])

    def _read_rles(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> dict[int, dict[str, Any]]:
        """Read the RLE masks of annotations with a segmentation, by row; empty for invalid ones that are skipped."""
        rows = rows[self._index.outlined[rows]]
        places = zip(self._index.offsets[rows].tolist(), self._index.lengths[rows].tolist(), strict=True)
        annotations = read_entries(self._index.path, self._index.stamp, list(places))
        codes: dict[int, dict[str, Any]] = {}
        degenerate = 0
        for row, annotation in zip(rows.tolist(), annotations, strict=True):
            try:
                codes[row], dropped = to_rle(annotation["segmentation"], size, self._index.boxes[row])
            except ValueError as error:
                if not self._skip_bad:
                    raise self._make_error(row, str(error)) from error
                codes[row], dropped = {}, 0
            degenerate += dropped
            if self._skip_bad and codes[row] and not covers_image(codes[row], size):
                codes[row] = {}
        tally.add("polygons of fewer than three points dropped", where, degenerate)
        tally.add(SKIPPED, where, sum(not code for code in codes.values()))
        return codes

    def _draw_masks(self, rows: Ints, codes: Mapping[int, dict[str, Any]], size: tuple[int, int]) -> CroppedMasks:
        """Decode the masks of the annotations in these rows, all of which have a segmentation."""
        try:
            return CroppedMasks.from_rle([codes[row] for row in rows.tolist()], size)
        except ValueError as error:
            row = next(row for row in rows.tolist() if not covers_image(codes[row], size))
            reason = f"its run-length code does not cover the image of {format_size(size)} pixels"
            raise self._make_error(row, reason) from error

    def _make_error(self, row: int, reason: str) -> UserError:
        hint = "fix the file, or use --skip_bad to leave the annotation out"
        return UserError(f"{self._index.path}: annotation {self._index.ids[row]}: {reason}; {hint}")


class AiTod(Coco):
    """AI-TOD (boxes only) in the layout of its official tools, such as `annotations/aitod_trainval_v1.json`.

    "train" is trainval; if that is missing, "train" is train and "val" is val. "test" is test. Images are searched for
    in `images/trainval`, `trainval/images` and `trainval`.
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
        """Open the split.

        Args:
            root: folder of the data set.
            split: "train", "val" or "test".
            version: 1 (`aitod_trainval_v1.json`) or 2 (`aitodv2_trainval.json`).
            part: official part to read instead: "train", "val", "trainval" or "test".
            reading: options for reading annotations.
            skip_bad: leave out invalid annotations, and count them.

        Raises:
            UserError: If files are missing, annotations are invalid or inconsistent, or no image is found.
        """
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
        hint = f"; {there[0]} is version {3 - version}: use --dataset=aitod:v{3 - version}" if there else ""
        file, folders = _first(root, split, layouts, f"AI-TOD v{version}", hint)
        if split == "val" and (file.parent / name.format("trainval")).is_file():
            raise MissingSplit(f"{file}: is part of trainval, which is the training set")
        self._open(file, folders, False, reading or ReadingConfig(), skip_bad)


def _count_ignored(index: CocoIndex, crowds: str) -> Counter[str]:
    """Count ignored objects by reason, and crowds that are not ignored."""
    total, num_crowds = len(index.ids), int((index.crowd & ~index.ignore).sum())
    what = "ignored as crowds (use --crowds=objects to keep them)" if crowds == "ignore" else "kept, though crowds"
    marked = f"of {total:,} objects are ignored because of 'ignore' in the file"
    return Counter({f"of {total:,} objects are {what}": num_crowds, marked: int(index.ignore.sum())})


Layout = tuple[Path, list[Path]]  # annotation file, candidate image folders


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
        for name in OTHER_FILES:
            upper = root / "Images"
            yield root / name.format(part), [upper / part, upper, pictures / part, root / part, pictures, root]
    if split == "train":
        yield from ((root / name, [pictures, root]) for name in FILES)
        yield root / _WHOLE[-1], [pictures / "default", pictures, root]


def _first(root: Path, split: str, layouts: Iterable[Layout], kind: str = "COCO", hint: str = "") -> Layout:
    """Return the first layout whose annotation file exists; raise a UserError with a hint if there is none."""
    tried = []
    for file, folders in layouts:
        if file.is_file():
            return file, folders
        tried.append(file.relative_to(root).as_posix())
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --dataset_root to the folder of {kind}")
    whole = [name for name in _WHOLE if kind == "COCO" and (root / name).is_file()]
    if whole and split != "train":
        raise MissingSplit(
            f"{root}: is not split: {whole[0]} serves as 'train'; put the annotations for '{split}' at {tried[0]}"
        )
    names = f"none of {', '.join(tried)}" if len(tried) > 1 else f"no {tried[0]}"
    message = f"{root}: has no annotations of {kind} for '{split}', {names}{hint or '; put them there'}"
    raise (UserError if split == "train" else MissingSplit)(message)


def _named(root: Path, file: Path) -> Layout:
    part = file.stem.removeprefix("instances_")
    return file, [root / part, root / "images" / part, file.parent / "images", file.parent, root / "images", root]
