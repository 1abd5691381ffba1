"""Writer of the PASCAL VOC layout: XML files with boxes and, for data with masks, palette images."""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from datasets.readers.voc import CLASS_FILES, VOID
from datasets.writing.images import Numbers, paint_label_image, write_image, write_levels
from datasets.writing.names import make_file_names
from datasets.writing.sample import Losses, Sample, Writer
from maskrcnn.structures.instances import Instances

MAX_OBJECTS = VOID - 1
_SUFFIXES = (".jpg", ".jpeg", ".png")
_NOT_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class VocWriter(Writer):
    """Writes `Annotations`, `JPEGImages`, `ImageSets`, class names in `labels.txt`, and `Segmentation*` for masks.

    Ignored objects are marked as difficult. Boxes are in whole pixels that count from 1 and include the last pixel.
    Border pixels are not void. Pixels of the 255th and further objects are void, because no number is left for them.
    """

    one_folder = True
    holds_boxes = True

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        super().__init__(root, losses)
        self._has_masks = has_masks
        self._classes = _clean_class_names(class_names, losses)
        self._names: dict[str, list[str]] = {}
        self._kinds = ["SegmentationObject"] * has_masks
        if has_masks and len(self._classes) <= MAX_OBJECTS:
            self._kinds.append("SegmentationClass")
        for folder in ("Annotations", "JPEGImages", *self._kinds):
            (root / folder).mkdir()
        self._palette = make_palette()

    def add(self, part: str, sample: Sample) -> None:
        """Write the image, its XML file and its masks."""
        name = write_image(self.root / "JPEGImages", sample, _SUFFIXES)
        boxes = round_boxes(sample.instances, self.losses)
        text = self._xml(name, sample.instances, boxes)
        (self.root / "Annotations" / f"{sample.name}.xml").write_text(text, encoding="utf-8", newline="\n")
        if self._has_masks:
            self._write_masks(sample)
        self._names.setdefault(part, []).append(sample.name)
        self.losses.add_named_image()
        ids, count = sample.instances.ids, len(sample.instances)
        renumbered = 0 if ids is None else int((ids.numpy() != np.arange(1, count + 1)).sum())
        self.losses.add_renumbered(renumbered)

    def _write_masks(self, sample: Sample) -> None:
        masks = sample.instances.masks
        assert masks is not None
        objects = paint_label_image(masks, self.losses)
        self.losses.add(
            f"the masks of {{n}} objects beyond {MAX_OBJECTS} per image: their pixels are void, their boxes are kept",
            int((np.unique(objects) > MAX_OBJECTS).sum()),
        )
        labels = np.concatenate([[0], sample.instances.labels.numpy()])[objects]
        for kind, numbers in zip(self._kinds, (objects, labels), strict=False):
            levels = np.where(objects > MAX_OBJECTS, VOID, numbers).astype(np.uint8)
            write_levels(self.root / kind / f"{sample.name}.png", levels, self._palette)

    def _xml(self, name: str, instances: Instances, boxes: Numbers) -> str:
        height, width = instances.size
        lines = [
            "<annotation>",
            "\t<folder>VOC</folder>",
            f"\t<filename>{escape(name)}</filename>",
            f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
            f"\t<segmented>{int(self._has_masks)}</segmented>",
        ]
        rows = zip(instances.labels.tolist(), instances.ignore.tolist(), boxes.tolist(), strict=True)
        for label, ignore, (x1, y1, x2, y2) in rows:
            lines += [
                "\t<object>",
                f"\t\t<name>{escape(self._classes[label - 1])}</name>",
                "\t\t<pose>Unspecified</pose>",
                "\t\t<truncated>0</truncated>",
                f"\t\t<difficult>{int(ignore)}</difficult>",
                f"\t\t<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
                "\t</object>",
            ]
        return "\n".join([*lines, "</annotation>", ""])

    def finish(self) -> None:
        """Write the class names and image lists."""
        (self.root / CLASS_FILES[0]).write_text(_join_lines(self._classes), encoding="utf-8", newline="\n")
        names = dict(self._names)
        if len(names) == 1:  # readers expect a pair of lists; an empty one means that there is no other part
            names["val" if "train" in names else "train"] = []
        for kind in ("Main", "Segmentation")[: 1 + self._has_masks]:
            folder = self.root / "ImageSets" / kind
            folder.mkdir(parents=True)
            for part, each in names.items():
                (folder / f"{part}.txt").write_text(_join_lines(each), encoding="utf-8", newline="\n")


def round_boxes(instances: Instances, losses: Losses) -> Numbers:
    """Round boxes to whole pixels, at least one pixel in size and within the image; return int64 [N, 4]."""
    boxes = instances.boxes.numpy().astype(np.float64)
    limits = np.array([instances.size[1], instances.size[0]])
    low = np.minimum(boxes[:, :2].round(), limits - 1).clip(0)
    high = np.maximum(np.minimum(boxes[:, 2:].round(), limits), low + 1)
    whole = np.concatenate([low, high], axis=1)
    losses.add(
        "the exact boxes of {n} objects, which are rounded to whole pixels", int((whole != boxes).any(axis=1).sum())
    )
    return whole.astype(np.int64)


def make_palette() -> list[int]:
    """Return the VOC color map, r, g, b of each level: bit k of a level is bit 7 - k // 3 of channel k % 3."""
    levels = np.arange(256)
    colors: NDArray[np.int64] = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colors[:, bit % 3] |= (levels >> bit & 1) << (7 - bit // 3)
    return colors.ravel().tolist()


def _clean_class_names(names: Sequence[str], losses: Losses) -> tuple[str, ...]:
    """Make class names unique and valid in XML, on one line."""
    clean = [_NOT_XML.sub("_", name.replace("\t", " ")).strip() or "class" for name in names]
    found = tuple(clean) if len(set(clean)) == len(clean) else tuple(make_file_names({"": clean}, False)[""])
    losses.add("the names of {n} classes, which are changed", sum(map(str.__ne__, found, names)))
    return found


def _join_lines(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)
