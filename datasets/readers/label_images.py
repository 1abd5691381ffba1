"""Images with label images, in the layouts of StarDist, Cellpose, and `rgb_*` with `labels_*`."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.checks import TalliedImages, Tally, TallyByImage, check_size
from datasets.config import ReadingConfig
from datasets.readers.folders import check_pairs, index_by_stem, list_files, list_names
from datasets.readers.label_files import (
    FROM_COLORS,
    SeveralPages,
    make_range_error,
    read_label_file,
    read_stack,
)
from datasets.readers.label_kinds import LabelKind, count_in_many_pieces, find_kind, remove_void, split_components
from datasets.readers.splitting import TEST_FRACTION, MissingSplit, check_split, choose_split, is_drawn, split_images
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

TEST_FOLDERS = ("test", "val", "validation")
TILE = "-labelled"  # of QuPath
_ENDINGS = (TILE, "_cp_masks", "_masks", "_mask", "_labels", "_label")
SEG = "_seg.npy"  # of Cellpose
_LABEL_FOLDERS = ("masks", "labels")
_CELLPOSE_OUTPUTS = ("_flows", "_outlines", "_cp_output", "_seg")
SPLIT = "pieces of objects made objects of their own (--split_components)"
MAX_SAMPLED = 16  # label images from which the kind of all is detected


class LabelImages(TalliedImages):
    """One split of images with label images, where each object's pixels have its number and 0 is background.

    A folder contains `images/*` with `masks/*` or `labels/*` of the same names (StarDist); or `NAME.*` or `NAME_img.*`
    with `NAME_masks.*` or `NAME_cp_masks.*` (Cellpose); or `rgb_NAME.*` with `labels_NAME.*`; or `NAME.*` with
    `NAME-labelled.*` (QuPath). There is one class. The numbers are the instance ids and may have gaps. Binary masks,
    whose connected components are the objects, and backgrounds other than 0 are detected from a sample of the files
    and counted. Colors are read as numbers. Each page of a multi-page TIFF file is the mask of one object.
    """

    has_ids = False  # files have none
    has_masks = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        split_file: str | Path | None = None,
        subsetseed: int = 12345,
        class_name: str = "object",
        test_fraction: float = TEST_FRACTION,
        reading: ReadingConfig | None = None,
    ) -> None:
        """Open the split.

        If there are both `test` and one of `val` and `validation`, the latter is the split "val"; otherwise the one
        that exists is the test split. A single folder is split according to `split_file`, or else `split.json` or
        `classes.csv` (class of each image) in it, or else at random.

        Args:
            root: folder that contains `train` and one or two of `test`, `val` and `validation`; or one folder to split.
            split: "train", "val" or "test".
            split_file: JSON or CSV file of the split.
            subsetseed: random seed of the split.
            class_name: name of the only class.
            test_fraction: fraction of the images drawn for the test split; 0: none is drawn.
            reading: options for reading label images.

        Raises:
            UserError: If a folder, the images or the split do not exist, images and labels do not match, or the split
                file is invalid, lists an unknown image or cannot be used.
        """
        check_split(split)
        self.class_names: tuple[str, ...] = (class_name,)
        folder = _find_folder(Path(root), split)
        if folder is not None and split_file is not None:
            raise UserError(f"--split_file {split_file}: {root} has its own train and test folders")
        pairs = _find_pairs(folder or Path(root))
        numbers = {name: number for number, name in enumerate(pairs)}
        names = list(pairs)
        self.is_drawn = folder is None and is_drawn(Path(root), split_file)
        if folder is None:
            listed = split_images(numbers, Path(root), Path(root), split_file, subsetseed, test_fraction)
            names = choose_split(listed, split, root)
        self._pairs = [pairs[name] for name in names]
        self.image_names = names
        self.image_ids = [numbers[name] for name in names]
        opening = Tally()
        reading = reading or ReadingConfig()
        self._split_components = reading.split_components
        self._kind = _detect_kind([labels for _, labels in self._pairs], reading.label_background, opening)
        self._tallies = TallyByImage(len(names), opening)

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        return self._pairs[index][0]

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return [self._pairs[index][1]]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable or the labels differ in size from the image.
        """
        image_path, label_path = self._pairs[index]
        image, tally = read_image(image_path), self._tallies.of(index)
        size = (int(image.shape[1]), int(image.shape[2]))
        try:
            masks, ids = self._read_objects(label_path, size, tally)
        except SeveralPages:
            masks, ids = read_stack(label_path, size, tally)
        covers_most = len(ids) > 0 and 2 * int(masks.areas().max()) > size[0] * size[1]
        tally.add("images mostly covered by one object", str(label_path), int(covers_most))
        return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)

    def _read_objects(self, path: Path, size: tuple[int, int], tally: Tally) -> tuple[CroppedMasks, Tensor]:
        """Read the masks and the numbers of the objects in a label image."""
        numbers, is_color = read_label_file(path)
        check_size(path, numbers.shape, size)
        if numbers.size and numbers.min() < min(0, self._kind.background):
            raise make_range_error(path)
        objects = self._kind.to_objects(numbers)
        labels = remove_void(objects)
        border = int(objects.max(initial=0) > labels.max(initial=0))
        tally.add("label images whose border of 255 is not read as an object", str(path), border)
        tally.add(FROM_COLORS, str(path), int(is_color))
        if self._split_components:
            labels, count = split_components(labels)
            tally.add(SPLIT, str(path), count)
        ids = np.unique(labels[labels > 0]).astype(np.int64)
        if labels.dtype.itemsize > 4:  # numbers that may not fit into the int32 of label images
            places = np.where(labels > 0, np.searchsorted(ids, labels) + 1, 0).astype(np.int32)
            masks = CroppedMasks.from_label_image(torch.from_numpy(places), torch.arange(1, len(ids) + 1))
        else:
            masks = CroppedMasks.from_label_image(torch.from_numpy(labels), torch.from_numpy(ids))
        return masks, torch.from_numpy(ids)


def _detect_kind(paths: Sequence[Path], background: int | None, tally: Tally) -> LabelKind:
    """Detect the kind of the label images from a sample; unusual ones are counted."""
    numbers = []
    for path in paths[:: -(-len(paths) // MAX_SAMPLED)]:
        with suppress(UserError):  # raised again when the image is read, where it can be skipped
            numbers.append(read_label_file(path).numbers)
    kind = find_kind(numbers, background)
    where = str(paths[0].parent)
    if kind.background:
        tally.add("label images read with a background other than 0", where, len(paths))
    if kind.is_binary:
        tally.add("label images of one value read as masks, split into connected components", where, len(paths))
    rule = "numbers in many pieces (classes instead of objects?) in a sample of the label images"
    tally.add(rule, where, sum(count_in_many_pieces(remove_void(kind.to_objects(each))) for each in numbers))
    return kind


def _find_folder(root: Path, split: str) -> Path | None:
    """Return the folder of the split; None if `root` has no folders for splits."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --dataset_root to the folder of the images")
    train = [root / "train"] if (root / "train").is_dir() else []
    others = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    found = {"train": train[:1], "val": others[1:2], "test": others[:1]}
    if not train and not others:
        return None
    if not train:
        raise UserError(f"{root}: has {others[0].name} but no folder train; add it, or use {others[0].name} alone")
    if not found[split]:
        raise MissingSplit(f"{root}: has train but no folder for '{split}', such as {split}; add it")
    return found[split][0]


def _find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Find pairs of image and label image, by name."""
    beside = [folder / name for name in _LABEL_FOLDERS if (folder / name).is_dir()]
    if (folder / "images").is_dir() and beside:
        if len(beside) > 1:
            raise UserError(f"{folder}: has both masks and labels; keep the one with instance numbers")
        _check_format(beside[0])
        images = index_by_stem(list_files(folder / "images"))
        labels = _remove_endings(index_by_stem(list_files(beside[0])), images)
    else:
        images, labels = _separate(index_by_stem(list_files(folder)))
        if not labels:
            _check_cellpose(folder)
    check_pairs(images, labels, "labels")
    if not images:
        layouts = "images/ with masks/ or labels/, NAME with NAME_masks, or rgb_NAME with labels_NAME"
        raise UserError(f"{folder}: has no images with labels; it should contain {layouts}")
    return {name: (images[name], labels[name]) for name in sorted(images)}


def _check_cellpose(folder: Path) -> None:
    """Raise a UserError for Cellpose's `_seg.npy` without label images: it is a pickle, which could run any code."""
    path = next((each for each in list_files(folder, (".npy",)) if each.name.endswith(SEG)), None)
    if path is not None:
        stem = path.name.removesuffix(SEG)
        raise UserError(
            f"{path}: is a Python pickle, which is not read because it could run any code; save the masks as "
            f"{stem}_cp_masks.png or .tif, with 'Save masks as PNG/tif' in Cellpose's window, or in Python with "
            "cellpose.io.save_masks"
        )


def _check_format(labels: Path) -> None:
    """Raise a UserError for labels in YOLO format: one text file per image, possibly in a folder per split."""
    folders = [labels, *(labels / name for name in list_names(labels) if (labels / name).is_dir())]
    text = next((each / name for each in folders for name in list_names(each) if name.lower().endswith(".txt")), None)
    if text is not None and not any(list_files(each) for each in folders):
        raise UserError(f"{text}: text files with labels are YOLO format, not label images; use --dataset=yolo")


def _separate(files: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Separate images from labels in one folder by prefix or ending of the file name."""
    if any(stem.startswith("labels_") for stem in files):
        images = {stem[len("rgb_") :]: path for stem, path in files.items() if stem.startswith("rgb_")}
        return images, {stem[len("labels_") :]: path for stem, path in files.items() if stem.startswith("labels_")}
    tiles = {stem.removesuffix(TILE): path for stem, path in files.items() if stem.endswith(TILE)}
    if tiles:
        return {stem: path for stem, path in files.items() if not stem.endswith(TILE)}, tiles
    masks = {stem: path for stem, path in files.items() if stem.endswith("_masks")}
    drawn = {s.removesuffix("_masks"): path for s, path in masks.items() if not s.endswith("_cp_masks")}
    labels = drawn or {stem.removesuffix("_cp_masks"): path for stem, path in masks.items()}  # manual labels first
    rest = {stem: path for stem, path in files.items() if stem not in masks and not _is_output(stem, files)}
    names = {stem: _cellpose_name(stem, labels) for stem in rest}
    if labels and len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise UserError(f"{rest[twice]}: {twice} and {twice}_img both match the same labels; remove one")
    return {names[stem]: path for stem, path in rest.items()}, labels


def _remove_endings(labels: dict[str, Path], images: dict[str, Path]) -> dict[str, Path]:
    """Give label images the names of their images if these differ only in a common ending."""
    names: dict[str, Path] = {}
    for stem, path in labels.items():
        shorter = (stem.removesuffix(ending) for ending in _ENDINGS if stem.endswith(ending))
        name = stem if stem in images else next((each for each in shorter if each in images), stem)
        if name in names:
            raise UserError(f"{path}: is for the same image as {names[name].name}; remove one")
        names[name] = path
    return names


def _cellpose_name(stem: str, labels: dict[str, Path]) -> str:
    return stem.removesuffix("_img") if stem not in labels else stem


def _is_output(stem: str, files: dict[str, Path]) -> bool:
    """Return whether a file is output of Cellpose for an image in the folder."""
    return any(stem.endswith(end) and stem.removesuffix(end) in files for end in _CELLPOSE_OUTPUTS)
