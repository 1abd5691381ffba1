"""Images with label images, in the layouts of StarDist, Cellpose, and `rgb_*` with `labels_*`."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.checks import Tally, TallyByImage, check_size
from datasets.readers.folders import check_pairs, index_by_stem, list_files, list_names
from datasets.readers.label_kinds import LabelKind, count_in_many_pieces, find_kind, remove_void
from datasets.readers.splitting import TEST_FRACTION, MissingSplit, check_split, choose_split, split_images
from maskrcnn.config import UserError
from maskrcnn.images.reading import get_stored_values, open_image_file, read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

TEST_FOLDERS = ("test", "val", "validation")
MAX_LABEL = 2**31 - 1
_LABEL_FOLDERS = ("masks", "labels")
_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F"}
_CELLPOSE_OUTPUTS = ("_flows", "_outlines", "_cp_output", "_seg")
_LOSSY = ("JPEG", "MPO")
_TIFF = (".tif", ".tiff")
MAX_SAMPLED = 16  # label images from which the kind of all is detected
_ORIENTATION = 274
_DESCRIPTION = 270  # TIFF tag in which ImageJ stores the number of images in the file


class LabelImages:
    """One split of images with label images, where each object's pixels have its number and 0 is background.

    A folder contains `images/*` with `masks/*` or `labels/*` of the same names (StarDist); or `NAME.*` or `NAME_img.*`
    with `NAME_masks.*` or `NAME_cp_masks.*` (Cellpose); or `rgb_NAME.*` with `labels_NAME.*`. There is one class. The
    numbers are the instance ids and may have gaps. Binary masks, whose connected components are the objects, and
    backgrounds of 1 or 255 are detected from a sample of the files and counted.
    """

    has_masks = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        split_file: str | Path | None = None,
        subsetseed: int = 12345,
        class_name: str = "object",
        test_fraction: float = TEST_FRACTION,
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
            test_fraction: fraction of the images drawn for the test split.

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
        if folder is None:
            listed = split_images(numbers, Path(root), Path(root), split_file, subsetseed, test_fraction)
            names = choose_split(listed, split, root)
        self._pairs = [pairs[name] for name in names]
        self.image_names = names
        self.image_ids = [numbers[name] for name in names]
        opening = Tally()
        self._kind = _detect_kind([labels for _, labels in self._pairs], opening)
        self._tallies = TallyByImage(len(names), opening)

    @property
    def counts(self) -> Counter[str]:
        """Number of dropped or corrected annotations so far, by rule."""
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self._pairs)

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
        image, numbers = read_image(image_path), read_numbers(label_path)
        check_size(label_path, numbers.shape, image.shape[1:])
        objects = self._kind.to_objects(numbers.numpy())
        labels = torch.from_numpy(remove_void(objects))
        ids = torch.unique(labels[labels > 0]).long()
        masks = CroppedMasks.from_label_image(labels, ids)
        tally = self._tallies.of(index)
        tally.add(
            "label images whose border of 255 is not read as an object",
            str(label_path),
            int(objects.max() > labels.max()),
        )
        covers_most = len(ids) > 0 and 2 * int(masks.areas().max()) > labels.numel()
        tally.add("images mostly covered by one object", str(label_path), int(covers_most))
        return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def _detect_kind(paths: Sequence[Path], tally: Tally) -> LabelKind:
    """Detect the kind of the label images from a sample; unusual ones are counted."""
    numbers = []
    for path in paths[:: -(-len(paths) // MAX_SAMPLED)]:
        with suppress(UserError):  # raised again when the image is read, where it can be skipped
            numbers.append(read_numbers(path).numpy())
    kind = find_kind(numbers)
    where = str(paths[0].parent)
    if kind.background:
        tally.add("label images read with a background other than 0", where, len(paths))
    if kind.is_binary:
        tally.add("label images of one value read as masks, split into connected components", where, len(paths))
    rule = "numbers in many pieces (classes instead of objects?) in a sample of the label images"
    tally.add(rule, where, sum(count_in_many_pieces(remove_void(kind.to_objects(each))) for each in numbers))
    return kind


def read_numbers(path: Path) -> Tensor:
    """Read the instance numbers of a label image of any bit depth; floating-point files must have integer values.

    Returns:
        int32 [H, W], 0 for background.

    Raises:
        UserError: If the file is unreadable, a JPEG, in color or has several pages, or a value is not an integer from 0
            to 2³¹ − 1.
    """
    values = _tiff_values(path) if path.suffix.lower() in _TIFF else None
    if values is None:
        values = _read_values(path)
    values = values.astype(np.float64) if values.dtype == np.float16 else values
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise UserError(f"{path}: instance numbers must be integers; save them as an integer type")
    if values.size and not (values.min() >= 0 and values.max() <= MAX_LABEL):
        raise UserError(f"{path}: has instance numbers out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(values.astype(np.int32))


def _read_values(path: Path) -> NDArray[Any]:
    """Return the values of a single-channel image, [H, W]."""
    with open_image_file(path) as image:
        _check_pages(path, image)
        if image.format in _LOSSY:
            raise UserError(f"{path}: JPEG alters instance numbers; save the labels as PNG or TIFF instead")
        if image.mode not in _MODES:
            raise UserError(f"{path}: labels must have one channel of instance numbers; the mode is {image.mode}")
        return get_stored_values(image)


def _tiff_values(path: Path) -> NDArray[Any] | None:
    """Return the stored values of a TIFF with one page and channel; None for any other file or compression."""
    import tifffile  # takes a tenth of a second to import

    logger = logging.getLogger("tifffile")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            is_plain = page.samplesperpixel == 1 and len(page.shape) == 2 and page.tags.valueof(_ORIENTATION, 1) == 1
            if not is_plain or len(tiff.pages) > 1 or page.size > (Image.MAX_IMAGE_PIXELS or 0):
                return None
            _check_imagej(path, page.description)
            values = np.asarray(page.asarray())
            return values if values.ndim == 2 and values.dtype.kind in "biuf" else None
    except UserError:
        raise
    except Exception:  # invalid files raise many kinds; Pillow's error is reported instead
        return None
    finally:
        logger.disabled = was_disabled


def _check_pages(path: Path, image: Image.Image) -> None:
    _check_imagej(path, getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))
    if getattr(image, "n_frames", 1) > 1:
        raise _make_pages_error(path)


def _check_imagej(path: Path, description: object) -> None:
    """Raise a UserError if the description that ImageJ stores on the first page counts several images."""
    imagej = re.match(r"ImageJ=[^\0]*?\bimages=(\d{1,9})\b", description) if isinstance(description, str) else None
    if imagej is not None and int(imagej[1]) > 1:
        raise _make_pages_error(path)


def _make_pages_error(path: Path) -> UserError:
    return UserError(f"{path}: has several pages; save each page as a separate file (stacks are not supported)")


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
        images, labels = index_by_stem(list_files(folder / "images")), index_by_stem(list_files(beside[0]))
    else:
        images, labels = _separate(index_by_stem(list_files(folder)))
    check_pairs(images, labels, "labels")
    if not images:
        layouts = "images/ with masks/ or labels/, NAME with NAME_masks, or rgb_NAME with labels_NAME"
        raise UserError(f"{folder}: has no images with labels; it should contain {layouts}")
    return {name: (images[name], labels[name]) for name in sorted(images)}


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
    masks = {stem: path for stem, path in files.items() if stem.endswith("_masks")}
    drawn = {s.removesuffix("_masks"): path for s, path in masks.items() if not s.endswith("_cp_masks")}
    labels = drawn or {stem.removesuffix("_cp_masks"): path for stem, path in masks.items()}  # manual labels first
    rest = {stem: path for stem, path in files.items() if stem not in masks and not _is_output(stem, files)}
    names = {stem: _cellpose_name(stem, labels) for stem in rest}
    if labels and len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise UserError(f"{rest[twice]}: {twice} and {twice}_img both match the same labels; remove one")
    return {names[stem]: path for stem, path in rest.items()}, labels


def _cellpose_name(stem: str, labels: dict[str, Path]) -> str:
    return stem.removesuffix("_img") if stem not in labels else stem


def _is_output(stem: str, files: dict[str, Path]) -> bool:
    """Return whether a file is output of Cellpose for an image in the folder."""
    return any(stem.endswith(end) and stem.removesuffix(end) in files for end in _CELLPOSE_OUTPUTS)
