"""One data set in, another out: image by image, so that memory does not grow with their number."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from datasets.chosen import BadImages, read_once, values_of
from datasets.expressions import Expression, ExpressionError
from datasets.interface import DetectionDataset
from datasets.joined import joined_category_ids
from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.tables import read_lines
from datasets.writing.card import find_stranger, write_card
from datasets.writing.coco import CocoWriter
from datasets.writing.cst import CstWriter
from datasets.writing.dsb import DsbWriter
from datasets.writing.labels import LabelsWriter
from datasets.writing.names import file_names
from datasets.writing.sample import Losses, Sample, Writer
from datasets.writing.voc import VocWriter
from maskrcnn.config import UserError
from maskrcnn.files import atomic_folder
from maskrcnn.images.reading import opened, orientation
from maskrcnn.structures.instances import Instances

Progress = Callable[[int, int], None]
Parts = Mapping[str, DetectionDataset]

_WRITERS: dict[str, Callable[..., Writer]] = {
    "coco": CocoWriter,
    "voc": VocWriter,
    "dsb": DsbWriter,
    "labels": LabelsWriter,
    "cst": CstWriter,
}


@dataclass(frozen=True)
class Choice:
    """Which images to convert: all for which the expression holds, but those at some places of a part."""

    excluded: Mapping[str, Sequence[int]] = field(default_factory=dict)
    subset: Expression | None = None
    skip_bad: bool = False


@dataclass
class Conversion:
    """What was done: images and objects by part, what the format could not hold, what was left out."""

    images: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    losses: Losses = field(default_factory=Losses)
    bad: BadImages = field(default_factory=BadImages)


def convert(
    parts: Parts,
    path: str | Path,
    to: str,
    choice: Choice | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Conversion:
    """Write the parts ("train", "val", "test") into the folder `path` in the format `to`, whole or not at all.

    Classes are joined by name. `progress` is called with (images done, images in all).

    Raises:
        UserError: the format cannot hold this data; `path` is taken or cannot be written; no image is left. An image
            that cannot be read, unless bad ones are skipped: `BadImagesError`, when all have been looked at.
    """
    choice, done = choice or Choice(), Conversion()
    class_names = tuple(dict.fromkeys(name for data in parts.values() for name in data.class_names))
    has_masks = all(data.has_masks for data in parts.values())
    with atomic_folder(path, overwrite, find_stranger) as folder:
        category_ids = joined_category_ids(list(parts.values()), class_names)
        ids = {"category_ids": category_ids} if to == "coco" else {}
        writer = _WRITERS[to](folder, class_names, has_masks, done.losses, **ids)
        if not ids:
            renumbered = sum(number != label for label, number in enumerate(category_ids, start=1))
            done.losses.add("the category ids of {n} classes, which are known by name", renumbered)
        with writer.open_files:
            for part, sample in _samples(parts, class_names, writer.one_folder, choice, done, progress):
                take = _boxes_alone if not has_masks else _whole if writer.holds_boxes else _masks_alone
                sample = replace(sample, instances=take(sample.instances, done.losses))
                if not done.bad or choice.skip_bad:
                    writer.add(part, sample)
                done.images[part] += 1
                done.objects[part] += len(sample.instances)
            writer.finish()
        if done.bad and not choice.skip_bad:
            raise BadImagesError(done.bad)
        if not done.images:
            raise UserError(f"{path}: no image is left to write{_why(done.bad)}; choose others")
        write_card(folder, {"format": to, "classes": class_names, "images": done.images, "objects": done.objects})
    if not has_masks and any(data.has_masks for data in parts.values()):
        done.losses.add("the masks of {n} parts: others have boxes only", sum(d.has_masks for d in parts.values()))
    return done


class BadImagesError(UserError):
    """Images that cannot be read; `bad` has all of them."""

    def __init__(self, bad: BadImages) -> None:
        super().__init__(
            f"{len(bad)} images cannot be read, such as: {bad.reasons[0]}; fix them or use --skip_bad to leave them out"
            if len(bad) > 1
            else f"{bad.reasons[0]}; or --skip_bad leaves the image out"
        )
        self.bad = bad


def find_excluded(parts: Parts, path: str | Path) -> tuple[dict[str, list[int]], int]:
    """Places in each part of the images that a file lists by id or name, one a line; and how many lines name none.

    Names may have an image's suffix. A line that is a name is not an id.

    Raises:
        UserError: a file that cannot be read, that is empty, or that names no image of this data.
    """
    lines = {line: number for number, line in read_lines(Path(path))}
    if not lines:
        raise UserError(f"--exclude_ids={path}: is empty; write an image id or name a line")
    found: dict[str, list[int]] = {}
    met: set[str] = set()
    for part, data in parts.items():
        names = {name: place for place, name in enumerate(data.image_names)}
        ids = {number: place for place, number in enumerate(data.image_ids)}
        places = {line: _place_of(line, names, ids) for line in lines}
        met |= {line for line, place in places.items() if place is not None}
        found[part] = sorted({place for place in places.values() if place is not None})
    if not met:
        first = next(iter(lines))
        raise UserError(f"--exclude_ids={path}: names no image of this data, '{first[:60]}' first; give ids or names")
    return found, len(lines) - len(met)


def _place_of(line: str, names: Mapping[str, int], ids: Mapping[int, int]) -> int | None:
    stem, dot, suffix = line.rpartition(".")
    without = stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else line
    for name in (line, without):
        if name in names:
            return names[name]
    return ids.get(int(line)) if re.fullmatch(r"-?\d{1,18}", line) else None


def _samples(
    parts: Parts, class_names: Sequence[str], one_folder: bool, choice: Choice, done: Conversion, progress: Progress
) -> Iterator[tuple[str, Sample]]:
    """Samples of all chosen images that can be read, part by part; others are noted in `done`."""
    names = file_names({part: data.image_names for part, data in parts.items()}, one_folder)
    total, count = sum(map(len, parts.values())), 0
    for part, data in parts.items():
        label_of = torch.tensor([0, *(class_names.index(name) + 1 for name in data.class_names)])
        ids, own_names, left_out = data.image_ids, data.image_names, set(choice.excluded.get(part, ()))
        for place in range(len(data)):
            count += 1
            progress(count, total)
            if place in left_out:
                continue
            read = read_once(data, place)
            try:
                values = values_of(place, ids[place], own_names[place], read)
                if choice.subset is not None and not choice.subset.holds(values):
                    continue
                pixels, instances = read()
            except ExpressionError:
                raise
            except UserError as error:
                done.bad.names.append(own_names[place])
                done.bad.reasons.append(str(error))
                continue
            done.losses.add(
                "the names of {n} images, which are written otherwise", names[part][place] != own_names[place]
            )
            instances = replace(instances, labels=label_of[instances.labels])
            yield part, Sample(names[part][place], ids[place], pixels, instances, _file_of(data, place))


def _file_of(data: DetectionDataset, place: int) -> Path | None:
    """The file of an image, if the reader says it and what is in it lies upright: not all tools would turn it."""
    file_of = getattr(data, "image_file", None)
    if file_of is None:
        return None
    with opened(file_of(place)) as image:
        return file_of(place) if orientation(image) == 1 else None


def _whole(instances: Instances, losses: Losses) -> Instances:
    """The objects that have a mask or a box."""
    shown = instances.has_mask() | (instances.boxes[:, 2:] > instances.boxes[:, :2]).all(dim=1)
    losses.add("{n} objects with an empty mask and no box", int((~shown).sum()))
    return instances[shown]


def _boxes_alone(instances: Instances, losses: Losses) -> Instances:
    return _whole(replace(instances, masks=None), losses)


def _masks_alone(instances: Instances, losses: Losses) -> Instances:
    """The objects that have a mask, with its extent as their box: what formats of masks hold."""
    assert instances.masks is not None
    drawn, extent = instances.has_mask(), instances.masks.boxes()
    losses.add("{n} objects without a mask, which have a box only", int((~drawn).sum()))
    changed = drawn & (extent != instances.boxes).any(dim=1)
    losses.add("the boxes of {n} objects, which become the extents of their masks", int(changed.sum()))
    return replace(instances, boxes=extent)[drawn]


def _why(bad: BadImages) -> str:
    return f", such as: {bad.reasons[0]}" if bad else ""
