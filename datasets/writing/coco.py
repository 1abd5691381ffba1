"""Writer of COCO annotations: `annotations/instances_<part>.json`, with the images in `images/<part>`."""

import json
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.writing.images import write_image
from datasets.writing.sample import Losses, Sample, Writer
from maskrcnn.structures.instances import Instances

_DIGITS = (0, 2, 4)


class CocoWriter(Writer):
    """Writes masks as RLE, and ignored objects as crowds; an object without a mask has no 'segmentation'.

    Image ids, names and category ids are kept. Object ids are kept if they are positive and unique within the part;
    otherwise the objects are numbered from 1 and their ids are stored as "instance".
    """

    holds_boxes = True

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str],
        has_masks: bool,
        losses: Losses,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__(root, losses)
        self._ids = category_ids or range(1, len(class_names) + 1)
        self._categories = [{"id": number, "name": name} for number, name in zip(self._ids, class_names, strict=True)]
        self._parts: dict[str, _Part] = {}

    def add(self, part: str, sample: Sample) -> None:
        """Write the image and add its annotations."""
        folder = self.root / "images" / part
        if part not in self._parts:
            folder.mkdir(parents=True)
            self._parts[part] = _Part(self.root, self._categories, self.open_files)
        height, width = sample.instances.size
        name = write_image(folder, sample, IMAGE_SUFFIXES)
        entry = {"id": sample.image_id, "file_name": name, "width": width, "height": height}
        annotations = make_annotations(sample.instances, sample.image_id, self._ids)
        self._parts[part].add(entry, annotations)
        if sample.instances.masks is not None:
            bare = sum("segmentation" not in each for each in annotations)
            self.losses.add(
                "'segmentation' of {n} objects, which have only a box: pycocotools evaluates boxes alone", bare
            )

    def finish(self) -> None:
        """Write the annotation files."""
        (self.root / "annotations").mkdir()
        for name, part in self._parts.items():
            renumbered = part.write(self.root / "annotations" / f"instances_{name}.json")
            self.losses.add_renumbered(renumbered, ' (old ids in "instance")')


class _Part:
    """Entries of one part, in temporary files; only the ids of annotations are kept in memory."""

    def __init__(self, folder: Path, categories: list[dict[str, Any]], open_files: ExitStack) -> None:
        self._categories = categories
        self._images, self._annotations = (open_files.enter_context(_open_temporary(folder)) for _ in range(2))
        self._ids = array("q")

    def add(self, image: dict[str, Any], annotations: list[dict[str, Any]]) -> None:
        """Add an image and its annotations."""
        self._images.write(json.dumps(image, separators=(",", ":")) + "\n")
        for each in annotations:
            self._ids.append(each["instance"])
            self._annotations.write(json.dumps(each, separators=(",", ":")) + "\n")

    def write(self, path: Path) -> int:
        """Write the annotation file; return the number of objects that could not keep their ids."""
        ids = np.frombuffer(self._ids, np.int64) if len(self._ids) else np.zeros(0, np.int64)
        # pycocotools treats a match with id 0 as no match.
        kept = bool((ids > 0).all()) and len(np.unique(ids)) == len(ids)
        numbers = ids if kept else np.arange(1, len(ids) + 1)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{{"info":{{}},\n"licenses":[],\n"categories":{json.dumps(self._categories)},\n"images":[')
            _join(file, (line.rstrip("\n") for line in _rewind(self._images)))
            file.write('\n],\n"annotations":[')
            lines = zip(numbers, _rewind(self._annotations), strict=True)
            _join(file, (f'{{"id":{number},{line[1:-1]}' for number, line in lines))
            file.write("\n]}\n")
        return int((numbers != ids).sum())


def make_annotations(instances: Instances, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Make COCO annotations without ids.

    Args:
        instances: objects of the image; their ids are stored as "instance".
        image_id: id of the image.
        category_ids: category id of each label.
    """
    ids = range(1, len(instances) + 1) if instances.ids is None else instances.ids.tolist()
    corners, extents = _round_boxes(instances.boxes.numpy())
    rows = zip(ids, instances.labels.tolist(), instances.ignore.tolist(), corners, extents, strict=True)
    entries: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "instance": number,
            "bbox": [*corner, *extent],
            "area": round(extent[0] * extent[1], 4),
            "iscrowd": int(ignore),
        }
        for number, label, ignore, corner, extent in rows
    ]
    if instances.masks is None:
        return entries
    codes, areas = instances.masks.to_rle(), instances.areas().round(decimals=4).tolist()
    for entry, code, area, drawn in zip(entries, codes, areas, instances.has_mask().tolist(), strict=True):
        entry |= {"area": int(area), "segmentation": code} if drawn else {"area": area}
    return entries


def _round_boxes(boxes: NDArray[np.float32]) -> tuple[list[list[float]], list[list[float]]]:
    """Return x, y and width, height, rounded to as few decimals as preserve the float32 corners."""
    exact = boxes.astype(np.float64)
    best = np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)
    for digits in reversed(_DIGITS):
        low, high = exact[:, :2].round(digits), exact[:, 2:].round(digits)
        rounded = np.concatenate([low, (high - low).round(digits)], axis=1)
        read = np.concatenate([rounded[:, :2], rounded[:, :2] + rounded[:, 2:]], axis=1).astype(np.float32)
        same = (read == boxes).all(axis=1)
        best[same] = rounded[same]
    return best[:, :2].tolist(), best[:, 2:].tolist()


def _open_temporary(folder: Path) -> TextIO:
    """Open a temporary file on the disk of the output, which needs the space anyway."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder)  # type: ignore[return-value]


def _rewind(file: TextIO) -> TextIO:
    file.seek(0)
    return file


def _join(file: TextIO, lines: Iterator[str]) -> None:
    separator = "\n"
    for line in lines:
        file.write(separator + line)
        separator = ",\n"
