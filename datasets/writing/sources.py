"""What data lies in a folder, and its parts."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from datasets.config import ReadingConfig
from datasets.interface import DetectionDataset
from datasets.readers.coco import FILES, YEARS, Coco
from datasets.readers.splitting import SPLITS, MissingSplit
from datasets.readers.tables import read_lines
from datasets.readers.voc import Voc
from datasets.registry import Named, open_dataset, parse
from maskrcnn.config import UserError

_log = logging.getLogger("datasets")
PARTS = ("train", "val", "test")
_COCO_FOLDERS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
_COCO_WHOLE = (*FILES, "annotations/instances_default.json")
_YEARS = (*map(str, YEARS), "")
_LOOKED_AT = 20
_CSV = "annotation/anno-{}.csv"


def recognise(root: Path) -> str:
    """The name of the data set whose layout the folder has.

    Raises:
        UserError: no folder, no layout that is known, or several.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = [name for name, matches in _LAYOUTS.items() if matches(root)]
    if found[:1] == ["shapes"]:  # such data is COCO's and has label images, too
        return found[0]
    if len(found) == 1:
        return found[0]
    names = ", ".join(_LAYOUTS)
    if not found:
        raise UserError(f"{root}: is in no layout that is known; say what it is with --dataset, such as {names}")
    raise UserError(f"{root}: could be {' or '.join(found)}; say which with --dataset={found[0]}")


def open_parts(
    root: Path,
    name: str,
    wanted: tuple[str, ...] = (),
    reading: ReadingConfig | None = None,
    skip_bad: bool = False,
) -> dict[str, DetectionDataset]:
    """The parts of a data set that are there, or those `wanted`, by the names "train", "val" and "test".

    "val" is told from "test" where the layout does; else "test" is what the reader of data set `name` takes for it.

    Raises:
        UserError: unknown name; a part that is broken, or wanted but not there.
    """
    openers = find_parts(root, name, reading, skip_bad)
    if strange := [part for part in wanted if part not in openers]:
        raise UserError(f"{root}: has no part '{strange[0]}'; use {', '.join(openers)}")
    chosen = [part for part in PARTS if part in openers and part in (wanted or openers)]
    try:
        return {part: openers[part]() for part in chosen}
    except UserError as error:
        hint = f" (--parts={chosen[0]} or --parts={chosen[-1]} takes one part only)" if len(chosen) > 1 else ""
        raise UserError(f"{error}{hint}") from error


Openers = dict[str, Callable[[], DetectionDataset]]


def find_parts(root: Path, name: str, reading: ReadingConfig | None = None, skip_bad: bool = False) -> Openers:
    """What opens each part of a data set that seems to be there, or those that there must be; nothing is opened yet.

    UserError for an unknown name.
    """
    named = parse(name)
    if len(named) > 1:
        raise UserError(f"--dataset={name}: names several; one data set at a time is read here; use {named[0].text}")
    return _openers(root, named[0], reading or ReadingConfig(), skip_bad)


def _openers(root: Path, named: Named, reading: ReadingConfig, skip_bad: bool) -> Openers:
    kind, variant = named.name, named.rest
    if kind in ("shapes", "ellipses"):
        there = [part for part in PARTS if (root / part).is_dir()]
    elif kind == "cst":
        there = [part for part in PARTS if any((folder / _CSV.format(part)).is_file() for folder in _cst_folders(root))]
    elif kind == "coco" and (files := dict(_coco_files(root, variant))):
        return {part: _coco_opener(root, file, reading, skip_bad) for part, file in files.items()}
    elif kind == "voc" and (lists := _voc_lists(root, variant, reading)):
        return lists
    else:
        there = [part for part in SPLITS if _is_there(root, part, named.text)]

    def opener(part: str) -> Callable[[], DetectionDataset]:
        return lambda: open_dataset(named.text, root, part, reading=reading, skip_bad=skip_bad)

    return {part: opener(part) for part in there or ("train", "test")}


def _is_there(root: Path, part: str, name: str) -> bool:
    """Whether there is such a part; what else is wrong with it, its reader says when it is opened."""
    try:
        open_dataset(name, root, part)
    except MissingSplit:
        return False
    except UserError:
        return part != "val"
    return True


# ---- COCO


def _coco_files(root: Path, year: str) -> Iterator[tuple[str, Path]]:
    """Annotation files by part, of one year at most: 2017's training images hold most of 2014's validation images."""
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
        files = [root / folder / name for folder in _COCO_FOLDERS[part] for name in FILES] + files
        files += [root / "annotations" / f"{folder}.json" for folder in _COCO_FOLDERS[part]]
    return next((file for file in files if file.is_file()), None)


def _coco_opener(root: Path, file: Path, reading: ReadingConfig, skip_bad: bool) -> Callable[[], DetectionDataset]:
    return lambda: Coco(root, "train", annotations=file.relative_to(root), reading=reading, skip_bad=skip_bad)


# ---- VOC


def _voc_lists(root: Path, variant: str, reading: ReadingConfig) -> Openers:
    """Parts by the lists of images; with masks if asked for, or if all that have boxes have them."""
    year, _, masks = variant.partition("-")
    folder = _voc_folder(root, year)
    if folder is None:
        return {}
    sets = folder / "ImageSets"
    main, segmentation = (
        {path.name: _lines(path) for path in (sets / k).glob("*.txt")} for k in ("Main", "Segmentation")
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
    parts = {part: part for part in PARTS if lists.get(f"{part}.txt") and (part != "test" or _annotated(folder, lists))}
    if "train" not in parts and lists.get("trainval.txt"):
        parts = {"train": "trainval"} | parts

    def opener(image_set: str) -> Callable[[], DetectionDataset]:
        return lambda: Voc(folder, "train", masks=bool(masks), image_set=image_set, counts_from=reading.voc_from)

    return {part: opener(image_set) for part, image_set in parts.items()}


def _lines(path: Path) -> list[str]:
    """The lines; a file that cannot be read has none: its reader says why."""
    try:
        return [line for _, line in read_lines(path)]
    except UserError:
        return []


def _annotated(folder: Path, lists: Mapping[str, list[str]]) -> bool:
    """Whether any of the first test images is: PASCAL's own came without annotations."""
    return any((folder / "Annotations" / f"{name}.xml").is_file() for name in lists["test.txt"][:_LOOKED_AT])


def _voc_folders(root: Path) -> list[Path]:
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        return [root]
    years = (path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(pattern))
    return sorted(path for path in years if (path / "Annotations").is_dir())


def _voc_folder(root: Path, year: str) -> Path | None:
    folders = [path for path in _voc_folders(root) if not year or path == root or path.name == f"VOC{year}"]
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise UserError(f"{root}: holds {names}; give one of these folders, or --dataset=voc:YEAR")
    return folders[0] if folders else None


# ---- layouts, by what only they have


def _is_generated(root: Path) -> bool:
    inside = ("images", "labels", "annotations.json")
    return any(all((root / part / name).exists() for name in inside) for part in PARTS)


def _is_labels(root: Path) -> bool:
    folders = (root, *(root / part for part in (*PARTS, "validation")))
    if any((f / "images").is_dir() and ((f / "masks").is_dir() or (f / "labels").is_dir()) for f in folders):
        return True
    patterns = ("*_masks.*", "labels_*.*")
    return any(next(folder.glob(pattern), None) is not None for folder in folders for pattern in patterns)


def _has_annotations(root: Path, pattern: str) -> bool:
    return any(next(folder.glob(pattern), None) for folder in (root, root / "annotations"))


def _cst_folders(root: Path) -> tuple[Path, Path]:
    return root, root / "cst-dataset"


_LAYOUTS: dict[str, Callable[[Path], bool]] = {
    "shapes": _is_generated,
    "coco": lambda root: next(_coco_files(root, ""), None) is not None,
    "voc": lambda root: bool(_voc_folders(root)),
    "dsbowl2018": lambda root: root.name == "stage1_train" or (root / "stage1_train").is_dir(),
    "labels": _is_labels,
    "cst": lambda root: any(next(folder.glob(_CSV.format("*")), None) for folder in _cst_folders(root)),
    "aitod": lambda root: _has_annotations(root, "aitod_*_v1.json"),
    "aitod:v2": lambda root: _has_annotations(root, "aitodv2_*.json"),
    "visdrone": lambda root: next(root.glob("VisDrone*-DET-*/"), None) is not None,
}
