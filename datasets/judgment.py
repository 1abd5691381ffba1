"""Rules that find likely mistakes in data that can be read; each is a function of the `Survey` of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.checks import RULES as CHECKS
from datasets.interface import DetectionDataset
from datasets.joined import JoinedDataset
from datasets.splits import find_image_file, group_identical_images
from datasets.statistics import Objects, count_per_class
from datasets.survey import Survey
from maskrcnn.text import format_count

MAX_COVERED = 0.5  # of an image, by one object
MAX_SHARE = 0.5  # of the objects ignored, of the boxes below 1 px
MIN_LEVELS = 16
MAX_FEW_LEVELS = 0.1  # of the images, as empty ones have few
RARE, MANY_OBJECTS, MAX_LISTED_CLASSES = 10, 100, 5  # objects of a class, objects of a split, classes
MANY_PIECES, VERY_MANY_PIECES = 4, 16
MAX_DROPPED = 0.1  # of the objects in the annotations
MAX_UNFITTING = 0.1  # of the objects
MAX_REPEATED = 0.01  # of the objects
MAX_IN_PIECES = 0.1  # of the objects with a mask, from MANY_PIECES on; one is enough from VERY_MANY_PIECES on
USELESS = ", so these images are of no use for training or evaluation"
UNFITTING = "boxes that do not fit their mask"
DROPPING = {rule for rule in CHECKS if rule.endswith((" dropped", " skipped")) and not rule.startswith("outlines")}


class Concern(NamedTuple):
    """What looks wrong.

    Attributes:
        rule: short name, the same in every split.
        text: the observation, with its value.
        where: image or object that shows it best, or "".
        advice: how to fix it.
        is_note: whether it only informs, as the data is not wrong.
    """

    rule: str
    text: str
    where: str
    advice: str
    is_note: bool = False

    def describe(self) -> str:
        """Return the observation and where it was made."""
        return f"{self.text} ({self.where})" if self.where else self.text


def judge(survey: Survey) -> list[Concern]:
    """Return what looks wrong in a split."""
    return [concern for rule in RULES if (concern := rule(survey)) is not None]


def find_covering_object(survey: Survey) -> Concern | None:
    """Find an object that covers most of its image, which is usually the background."""
    objects = survey.objects
    if objects.ignore.all():
        return None
    areas = np.where(np.isnan(objects.mask_areas), objects.sides.prod(axis=1), objects.mask_areas)
    covered = areas / np.maximum(objects.sizes[objects.image].prod(axis=1), 1)
    covered[objects.ignore] = 0  # crowds and ignored regions may cover much
    largest = int(covered.argmax())
    if covered[largest] < MAX_COVERED:
        return None
    return Concern(
        "covering object",
        f"the largest object covers {covered[largest]:.0%} of its image",
        survey.place(largest),
        "if it is the background, give it the number 0 in the label image, or remove it from the annotations",
    )


def find_tiny_boxes(survey: Survey) -> Concern | None:
    """Find boxes smaller than a pixel, which usually have coordinates between 0 and 1."""
    objects = survey.objects
    below = (objects.sides < 1).all(axis=1)
    if not len(objects) or below.mean() < MAX_SHARE:
        return None
    return Concern(
        "tiny boxes",
        format_count(int(below.sum()), f"of {len(objects):,} boxes are below 1 px"),
        survey.place(int(below.argmax())),
        "boxes must be in pixels; multiply fractions by the width and height of the image",
    )


def find_labels_in_pieces(survey: Survey) -> Concern | None:
    """Find masks in many pieces: classes instead of objects, or noise."""
    pieces = np.where(survey.objects.ignore, 0, survey.num_pieces)  # crowds are expected to be in pieces
    many, drawn = pieces >= MANY_PIECES, pieces > 0
    if not drawn.any():
        return None
    most = int(pieces.argmax())
    if many.sum() <= MAX_IN_PIECES * drawn.sum() and pieces[most] < VERY_MANY_PIECES:
        return None
    return Concern(
        "labels in pieces",
        format_count(int(many.sum()), f"of {drawn.sum():,} objects are in {MANY_PIECES} pieces or more")
        + f", one in {pieces[most]:,}",
        survey.place(most),
        "if a label is a class, number its objects (connected pieces) one by one, or read label images with "
        "--split_components; if it is noise, remove the specks",
    )


def find_crowds(survey: Survey) -> Concern | None:
    """Find splits with at least half of the objects ignored."""
    ignore = survey.objects.ignore
    if not len(ignore) or ignore.mean() < MAX_SHARE:
        return None
    useless = USELESS * bool(ignore.all())
    return Concern(
        "crowds",
        format_count(
            int(ignore.sum()), f"of {len(ignore):,} objects are ignored (crowds, or marked as ignored){useless}"
        ),
        survey.place(int(ignore.argmax())),
        "they are not used for training or evaluation; --crowds=objects reads the crowds of COCO files as objects",
    )


def find_few_levels(survey: Survey) -> Concern | None:
    """Find images with few gray levels: contrast was lost, or label images are used as images."""
    levels = np.array(survey.num_levels)
    few = levels < MIN_LEVELS
    if not len(levels) or few.mean() <= MAX_FEW_LEVELS:
        return None
    fewest = int(levels.argmin())
    return Concern(
        "few gray levels",
        format_count(int(few.sum()), f"of {len(levels):,} images have fewer than {MIN_LEVELS} gray levels"),
        f"image {survey.image_names[fewest]} has {levels[fewest]}",
        "if contrast was lost when they were saved, export them with all their bits (16-bit TIFF or PNG)",
    )


def find_boxes_from_zero(survey: Survey) -> Concern | None:
    """Find VOC boxes that are 0-based instead of 1-based."""
    counts = [count for rule, count in survey.counts.items() if "count pixels from 0" in rule and count]
    if not counts:
        return None
    return Concern(
        "boxes from 0",
        f"VOC's boxes start at 0 in {format_count(sum(counts), 'annotation files')}, not at 1 as in PASCAL VOC",
        "",
        "they are read as 0-based; --voc_from=0 confirms it, --voc_from=1 reads them as 1-based",
        is_note=True,
    )


def find_dropped_objects(survey: Survey) -> Concern | None:
    """Find splits with many dropped objects."""
    dropped = {rule: count for rule, count in survey.counts.items() if rule in DROPPING and count}
    total = sum(dropped.values()) + len(survey.objects)
    if not dropped or sum(dropped.values()) <= MAX_DROPPED * total:
        return None
    most = max(dropped, key=dropped.__getitem__)
    return Concern(
        "dropped objects",
        format_count(sum(dropped.values()), f"of {total:,} objects were dropped"),
        format_count(dropped[most], most),
        "fix them in the annotations, or check that boxes are in the format that is read",
    )


def find_unfitting_boxes(survey: Survey) -> Concern | None:
    """Find splits with many boxes that do not fit their masks."""
    count = survey.counts.get(UNFITTING, 0)
    if count <= MAX_UNFITTING * len(survey.objects):
        return None
    return Concern(
        "unfitting boxes",
        format_count(count, f"of {len(survey.objects):,} boxes do not fit their mask"),
        "",
        "boxes and masks may belong to different objects, or differ in order or scale; correct one of them",
    )


def find_repeated_objects(survey: Survey) -> Concern | None:
    """Find duplicate objects: those with the same image, class and box."""
    objects = survey.objects
    rows = np.column_stack([objects.image, objects.labels, objects.boxes])
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    repeated = len(rows) - len(first)
    if repeated <= MAX_REPEATED * len(rows):
        return None
    return Concern(
        "repeated objects",
        format_count(repeated, f"of {len(rows):,} objects repeat another one of the same class and box"),
        survey.place(int(first[counts.argmax()])),
        "remove the copies: a detector detects each object once, so that all copies count as missed",
    )


def find_no_objects(survey: Survey) -> Concern | None:
    """Find splits without any object."""
    if not survey.image_names or len(survey.objects):
        return None
    return Concern(
        "no objects", f"no image holds an object{USELESS}", "", "check that the annotations belong to these images"
    )


def find_rare_classes(survey: Survey) -> Concern | None:
    """Find classes with few or no objects in a split with many objects."""
    text = describe_rare_classes(survey.objects.targets(), survey.class_names)
    if text is None:
        return None
    advice = "a class needs more objects to be learned or measured; --map_classes=OLD=NEW joins classes"
    return Concern("rare classes", text, "", advice)


def describe_rare_classes(objects: Objects, class_names: Sequence[str]) -> str | None:
    """Describe the classes with few objects; None if there are no such classes, or few objects in total."""
    counts = count_per_class(objects, len(class_names))
    rare = sorted((int(count), name) for count, name in zip(counts, class_names, strict=False) if count < RARE)
    if len(objects) < MANY_OBJECTS or not rare:
        return None
    listed = ", ".join(f"{name} ({count})" for count, name in rare[:MAX_LISTED_CLASSES])
    more = f" and {len(rare) - MAX_LISTED_CLASSES} more" if len(rare) > MAX_LISTED_CLASSES else ""
    return (
        format_count(len(rare), f"of {len(class_names)} classes have fewer than {RARE} objects") + f": {listed}{more}"
    )


RULES: tuple[Callable[[Survey], Concern | None], ...] = (
    find_covering_object,
    find_tiny_boxes,
    find_labels_in_pieces,
    find_crowds,
    find_few_levels,
    find_boxes_from_zero,
    find_dropped_objects,
    find_unfitting_boxes,
    find_repeated_objects,
    find_no_objects,
    find_rare_classes,
)


def find_repeated_images(splits: Mapping[str, DetectionDataset]) -> Concern | None:
    """Find images that are the same file as an image with another id, or a copy of it, in all splits."""
    joined = JoinedDataset(list(splits.values()), list(splits))
    members: dict[int, list[int]] = {}
    for index, group in enumerate(group_identical_images(joined)):
        members.setdefault(group, []).append(index)
    repeated = [each for each in members.values() if len(each) > 1 and _is_filled(find_image_file(joined, each[0]))]
    if not repeated:
        return None
    split_of = [name for name, dataset in splits.items() for _ in range(len(dataset))]
    across = any(len({split_of[index] for index in each}) > 1 for each in repeated)
    copies = sum(len(each) - 1 for each in repeated)
    first, second = repeated[0][:2]
    ids = [f"{split_of[index]} {_own_id(joined, index)}" for index in (first, second)]
    return Concern(
        "repeated images",
        format_count(copies, f"of {len(joined):,} images are identical to an image with another id"),
        f"{find_image_file(joined, first)}: {ids[0]} and {ids[1]}",
        "merge the annotations of each image under one id"
        + (", and keep training and test images apart" if across else ""),
    )


def _is_filled(path: Path | None) -> bool:
    """Return whether a file is not empty: all empty files are equal, and they are reported as unreadable anyway."""
    return path is not None and path.stat().st_size > 0


def _own_id(joined: JoinedDataset, index: int) -> int:
    part, place = joined.origin(index)
    return part.image_ids[place]
