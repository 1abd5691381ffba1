"""The formats of annotation tools by name: what a folder holds, and by which file it is recognized."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

from datasets.config import ReadingConfig
from datasets.readers.stored_index import SETTLED_NS
from datasets.readers.tools.cvat import find_cvat, recognize_cvat
from datasets.readers.tools.dataset import Contents, ToolDataset
from datasets.readers.tools.dota import find_dota, recognize_dota
from datasets.readers.tools.imagej import find_imagej, recognize_imagej
from datasets.readers.tools.labelme import find_labelme, recognize_labelme
from datasets.readers.tools.points import find_points, recognize_points
from datasets.readers.tools.qupath import find_qupath, recognize_qupath
from datasets.readers.tools.segments import find_cityscapes, find_panoptic, recognize_cityscapes, recognize_panoptic
from datasets.readers.tools.supervisely import find_supervisely, recognize_supervisely
from datasets.readers.tools.via import find_via, recognize_via

_LAST: dict[Hashable, Contents] = {}


class ToolFormat(NamedTuple):
    """A format of an annotation tool.

    Attributes:
        looks_for: the files that identify it, in words.
        recognize: returns the first such file in a folder, or None.
        find: lists what a folder holds, from the folder, the variant of the name and the options.
    """

    looks_for: str
    recognize: Callable[[Path], str | None]
    find: Callable[[Path, str, ReadingConfig], Contents]


def _of_root(find: Callable[[Path], Contents]) -> Callable[[Path, str, ReadingConfig], Contents]:
    return lambda root, *_: find(root)


FORMATS = {
    "labelme": ToolFormat("*.json of LabelMe", recognize_labelme, _of_root(find_labelme)),
    "cvat": ToolFormat("*.xml of CVAT", recognize_cvat, _of_root(find_cvat)),
    "via": ToolFormat("*.json or *.csv of VIA", recognize_via, _of_root(find_via)),
    "qupath": ToolFormat(
        "*.geojson of QuPath", recognize_qupath, lambda root, variant, _: find_qupath(root, variant == "nuclei")
    ),
    "imagej": ToolFormat("*.zip with *.roi of ImageJ", recognize_imagej, _of_root(find_imagej)),
    "supervisely": ToolFormat("ann/*.json of Supervisely", recognize_supervisely, _of_root(find_supervisely)),
    "dota": ToolFormat("labelTxt/*.txt of DOTA", recognize_dota, _of_root(find_dota)),
    "cityscapes": ToolFormat("*_instanceIds.png", recognize_cityscapes, _of_root(find_cityscapes)),
    "panoptic": ToolFormat("panoptic_*.json of COCO", recognize_panoptic, _of_root(find_panoptic)),
    "points": ToolFormat(
        "*.csv with columns x and y",
        recognize_points,
        lambda root, variant, reading: find_points(root, reading.point_size, variant == "masks"),
    ),
}


def open_tool_dataset(
    name: str, root: Path, split: str, variant: str = "", reading: ReadingConfig | None = None, skip_bad: bool = False
) -> ToolDataset:
    """Open a split of the data set in a folder.

    Args:
        name: one of `FORMATS`.
        root: the folder.
        split: "train", "val" or "test".
        variant: variant of the format.
        reading: options for reading annotations.
        skip_bad: leave out invalid shapes, and count them.

    Raises:
        UserError: If the folder has no files of the format, or they are invalid.
        MissingSplit: If the data set has no such split.
    """
    return ToolDataset(root, split, _find_contents(name, root, variant, reading or ReadingConfig()), skip_bad)


def _find_contents(name: str, root: Path, variant: str, reading: ReadingConfig) -> Contents:
    """List what a folder holds, or return what was found last if no file has changed: each split opens the data."""
    state = _describe_files(root)
    key = (name, root, variant, reading, state)
    if state is not None and key in _LAST:
        return _LAST[key]
    contents = FORMATS[name].find(root, variant, reading)
    _LAST.clear()
    if state is not None:
        _LAST[key] = contents
    return contents


def _describe_files(root: Path) -> frozenset[tuple[str, int, int]] | None:
    """Return path, size and time of all files; None if one is so new that it may change within the same time stamp."""
    found = set()
    newest = time.time_ns() - SETTLED_NS
    for folder, _, files in os.walk(root):
        for name in files:
            try:
                state = os.stat(os.path.join(folder, name))
            except OSError:
                return None
            if state.st_mtime_ns > newest:
                return None
            found.add((os.path.join(folder, name), state.st_size, state.st_mtime_ns))
    return frozenset(found)
