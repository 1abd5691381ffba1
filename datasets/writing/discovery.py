"""Parts of a data set in a folder."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from datasets.classes import ClassMap
from datasets.config import ReadingConfig
from datasets.interface import DetectionDataset
from datasets.readers.coco import FILES, OTHER_FILES, YEARS, Coco
from datasets.readers.splitting import SPLITS, MissingSplit
from datasets.readers.tables import read_lines
from datasets.readers.voc import Voc
from datasets.readers.yolo import Yolo, list_parts
from datasets.registry import DatasetName, finish, open_dataset, parse_names
from maskrcnn.config import UserError

_log = logging.getLogger("datasets")
PARTS = ("train", "val", "test")
_COCO_FOLDERS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
_COCO_WHOLE = (*FILES, "annotations/instances_default.json")
_YEARS = (*map(str, YEARS), "")
_MAX_CHECKED = 20
# Readers of these take "val" as the test set if there is no "test".
VAL_IS_TEST = ("coco", "voc", "labels", "yolo", "labelme", "qupath")
_CSV = "annotation/anno-{}.csv"


def open_parts(
    root: Path,
    name: str,
    wanted: tuple[str, ...] = (),
    reading: ReadingConfig | None = None,
    skip_bad: bool = False,
) -> dict[str, DetectionDataset]:
    """Open the parts of a data set.

    Parts are named as in the files; `get_roles` returns what training uses them for.

    Args:
        root: folder of the data set.
        name: data set format.
        wanted: parts to open. Default: all.
        reading: options for reading annotations.
        skip_bad: leave out invalid annotations, and count them.

    Returns:
        Data sets by part: "train", "val" and "test".

    Raises:
        UserError: If the name is unknown, or a part is invalid or missing.
    """
    openers = find_openers(root, name, reading, skip_bad)
    if missing := [part for part in wanted if part not in openers]:
        raise UserError(f"{root}: has no part '{missing[0]}'; use {', '.join(openers)}")
    chosen = [part for part in PARTS if part in openers and part in (wanted or openers)]
    try:
        parts = {part: openers[part]() for part in chosen}
        ClassMap.parse(reading or ReadingConfig()).check(parts.values())
        return parts
    except UserError as error:
        hint = f" (use --parts={chosen[0]} or --parts={chosen[-1]} for a single part)" if len(chosen) > 1 else ""
        raise UserError(f"{error}{hint}") from error


def get_roles(name: str, parts: Iterable[str]) -> dict[str, str]:
    """Return the split as which training uses each part of a data set.

    Args:
        name: data set format.
        parts: all parts of the data set, as `find_openers` names them, or as they were written.
    """
    parts = list(parts)
    val_is_test = "test" not in parts and parse_names(name)[0].name in VAL_IS_TEST
    return {part: "test" if part == "val" and val_is_test else part for part in parts}


Openers = dict[str, Callable[[], DetectionDataset]]


def find_openers(root: Path, name: str, reading: ReadingConfig | None = None, skip_bad: bool = False) -> Openers:
    """Return a function that opens each part that seems to exist; if none does, the parts that are required.

    Raises:
        UserError: If the name is unknown.
    """
    named = parse_names(name)
    if len(named) > 1:
        raise UserError(f"--dataset={name}: only one data set can be read at a time; use {named[0].text}")
    return _openers(root, named[0], reading or ReadingConfig(), skip_bad)


def _openers(root: Path, named: DatasetName, reading: ReadingConfig, skip_bad: bool) -> Openers:
    direct = _find_own_parts(root, named, reading, skip_bad)
    if direct:
        return {part: partial(_open_and_finish, opener, reading) for part, opener in direct.items()}
    if named.name in ("shapes", "ellipses"):
        there = [part for part in PARTS if (root / part).is_dir()]
    elif named.name == "cst":
        names = {file.name for file in find_cst_files(root)}
        there = [part for part in PARTS if Path(_CSV.format(part)).name in names]
    else:
        there = [part for part in SPLITS if _is_there(root, part, named.text)]

    def opener(part: str) -> Callable[[], DetectionDataset]:
        # No test set is drawn: images without a split are one part.
        return lambda: open_dataset(named.text, root, part, reading=reading, skip_bad=skip_bad, test_fraction=0)

    return {part: opener(part) for part in there or ("train", "test")}


def _open_and_finish(opener: Callable[[], DetectionDataset], reading: ReadingConfig) -> DetectionDataset:
    return finish(opener(), reading)


def _find_own_parts(root: Path, named: DatasetName, reading: ReadingConfig, skip_bad: bool) -> Openers:
    """Return the parts by their own names, of formats whose "val" may be read as the test set; else nothing."""
    kind, variant = named.name, named.rest
    if kind == "coco":
        files = dict(find_coco_files(root, variant))
        return {part: _coco_opener(root, file, reading, skip_bad) for part, file in files.items()}
    if kind == "voc":
        return _voc_lists(root, variant, reading)
    if kind == "yolo":
        return {part: partial(Yolo, root, "train", skip_bad, part) for part in list_parts(root)}
    return {}


def _is_there(root: Path, part: str, name: str) -> bool:
    """Return whether a part exists; other errors are raised when it is opened."""
    try:
        open_dataset(name, root, part, test_fraction=0)
    except MissingSplit:
        return False
    except UserError:
        return part != "val"
    return True


# ---- COCO


def find_coco_files(root: Path, year: str) -> Iterator[tuple[str, Path]]:
    """Yield annotation files by part, of one year: the training set of 2017 contains most validation images of 2014."""
    for each in (year,) if year else _YEARS:
        found = {part: file for part in PARTS if (file := _coco_file(root, part, each)) is not None}
        if found:
            yield from found.items()
            return
    whole = next((root / name for name in _COCO_WHOLE if (root / name).is_file()), None)
    if whole is not None and not year:
        yield "train", whole


def _coco_file(root: Path, part: str, year: str) -> Path | None:
    files = [root / "annotations" / f"instances_{folder}{year}.json" for folder in _COCO_FOLDERS[part]]
    if not year:
        files += [root / pattern.format(part) for pattern in OTHER_FILES]
        files = [root / folder / name for folder in _COCO_FOLDERS[part] for name in FILES] + files
        files += [root / "annotations" / f"{folder}.json" for folder in _COCO_FOLDERS[part]]
    return next((file for file in files if file.is_file()), None)


def _coco_opener(root: Path, file: Path, reading: ReadingConfig, skip_bad: bool) -> Callable[[], DetectionDataset]:
    return lambda: Coco(root, "train", annotations=file.relative_to(root), reading=reading, skip_bad=skip_bad)


# ---- VOC


def _voc_lists(root: Path, variant: str, reading: ReadingConfig) -> Openers:
    """Return the parts by image lists; with masks if requested, or if all images with boxes have masks."""
    year, _, masks = variant.partition("-")
    folder = _voc_folder(root, year)
    if folder is None:
        return {}
    sets = folder / "ImageSets"
    main, segmentation = (
        {path.name: _read_lines(path) for path in (sets / k).glob("*.txt")} for k in ("Main", "Segmentation")
    )
    shared = [f"{part}.txt" for part in (*PARTS, "trainval")]
    if not masks and any(segmentation.values()):
        masks = "masks" if all(main.get(each) == segmentation.get(each) for each in shared) else ""
        if not masks:
            words = (
                "%s: only some images have masks, which are not read; --dataset=voc:%s-masks takes these images alone"
            )
            _log.warning(words, folder, folder.name[3:] if folder.name.startswith("VOC") else "2012")
    lists = segmentation if masks else main
    parts = {
        part: part for part in PARTS if lists.get(f"{part}.txt") and (part != "test" or _is_annotated(folder, lists))
    }
    if "train" not in parts and lists.get("trainval.txt"):
        parts = {"train": "trainval"} | parts

    def opener(image_set: str) -> Callable[[], DetectionDataset]:
        return lambda: Voc(folder, "train", masks=bool(masks), image_set=image_set, counts_from=reading.voc_first_pixel)

    return {part: opener(image_set) for part, image_set in parts.items()}


def _read_lines(path: Path) -> list[str]:
    """Read lines; return none if the file cannot be read, since its reader raises the error."""
    try:
        return [line for _, line in read_lines(path)]
    except UserError:
        return []


def _is_annotated(folder: Path, lists: Mapping[str, list[str]]) -> bool:
    """Return whether any of the first test images is annotated; those of PASCAL VOC 2012 are not."""
    return any((folder / "Annotations" / f"{name}.xml").is_file() for name in lists["test.txt"][:_MAX_CHECKED])


def find_voc_folders(root: Path) -> list[Path]:
    """Find the folders with annotations of PASCAL VOC."""
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        return [root]
    years = (path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(pattern))
    return sorted(path for path in years if (path / "Annotations").is_dir())


def _voc_folder(root: Path, year: str) -> Path | None:
    folders = [path for path in find_voc_folders(root) if not year or path == root or path.name == f"VOC{year}"]
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise UserError(f"{root}: contains {names}; use one of these folders, or --dataset=voc:YEAR")
    return folders[0] if folders else None


# ---- CST


def find_cst_files(root: Path) -> Iterator[Path]:
    """Yield the annotation files of CST."""
    for folder in (root, root / "cst-dataset"):
        yield from sorted(folder.glob(_CSV.format("*")))
