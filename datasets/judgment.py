"""Rules that find data that is readable, but was probably meant otherwise; each is a function of a split's `Survey`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from datasets.interface import DetectionDataset
from datasets.joined import Joined
from datasets.splits import file_of, image_groups
from datasets.survey import Survey

MAX_COVERED = 0.5  # of an image, by one object
MAX_SHARE = 0.5  # of the objects ignored, of the boxes below 1 px
MIN_LEVELS = 16
MAX_FEW_LEVELS = 0.1  # of the images, as empty ones have few
MANY_PIECES, VERY_MANY_PIECES = 4, 16
MAX_IN_PIECES = 0.1  # of the objects with a mask, from MANY_PIECES on; one is enough from VERY_MANY_PIECES on


class Finding(NamedTuple):
    """What looks wrong.

    Attributes:
        rule: short name, the same in every split.
        text: what is the case, with the value.
        where: the image or object that shows it best, or "".
        advice: what to do.
    """

    rule: str
    text: str
    where: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}{f' ({self.where})' if self.where else ''}; {self.advice}"


def judge(survey: Survey) -> list[Finding]:
    """Return what looks wrong in a split."""
    return [finding for rule in RULES if (finding := rule(survey)) is not None]


def find_covering_object(survey: Survey) -> Finding | None:
    """Find an object that covers most of its image: the background, mostly."""
    objects = survey.objects
    if not len(objects):
        return None
    areas = np.where(np.isnan(objects.mask_areas), objects.sides.prod(axis=1), objects.mask_areas)
    covered = areas / np.maximum(objects.sizes[objects.image].prod(axis=1), 1)
    largest = int(covered.argmax())
    if covered[largest] < MAX_COVERED:
        return None
    return Finding(
        "covering object",
        f"the largest object covers {covered[largest]:.0%} of its image",
        survey.place(largest),
        "if it is the background, give it the number 0 in the label image, or remove it from the annotations",
    )


def find_tiny_boxes(survey: Survey) -> Finding | None:
    """Find boxes below a pixel: coordinates between 0 and 1, mostly."""
    objects = survey.objects
    below = (objects.sides < 1).all(axis=1)
    if not len(objects) or below.mean() < MAX_SHARE:
        return None
    count = "all" if below.all() else f"{below.sum():,} of"
    return Finding(
        "tiny boxes",
        f"{count} {len(objects):,} boxes are below 1 px",
        survey.place(int(below.argmax())),
        "boxes must be in pixels; multiply fractions by the width and height of the image",
    )


def find_labels_in_pieces(survey: Survey) -> Finding | None:
    """Find masks in many pieces: classes instead of objects, or noise."""
    pieces = np.array(survey.num_pieces)
    many, drawn = pieces >= MANY_PIECES, pieces > 0
    if not drawn.any():
        return None
    most = int(pieces.argmax())
    if many.sum() <= MAX_IN_PIECES * drawn.sum() and pieces[most] < VERY_MANY_PIECES:
        return None
    return Finding(
        "labels in pieces",
        f"{many.sum():,} of {drawn.sum():,} objects are in {MANY_PIECES} pieces or more, one in {pieces[most]:,}",
        survey.place(most),
        "if a label is a class, number its objects (connected pieces) one by one; if it is noise, remove the specks",
    )


def find_crowds(survey: Survey) -> Finding | None:
    """Find splits of which half of the objects are ignored."""
    ignore = survey.objects.ignore
    if not len(ignore) or ignore.mean() < MAX_SHARE:
        return None
    return Finding(
        "crowds",
        f"{ignore.sum():,} of {len(ignore):,} objects are crowds or marked to be ignored",
        survey.place(int(ignore.argmax())),
        "they are neither trained on nor counted; --crowds=objects takes the crowds of COCO's files as objects",
    )


def find_few_levels(survey: Survey) -> Finding | None:
    """Find images with few gray levels: contrast that was lost, or label images in the place of images."""
    levels = np.array(survey.num_levels)
    few = levels < MIN_LEVELS
    if not len(levels) or few.mean() <= MAX_FEW_LEVELS:
        return None
    fewest = int(levels.argmin())
    return Finding(
        "few gray levels",
        f"{few.sum():,} of {len(levels):,} images have fewer than {MIN_LEVELS} gray levels",
        f"image {survey.image_names[fewest]} has {levels[fewest]}",
        "if contrast was lost when they were saved, export them with all their bits (16-bit TIFF or PNG)",
    )


def find_boxes_from_zero(survey: Survey) -> Finding | None:
    """Find VOC's boxes that count pixels from 0 instead of 1."""
    counts = [count for rule, count in survey.counts.items() if "count pixels from 0" in rule and count]
    if not counts:
        return None
    return Finding(
        "boxes from 0",
        f"VOC's boxes start at 0 in {sum(counts):,} annotation files, not at 1 as in PASCAL VOC",
        "",
        "they are read so; --voc_from=0 says it is right, --voc_from=1 that it is not",
    )


RULES: tuple[Callable[[Survey], Finding | None], ...] = (
    find_covering_object,
    find_tiny_boxes,
    find_labels_in_pieces,
    find_crowds,
    find_few_levels,
    find_boxes_from_zero,
)


def find_repeated_images(splits: Mapping[str, DetectionDataset]) -> Finding | None:
    """Find images of any split that are the same file, or a copy, as another one under its own id."""
    joined = Joined(list(splits.values()), list(splits))
    members: dict[int, list[int]] = {}
    for index, group in enumerate(image_groups(joined)):
        members.setdefault(group, []).append(index)
    repeated = [each for each in members.values() if len(each) > 1]
    if not repeated:
        return None
    split_of = [name for name, dataset in splits.items() for _ in range(len(dataset))]
    across = any(len({split_of[index] for index in each}) > 1 for each in repeated)
    first, second = repeated[0][:2]
    ids = [f"{split_of[index]} {_own_id(joined, index)}" for index in (first, second)]
    return Finding(
        "repeated images",
        f"{sum(len(each) - 1 for each in repeated):,} of {len(joined):,} images are there before under another id",
        f"{file_of(joined, first)}: {ids[0]} and {ids[1]}",
        "merge the annotations of each image under one id"
        + (", and keep training and test images apart" if across else ""),
    )


def _own_id(joined: Joined, index: int) -> int:
    part, place = joined.origin(index)
    return part.image_ids[place]
