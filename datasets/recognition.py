"""Recognition of the format of a data set from the files in its folder: `--dataset=auto`.

To add a format, add a line to `LAYOUTS`. Its function names the file or folder that identifies the format, or returns
None; it looks at names and at the first bytes of a few files, and raises no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from datasets.readers import yolo_files
from datasets.readers.folders import list_files, list_names
from datasets.readers.tools.files import contains
from datasets.readers.tools.formats import FORMATS as TOOL_FORMATS
from datasets.readers.tools.via import JSON_MARKER as VIA_MARKER
from datasets.writing.discovery import PARTS, find_coco_files, find_cst_files, find_voc_folders
from maskrcnn.config import UserError
from maskrcnn.programs import format_command
from maskrcnn.text import escape

_MAX_NAMED = 4  # files listed in an error
_MAX_LISTED = 20  # subfolders that are searched for data sets
GENERATED = ("shapes", "ellipses")  # they also match COCO and label images, and come first


class Layout(NamedTuple):
    """What identifies a format.

    Attributes:
        looks_for: the files in words, for the error message.
        recognize: returns the name of the file or folder that identifies the format in a folder, or None.
    """

    looks_for: str
    recognize: Callable[[Path], str | None]


class Recognized(NamedTuple):
    """The name of a format, and the file or folder by which it was recognized."""

    name: str
    reason: str


def recognize(root: Path) -> Recognized:
    """Recognize the format of the data set in a folder.

    Raises:
        UserError: If the folder does not exist, or matches no format or several.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check the path, or create data with {format_command('ellipses')}")
    found = list(_recognize_all(root))
    if found and (len(found) == 1 or found[0].name in GENERATED):
        return found[0]
    if found:
        names = " or ".join(f"{each.name} ({each.reason})" for each in found)
        raise UserError(f"{root}: could be {names}; choose one, such as --dataset={found[0].name}")
    raise UserError(f"{root}: {_explain_unknown(root)}")


def _explain_unknown(root: Path) -> str:
    """Explain why the format of a folder is unknown: it is empty, or contains data sets, or other files."""
    names = list_names(root)
    folders = [root / name for name in names if (root / name).is_dir()]
    if len(folders) == len(names) and not any(list_names(folder) for folder in folders):
        return "has no files; name the folder of the images and their annotations"
    nested = [folder for folder in folders[:_MAX_LISTED] if next(_recognize_all(folder), None) is not None]
    if nested:
        what = "is a sweep of data sets" if (root / "sweep.json").is_file() else "contains data sets in subfolders"
        return f"{what}; name one of them, such as {nested[-1]}"
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    known = "; ".join(f"{name}: {layout.looks_for}" for name, layout in (LAYOUTS | TOOLS).items())
    there = f"it contains {', '.join(map(escape, names[:_MAX_NAMED]))}{more}"
    return f"the format is unknown ({there}); set --dataset, or check the folder. Looked for {known}"


def recognize_layout(root: Path) -> str:
    """Return the name of the format of the data set in a folder; raise a UserError as `recognize`."""
    return recognize(root).name


def _recognize_all(root: Path) -> Iterator[Recognized]:
    found = _recognize_some(root, LAYOUTS)
    # Files of tools are searched for in all subfolders, which takes long in large data sets.
    tools = [] if found else _recognize_some(root, TOOLS)
    yield from found or [each for each in tools if each.name != "points" or len(tools) == 1]  # any table has x and y


def _recognize_some(root: Path, layouts: Mapping[str, Layout]) -> list[Recognized]:
    reasons = {name: layout.recognize(root) for name, layout in layouts.items()}
    return [Recognized(name, reason) for name, reason in reasons.items() if reason is not None]


# ---- formats, identified by files that only they have


def _recognize_generated(root: Path) -> str | None:
    inside = ("images", "labels", "annotations.json")
    return next((f"{part}/{inside[-1]}" for part in PARTS if all((root / part / i).exists() for i in inside)), None)


def _recognize_ellipses(root: Path) -> str | None:
    try:
        with (root / "dataset.toml").open(encoding="utf-8") as file:
            is_drawn = 'shapes = ["ellipse"]' in file.read(1 << 14)
    except (OSError, ValueError):
        return None
    return _recognize_generated(root) if is_drawn else None


def _recognize_coco(root: Path) -> str | None:
    files = (file for _, file in find_coco_files(root, "") if not contains(file, VIA_MARKER))
    return next((file.relative_to(root).as_posix() for file in files), None)


def _recognize_voc(root: Path) -> str | None:
    folders = find_voc_folders(root)
    return (folders[0] / "Annotations").relative_to(root).as_posix() if folders else None


def _recognize_dsbowl(root: Path) -> str | None:
    return "stage1_train" if root.name == "stage1_train" or (root / "stage1_train").is_dir() else None


def _recognize_label_images(root: Path) -> str | None:
    for folder in (root, *(root / part for part in (*PARTS, "validation"))):
        for name in ("masks", "labels"):
            if (folder / "images").is_dir() and (folder / name).is_dir() and list_files(folder / name):
                return (folder / name).relative_to(root).as_posix()
        for pattern in ("*_masks.*", "labels_*.*", "*_seg.npy", "*-labelled.*"):
            if found := _find_first(folder, pattern):
                return found.relative_to(root).as_posix()
    return None


def _recognize_cst(root: Path) -> str | None:
    return next((file.relative_to(root).as_posix() for file in find_cst_files(root)), None)


def _make_pattern(pattern: str, *folders: str) -> Callable[[Path], str | None]:
    def recognize_pattern(root: Path) -> str | None:
        paths = (_find_first(root / folder, pattern) for folder in folders)
        return next((path.relative_to(root).as_posix() for path in paths if path is not None), None)

    return recognize_pattern


def _find_first(folder: Path, pattern: str) -> Path | None:
    return next(folder.glob(pattern), None)


LAYOUTS: dict[str, Layout] = {
    "ellipses": Layout("train/annotations.json with images/ and labels/, and dataset.toml", _recognize_ellipses),
    "shapes": Layout("train/annotations.json with images/ and labels/", _recognize_generated),
    "coco": Layout(
        "annotations/instances_*.json, annotations.json, _annotations.coco.json or result.json", _recognize_coco
    ),
    "voc": Layout("Annotations/ with ImageSets/", _recognize_voc),
    "yolo": Layout(
        "data.yaml, obj.data, or images/ with text files of labels in labels/ or next to the images",
        yolo_files.recognize,
    ),
    "dsbowl2018": Layout("stage1_train/", _recognize_dsbowl),
    "labels": Layout("images/ with masks/ or labels/, *_masks.* or labels_*.*", _recognize_label_images),
    "cst": Layout("annotation/anno-*.csv", _recognize_cst),
    "aitod": Layout("annotations/aitod_*_v1.json", _make_pattern("aitod_*_v1.json", "", "annotations")),
    "aitod:v2": Layout("annotations/aitodv2_*.json", _make_pattern("aitodv2_*.json", "", "annotations")),
    "visdrone": Layout("VisDrone*-DET-*/", _make_pattern("VisDrone*-DET-*/", "")),
}
TOOLS = {name: Layout(tool.looks_for, tool.recognize) for name, tool in TOOL_FORMATS.items()}
