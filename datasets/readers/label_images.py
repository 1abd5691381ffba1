"""Folders of images with label images beside them: the layouts of StarDist, Cellpose and `rgb_*` with `labels_*`."""

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
from datasets.readers.folders import by_stem, check_pairs, files_in, names_in
from datasets.readers.label_kinds import LabelKind, count_in_many_pieces, find_kind, without_void
from datasets.readers.splitting import TEST_FRACTION, EmptySplit, MissingSplit, check_split, split_images
from maskrcnn.config import UserError
from maskrcnn.images.reading import opened, read_image, stored_values
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

TEST_FOLDERS = ("test", "val", "validation")
MAX_LABEL = 2**31 - 1
_LABEL_FOLDERS = ("masks", "labels")
_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F"}
_CELLPOSE_OUTPUTS = ("_flows", "_outlines", "_cp_output", "_seg")
_LOSSY = ("JPEG", "MPO")
_TIFF = (".tif", ".tiff")
LOOKED_AT = 16  # label images that say what kind all are of
_ORIENTATION = 274
_DESCRIPTION = 270  # the TIFF tag in which ImageJ says how many images follow the first


class LabelImages:
    """One split of images with label images, in which an object's pixels have its number and 0 is background.

    In a folder: `images/*` with `masks/*` or `labels/*` of the same names (StarDist); or `NAME.*` or `NAME_img.*` with
    `NAME_masks.*` (Cellpose), else `NAME_cp_masks.*`; or `rgb_NAME.*` with `labels_NAME.*`. Numbers may have gaps and
    are the ids. There is one class. Whether the files are masks instead, of which the connected pieces are objects, or
    have 1 or 255 as background, is found from some of them and counted.
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
        """``root`` holds a folder `train` and one of `test`, `val` and `validation`; or it is one folder to split.

        With both `test` and one of the others, that one is the split "val"; else it is the test split. The split of
        one folder comes from ``split_file``, else from `split.json` or `classes.csv` in it (of what kind each image
        is); else ``subsetseed`` draws ``test_fraction`` of the images for the test split.

        Raises:
            UserError: no such folder, images or split; an image without labels or labels without image; a split file
                that is broken, names an image that is not there, or would not be used.
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
            names = split_images(numbers, Path(root), Path(root), split_file, subsetseed, test_fraction)[split]
        if not names:
            raise EmptySplit(f"{root}: the split leaves no image for '{split}'")
        self._pairs = [pairs[name] for name in names]
        self.image_names = names
        self.image_ids = [numbers[name] for name in names]
        opening = Tally()
        self._kind = _look_at_some([labels for _, labels in self._pairs], opening)
        self._tallies = TallyByImage(len(names), opening)

    @property
    def counts(self) -> Counter[str]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self._pairs)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return self._pairs[index][0]

    def annotation_files(self, index: int) -> list[Path]:
        """The files from which the objects of an image are read."""
        return [self._pairs[index][1]]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its objects. UserError for an unreadable file or sizes that differ."""
        image_path, label_path = self._pairs[index]
        _check_single(image_path)
        image, numbers = read_image(image_path), read_numbers(label_path)
        check_size(label_path, numbers.shape, image.shape[1:])
        objects = self._kind.to_objects(numbers.numpy())
        labels = torch.from_numpy(without_void(objects))
        ids = torch.unique(labels[labels > 0]).long()
        masks = CroppedMasks.from_label_image(labels, ids)
        tally = self._tallies.of(index)
        tally.add(
            "label images whose border of 255 is taken for no object",
            str(label_path),
            int(objects.max() > labels.max()),
        )
        covers_most = len(ids) > 0 and 2 * int(masks.areas().max()) > labels.numel()
        tally.add("images of which one object covers most", str(label_path), int(covers_most))
        return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def _look_at_some(paths: Sequence[Path], tally: Tally) -> LabelKind:
    """The kind of the label images, from a few of them; what is unusual is counted."""
    numbers = []
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        with suppress(UserError):  # raised again when its sample is asked for, where it may be left out
            numbers.append(read_numbers(path).numpy())
    kind = find_kind(numbers)
    where = str(paths[0].parent)
    if kind.background:
        tally.add("label images with a background of another number than 0 read", where, len(paths))
    if kind.is_binary:
        tally.add("label images of one value read as masks, split into connected pieces", where, len(paths))
    rule = "numbers in many pieces (classes instead of objects?) in the label images looked at first"
    tally.add(rule, where, sum(count_in_many_pieces(without_void(kind.to_objects(each))) for each in numbers))
    return kind


def read_numbers(path: Path) -> Tensor:
    """Instance numbers int32 [H, W] of a label image of any depth, of whole floating-point numbers too.

    Raises:
        UserError: unreadable, JPEG, colours, several pages, a number that is not whole or not from 0 to 2³¹ − 1.
    """
    values = _tiff_values(path) if path.suffix.lower() in _TIFF else None
    if values is None:
        values = _read_values(path)
    values = values.astype(np.float64) if values.dtype == np.float16 else values
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise UserError(f"{path}: instance numbers must be whole; save them as integers")
    if values.size and not (values.min() >= 0 and values.max() <= MAX_LABEL):
        raise UserError(f"{path}: has instance numbers out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(values.astype(np.int32))


def _read_values(path: Path) -> NDArray[Any]:
    """What one channel holds, [H, W]."""
    with opened(path) as image:
        _check_pages(path, image)
        if image.format in _LOSSY:
            raise UserError(f"{path}: JPEG blurs instance numbers; save the labels as PNG or TIFF instead")
        if image.mode not in _MODES:
            raise UserError(f"{path}: labels must be one channel of instance numbers, this is {image.mode}")
        return stored_values(image)


def _tiff_values(path: Path) -> NDArray[Any] | None:
    """The numbers of a TIFF of one page and channel, as they are stored; None for any other file, or compression."""
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
    except Exception:  # whatever broken files raise: what Pillow says of them is raised instead
        return None
    finally:
        logger.disabled = was_disabled


def _check_single(path: Path) -> None:
    """UserError for an image file of several pages."""
    if path.suffix.lower() in _TIFF:
        with opened(path) as image:
            _check_pages(path, image)


def _check_pages(path: Path, image: Image.Image) -> None:
    _check_imagej(path, getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))
    if getattr(image, "n_frames", 1) > 1:
        raise _several_pages(path)


def _check_imagej(path: Path, description: object) -> None:
    """UserError where ImageJ says in the first page's description that more images follow."""
    imagej = re.match(r"ImageJ=[^\0]*?\bimages=(\d{1,9})\b", description) if isinstance(description, str) else None
    if imagej is not None and int(imagej[1]) > 1:
        raise _several_pages(path)


def _several_pages(path: Path) -> UserError:
    return UserError(f"{path}: holds several pages; save each as a file of its own (stacks are not read)")


def _find_folder(root: Path, split: str) -> Path | None:
    """The split's own folder; None where ``root`` has none for either."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one of the images as --dataset_root")
    train = [root / "train"] if (root / "train").is_dir() else []
    others = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    found = {"train": train[:1], "val": others[1:2], "test": others[:1]}
    if not train and not others:
        return None
    if not train:
        raise UserError(f"{root}: holds {others[0].name} but no folder train; add it, or give that one")
    if not found[split]:
        raise MissingSplit(f"{root}: holds train but no folder for '{split}', such as {split}; add it")
    return found[split][0]


def _find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Image and label image by name."""
    beside = [folder / name for name in _LABEL_FOLDERS if (folder / name).is_dir()]
    if (folder / "images").is_dir() and beside:
        if len(beside) > 1:
            raise UserError(f"{folder}: has both masks and labels; keep the one that holds instance numbers")
        _check_format(beside[0])
        images, labels = by_stem(files_in(folder / "images")), by_stem(files_in(beside[0]))
    else:
        images, labels = _flat(by_stem(files_in(folder)))
    check_pairs(images, labels, "labels")
    if not images:
        layouts = "images/ with masks/ or labels/, NAME with NAME_masks, or rgb_NAME with labels_NAME"
        raise UserError(f"{folder}: holds no images with labels; it should have {layouts}")
    return {name: (images[name], labels[name]) for name in sorted(images)}


def _check_format(labels: Path) -> None:
    """UserError for a folder of labels in YOLO's format, one text file an image, maybe in a folder for each split."""
    folders = [labels, *(labels / name for name in names_in(labels) if (labels / name).is_dir())]
    text = next((each / name for each in folders for name in names_in(each) if name.lower().endswith(".txt")), None)
    if text is not None and not any(files_in(each) for each in folders):
        raise UserError(
            f"{text}: labels of text files are YOLO's format, these are no label images; convert them to COCO's format "
            "and use --dataset=coco"
        )


def _flat(files: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and labels by name in one folder, after their prefixes or their endings."""
    if any(stem.startswith("labels_") for stem in files):
        images = {stem[len("rgb_") :]: path for stem, path in files.items() if stem.startswith("rgb_")}
        return images, {stem[len("labels_") :]: path for stem, path in files.items() if stem.startswith("labels_")}
    masks = {stem: path for stem, path in files.items() if stem.endswith("_masks")}
    drawn = {s.removesuffix("_masks"): path for s, path in masks.items() if not s.endswith("_cp_masks")}
    labels = drawn or {stem.removesuffix("_cp_masks"): path for stem, path in masks.items()}  # of a person, else found
    rest = {stem: path for stem, path in files.items() if stem not in masks and not _is_output(stem, files)}
    names = {stem: _cellpose_name(stem, labels) for stem in rest}
    if labels and len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise UserError(f"{rest[twice]}: {twice} and {twice}_img would both be the image of its labels; remove one")
    return {names[stem]: path for stem, path in rest.items()}, labels


def _cellpose_name(stem: str, labels: dict[str, Path]) -> str:
    return stem.removesuffix("_img") if stem not in labels else stem


def _is_output(stem: str, files: dict[str, Path]) -> bool:
    """Whether a file is one that Cellpose writes beside the image it is of."""
    return any(stem.endswith(end) and stem.removesuffix(end) in files for end in _CELLPOSE_OUTPUTS)
