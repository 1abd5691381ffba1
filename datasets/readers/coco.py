"""COCO's instances files: outlines, run-length codes or boxes, in the layouts in which such data is handed on."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import Tally, TallyByImage, boxes_beside_masks, in_words, inside_folder, usable_boxes
from datasets.images import read_image
from datasets.readers.coco_index import CocoIndex, Ints, read_index
from datasets.readers.folders import in_any_form
from datasets.readers.json_stream import read_places
from datasets.readers.splitting import check_split
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

YEARS = (2017, 2014)
MAX_OUTLINE = 2_000_000  # pixels: coordinates beyond, or longer outlines, would take the memory when drawn
_PARTS = {"train": ("train",), "test": ("test", "val", "valid")}
FILES = ("annotations.json", "_annotations.coco.json")
_log = logging.getLogger("datasets")


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
    ) -> None:
        """The first of these that is there, in ``root``, for "train" (for "test": val, or test before val or valid):

        - ``annotations/instances_train2017.json``, images in ``train2017`` or ``images/train2017``; or of 2014;
        - ``train/annotations.json`` or ``train/_annotations.coco.json``, images in ``train/images`` or ``train``;
        - ``annotations/instances_train.json`` or ``annotations/train.json``, images in ``images/train`` or ``train``;
        - ``annotations.json``, ``_annotations.coco.json`` or ``annotations/instances_default.json`` with images in
          ``images`` or beside: a set without parts, for "train" only.

        File names may begin with the folder's name.

        ``annotations`` and ``images`` name file and folder, from ``root`` on, where it is none of these. With
        ``masks`` false, boxes only are read.

        Raises:
            UserError: no such files; annotations that are broken or contradict themselves; no image is there.
        """
        check_split(split)
        root = Path(root)
        if annotations is not None:
            file, folders = _named(root, root / annotations)
        else:
            file, folders = _first(root, split, _layouts(root, split, year))
        self._open(file, [root / images] if images is not None else folders, masks)

    def _open(self, file: Path, folders: Sequence[Path], masks: bool) -> None:
        self._index = read_index(file)
        self._folder = _image_folder(folders, self._index)
        self._tallies = TallyByImage(len(self._index.names))
        self.class_names, self.category_ids = self._index.class_names, self._index.category_ids
        self.image_ids, self.image_names = self._index.image_ids, self._index.names
        self.has_masks = masks and bool(self._index.outlined.any())
        bare = np.isnan(self._index.boxes).any(axis=1) & self._index.outlined
        if not self.has_masks and bare.any():
            raise UserError(f"{file}: annotation {self._index.ids[bare.argmax()]}: has no 'bbox'; mend the file")

    @property
    def counts(self) -> Mapping[str, int]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        where = f"{self._index.path}: image {self.image_ids[index]}"
        return in_any_form(inside_folder(self._folder, self._index.names[index] + self._index.suffixes[index], where))

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
            raise UserError(f"{where} is {in_words(said)}, but {path} is {in_words(size)}; mend one of them")
        rows = np.arange(self._index.starts[number], self._index.starts[number + 1])
        make = self._with_masks if self.has_masks else self._with_boxes
        return image, make(rows, size, where, self._tallies.of(number))

    def _with_boxes(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> Instances:
        boxes, kept = usable_boxes(self._corners(rows), size, tally, where)
        labels, ignore, ids = self._fields(rows[kept])
        return Instances(size, torch.from_numpy(boxes), labels, ignore=ignore, ids=ids)

    def _with_masks(self, rows: Ints, size: tuple[int, int], where: str, tally: Tally) -> Instances:
        """Objects with the boxes of the file and their masks; where one of the two is missing, the other alone."""
        outlined = np.flatnonzero(self._index.outlined[rows])
        windows = torch.zeros(len(rows), 4, dtype=torch.int32)
        nothing = [torch.zeros(0, 0, dtype=torch.uint8)] * len(rows)
        masks = CroppedMasks.from_windows(windows, nothing, size)
        masks = masks.exchanged(torch.from_numpy(outlined), self._drawn(rows[outlined], size))
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
        return labels, torch.from_numpy(self._index.crowd[rows]), torch.from_numpy(self._index.ids[rows])

    def _drawn(self, rows: Ints, size: tuple[int, int]) -> CroppedMasks:
        """Masks of the annotations in these rows, all of which have a segmentation."""
        places = zip(self._index.offsets[rows].tolist(), self._index.lengths[rows].tolist(), strict=True)
        annotations = read_places(self._index.path, self._index.stamp, list(places))
        codes = []
        for row, annotation in zip(rows, annotations, strict=True):
            try:
                codes.append(_code_of(annotation["segmentation"], size))
            except ValueError as error:
                raise self._wrong(row, str(error)) from error
        try:
            return CroppedMasks.from_rle(codes, size)
        except ValueError as error:
            row = next(row for row, code in zip(rows, codes, strict=True) if not _fills(code, size))
            reason = f"its run-length code does not fill the image of {in_words(size)} pixels"
            raise self._wrong(row, reason) from error

    def _wrong(self, row: int, reason: str) -> UserError:
        return UserError(f"{self._index.path}: annotation {self._index.ids[row]}: {reason}; mend the file")


class AiTod(Coco):
    """AI-TOD, boxes only, in the folders of its own tools: ``annotations/aitod_trainval_v1.json`` and the like.

    "train" is its trainval, or its train where that is not there; "test" its test part. Images are looked for in
    ``images/trainval``, ``trainval/images`` and ``trainval``.
    """

    def __init__(self, root: str | Path, split: str, version: int = 1, part: str | None = None) -> None:
        """``version`` 2 has ``aitodv2_trainval.json``. ``part``: "train", "val", "trainval" or "test" by name."""
        check_split(split)
        if version not in (1, 2):
            raise UserError(f"version {version} of AI-TOD is unknown: use 1 or 2")
        name = "aitod_{}_v1.json" if version == 1 else "aitodv2_{}.json"
        parts = (part,) if part else ("trainval", "train") if split == "train" else ("test",)
        root = Path(root)
        layouts = (
            (folder / name.format(part), [root / "images" / part, root / part / "images", root / part])
            for part in parts
            for folder in (root / "annotations", root)
        )
        other = "aitodv2_*.json" if version == 1 else "aitod_*_v1.json"
        there = [path.name for folder in (root / "annotations", root) for path in sorted(folder.glob(other))]
        hint = f"; {there[0]} is of version {3 - version}: use --dataset=aitod:v{3 - version}" if there else ""
        self._open(*_first(root, split, layouts, f"AI-TOD v{version}", hint), masks=False)


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
        part = f"{'train' if split == 'train' else 'val'}{each}"
        yield annotations / f"instances_{part}.json", [root / part, pictures / part, pictures, root]
    if year is not None:
        return
    for part in _PARTS[split]:
        yield from ((root / part / name, [root / part / "images", root / part, root]) for name in FILES)
        for name in (f"instances_{part}.json", f"{part}.json"):
            yield annotations / name, [pictures / part, root / part, root / part / "images", pictures, root]
    if split == "train":
        yield from ((root / name, [pictures, root]) for name in FILES)
        yield annotations / "instances_default.json", [pictures / "default", pictures, root]


def _first(root: Path, split: str, layouts: Iterable[Layout], kind: str = "COCO", hint: str = "") -> Layout:
    """The first layout whose annotation file is there. UserError with a hint if none is."""
    tried = []
    for file, folders in layouts:
        if file.is_file():
            return file, folders
        tried.append(file.relative_to(root).as_posix())
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one of {kind} as --dataset_root")
    whole = next((name for name in FILES if kind == "COCO" and (root / name).is_file()), None)
    if whole:
        raise UserError(
            f"{root}: holds one set without parts, {whole}, which is 'train'; put that for '{split}' at {tried[0]}"
        )
    names = f"none of {', '.join(tried)}" if len(tried) > 1 else f"no {tried[0]}"
    raise UserError(f"{root}: has no annotations of {kind} for '{split}', {names}{hint or '; put them there'}")


def _named(root: Path, file: Path) -> Layout:
    part = file.stem.removeprefix("instances_")
    return file, [root / part, root / "images" / part, file.parent / "images", file.parent, root / "images", root]


def _image_folder(folders: Sequence[Path], index: CocoIndex) -> Path:
    """The folder that holds the first image of the list, or the first that holds any; says how many are missing."""
    names = [(name + suffix).replace("\\", "/") for name, suffix in zip(index.names, index.suffixes, strict=True)]
    there = [folder for folder in folders if os.path.isdir(folder)]
    there.sort(key=lambda folder: not os.path.isfile(folder / names[0]))
    for folder in there:
        missing = _missing(folder, names)
        if len(missing) < len(names) or os.path.isfile(folder / names[0]):
            if missing:
                _log.warning("%s: %d of %d images are not there: %s", folder, len(missing), len(names), missing[0])
            return folder
    looked = ", ".join(map(str, there or folders))
    raise UserError(f"{index.path}: none of its {len(names)} images, {names[0]} first, is in {looked}; name the folder")


def _missing(folder: Path, names: list[str]) -> list[str]:
    """Those of the files that are not in the folder; asks for lists of files, which is cheaper than for each."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        inner, _, last = name.rpartition("/")
        if inner not in present:
            try:
                present[inner] = {normalize("NFC", each) for each in os.listdir(folder / inner)}
            except OSError:
                present[inner] = set()
        if normalize("NFC", last) not in present[inner]:
            missing.append(name)
    return missing


def _code_of(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Run-length code of a segmentation of any of COCO's kinds. ValueError for what is none of this image."""
    if isinstance(segmentation, list):
        return _code_of_rings(segmentation, size)
    if not isinstance(segmentation, dict):
        raise ValueError("'segmentation' must be a list of outlines or a run-length code")
    said = segmentation.get("size")
    if not isinstance(said, list) or said != list(size):
        raise ValueError(f"its run-length code must be for a size of {list(size)}, that of the image")
    return {"size": list(size), "counts": segmentation.get("counts")}


def _fills(code: dict[str, Any], size: tuple[int, int]) -> bool:
    try:
        CroppedMasks.from_rle([code], size)
    except ValueError:
        return False
    return True


def _code_of_rings(rings: list[Any], size: tuple[int, int]) -> dict[str, Any]:
    """Drawn on the whole canvas: COCO rounds to fifths of a pixel, which a moved origin would do differently."""
    from faster_coco_eval import mask as coco_mask

    length, outlines = 0.0, []
    for ring in rings:
        points = _numbers(ring)
        if points is None or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("an outline must be a list of at least three points of finite numbers [x1, y1, x2, y2, …]")
        steps = np.diff(points.reshape(-1, 2), axis=0, append=points[None, :2])
        length += float(np.abs(steps).max(axis=1).sum())
        if length > MAX_OUTLINE or np.abs(points).max() > MAX_OUTLINE:
            raise ValueError(f"an outline leads more than {MAX_OUTLINE} pixels away or along")
        outlines.append(points.tolist())
    return dict(coco_mask.merge(coco_mask.frPyObjects(outlines, *size)))


def _numbers(ring: Any) -> NDArray[np.float64] | None:
    """A list of plain numbers as an array; None for anything else."""
    try:
        values = np.asarray(ring) if isinstance(ring, list) else None
    except ValueError:
        return None
    if values is None or values.ndim != 1 or values.dtype.kind not in "iuf":
        return None
    return values.astype(np.float64)
