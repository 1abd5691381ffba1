"""Conversion of data sets to other formats, image by image, in constant memory."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from datasets.expressions import Expression, ExpressionError
from datasets.interface import DetectionDataset
from datasets.joined import join_category_ids
from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.tables import read_lines
from datasets.selection import BadImages, make_cached_reader, make_variables
from datasets.writing.coco import CocoWriter
from datasets.writing.cst import CstWriter
from datasets.writing.dsb import DsbWriter
from datasets.writing.labels import LabelsWriter
from datasets.writing.manifest import find_mismatch, write_manifest
from datasets.writing.names import make_file_names
from datasets.writing.sample import Losses, Sample, Writer
from datasets.writing.tools import GeoJsonWriter, LabelMeWriter, LabelStudioWriter, RoboflowWriter, YoloWriter
from datasets.writing.voc import VocWriter
from maskrcnn.config import UserError
from maskrcnn.files import atomic_folder
from maskrcnn.images.reading import get_orientation, open_image_file
from maskrcnn.structures.instances import Instances
from maskrcnn.text import escape

Progress = Callable[[int, int], None]
Parts = Mapping[str, DetectionDataset]

_WRITERS: dict[str, Callable[..., Writer]] = {
    "coco": CocoWriter,
    "voc": VocWriter,
    "dsb": DsbWriter,
    "labels": LabelsWriter,
    "cst": CstWriter,
    "yolo": YoloWriter,
    "roboflow": RoboflowWriter,
    "labelme": LabelMeWriter,
    "geojson": GeoJsonWriter,
    "label_studio": LabelStudioWriter,
}


@dataclass(frozen=True)
class ImageSelection:
    """Images to convert.

    Attributes:
        excluded: indices of excluded images, by part.
        subset: condition on an image. Default: all images.
        skip_bad: leave out unreadable images.
    """

    excluded: Mapping[str, Sequence[int]] = field(default_factory=dict)
    subset: Expression | None = None
    skip_bad: bool = False


@dataclass
class Conversion:
    """Result: number of images and objects by part, what the format could not store, and unreadable images."""

    images: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    losses: Losses = field(default_factory=Losses)
    bad: BadImages = field(default_factory=BadImages)


def convert(
    parts: Parts,
    path: str | Path,
    to: str,
    choice: ImageSelection | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Conversion:
    """Write a data set in another format; if writing fails, nothing is left in the output folder.

    Classes of the parts are joined by name.

    Args:
        parts: data sets by part ("train", "val", "test").
        path: output folder.
        to: format, a key of `_WRITERS`.
        choice: images to convert. Default: all.
        overwrite: replace an existing folder that was written by this function.
        progress: called with the number of finished images and of all images.

    Raises:
        UserError: If the format cannot store this data, the output folder exists or cannot be written, or no image is
            left.
        BadImagesError: If images cannot be read and are not skipped; raised after all images have been read.
    """
    losses = Losses(any(getattr(data, "has_ids", True) for data in parts.values()))
    choice, done = choice or ImageSelection(), Conversion(losses=losses)
    class_names = tuple(dict.fromkeys(name for data in parts.values() for name in data.class_names))
    has_masks = all(data.has_masks for data in parts.values())
    with atomic_folder(path, overwrite, find_mismatch) as folder:
        category_ids = join_category_ids(list(parts.values()), class_names)
        ids = {"category_ids": category_ids} if to == "coco" else {}
        writer = _WRITERS[to](folder, class_names, has_masks, done.losses, **ids)
        if not ids:
            renumbered = sum(number != label for label, number in enumerate(category_ids, start=1))
            done.losses.add("the category ids of {n} classes, which are identified by name", renumbered)
        with writer.open_files:
            for part, sample in _read_samples(parts, class_names, writer.one_folder, choice, done, progress):
                take = _drop_masks if not has_masks else _keep_visible if writer.holds_boxes else _keep_masked
                sample = replace(sample, instances=take(sample.instances, done.losses))
                if not done.bad or choice.skip_bad:
                    writer.add(part, sample)
                done.images[part] += 1
                done.objects[part] += len(sample.instances)
            writer.finish()
        if done.bad and not choice.skip_bad:
            raise BadImagesError(done.bad)
        if not done.images:
            raise UserError(f"{path}: no image is left to write{_format_reason(done.bad)}; select other images")
        write_manifest(folder, {"format": to, "classes": class_names, "images": done.images, "objects": done.objects})
    if not has_masks and any(data.has_masks for data in parts.values()):
        done.losses.add("the masks of {n} parts: other parts have only boxes", sum(d.has_masks for d in parts.values()))
    return done


class BadImagesError(UserError):
    """Error for unreadable images; `bad` lists all of them."""

    def __init__(self, bad: BadImages) -> None:
        super().__init__(
            f"{len(bad)} images cannot be read, such as: {bad.reasons[0]}; fix them or use --skip_bad to leave them out"
            if len(bad) > 1
            else f"{bad.reasons[0]}; or use --skip_bad to leave the image out"
        )
        self.bad = bad


def find_excluded(parts: Parts, path: str | Path) -> tuple[dict[str, list[int]], int]:
    """Find the images that a file lists by id or name, one per line.

    Names may have an image suffix. A line that matches a name is not used as an id.

    Args:
        parts: data sets by part.
        path: the file.

    Returns:
        Indices of the images by part, and the number of lines that match no image.

    Raises:
        UserError: If the file cannot be read, is empty, or matches no image.
    """
    lines = {line: number for number, line in read_lines(Path(path))}
    if not lines:
        raise UserError(f"--exclude_ids={path}: is empty; write one image id or name per line")
    found: dict[str, list[int]] = {}
    met: set[str] = set()
    for part, data in parts.items():
        names = {name: place for place, name in enumerate(data.image_names)}
        ids = {number: place for place, number in enumerate(data.image_ids)}
        places = {line: _find_place(line, names, ids) for line in lines}
        met |= {line for line, place in places.items() if place is not None}
        found[part] = sorted({place for place in places.values() if place is not None})
    if not met:
        first = next(iter(lines))
        raise UserError(f"--exclude_ids={path}: matches no image ('{first[:60]}', …); use image ids or names")
    return found, len(lines) - len(met)


def _find_place(line: str, names: Mapping[str, int], ids: Mapping[int, int]) -> int | None:
    stem, dot, suffix = line.rpartition(".")
    without = stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else line
    for name in (line, without):
        if name in names:
            return names[name]
    return ids.get(int(line)) if re.fullmatch(r"-?\d{1,18}", line) else None


def _read_samples(
    parts: Parts,
    class_names: Sequence[str],
    one_folder: bool,
    choice: ImageSelection,
    done: Conversion,
    progress: Progress,
) -> Iterator[tuple[str, Sample]]:
    """Yield the selected images that can be read, part by part; unreadable ones are recorded in `done`."""
    names = make_file_names({part: data.image_names for part, data in parts.items()}, one_folder)
    total, count = sum(map(len, parts.values())), 0
    for part, data in parts.items():
        label_of = torch.tensor([0, *(class_names.index(name) + 1 for name in data.class_names)])
        ids, own_names, left_out = data.image_ids, data.image_names, set(choice.excluded.get(part, ()))
        for place in range(len(data)):
            count += 1
            progress(count, total)
            if place in left_out:
                continue
            read = make_cached_reader(data, place)
            try:
                values = make_variables(place, ids[place], own_names[place], read)
                if choice.subset is not None and not choice.subset.holds(values):
                    continue
                pixels, instances = read()
            except ExpressionError:
                raise
            except UserError as error:
                done.bad.names.append(own_names[place])
                done.bad.reasons.append(str(error))
                continue
            old, new = own_names[place], names[part][place]
            done.losses.add("the names of {n} images, which are changed", old != new, f"{escape(old)} to {new}")
            instances = replace(instances, labels=label_of[instances.labels])
            yield part, Sample(names[part][place], ids[place], pixels, instances, _find_upright_file(data, place))


def _find_upright_file(data: DetectionDataset, place: int) -> Path | None:
    """Return the file of an image, if it is known and needs no EXIF rotation, which not all tools apply."""
    file_of = getattr(data, "image_file", None)
    if file_of is None or (path := Path(file_of(place))).suffix.lower() not in IMAGE_SUFFIXES:  # stored elsewhere
        return None
    with open_image_file(path) as image:
        return path if get_orientation(image) == 1 else None


def _keep_visible(instances: Instances, losses: Losses) -> Instances:
    """Keep the objects that have a mask or a box."""
    shown = instances.has_mask() | (instances.boxes[:, 2:] > instances.boxes[:, :2]).all(dim=1)
    losses.add("{n} objects with an empty mask and no box", int((~shown).sum()))
    return instances[shown]


def _drop_masks(instances: Instances, losses: Losses) -> Instances:
    return _keep_visible(replace(instances, masks=None), losses)


def _keep_masked(instances: Instances, losses: Losses) -> Instances:
    """Keep the objects that have a mask, with its bounding box as their box, for formats that store only masks."""
    assert instances.masks is not None
    drawn, extent = instances.has_mask(), instances.masks.boxes()
    losses.add("{n} objects without a mask, with only a box", int((~drawn).sum()))
    changed = drawn & (extent != instances.boxes).any(dim=1)
    losses.add("the boxes of {n} objects, which are replaced by the bounding boxes of their masks", int(changed.sum()))
    return replace(instances, boxes=extent)[drawn]


def _format_reason(bad: BadImages) -> str:
    return f", such as: {bad.reasons[0]}" if bad else ""
