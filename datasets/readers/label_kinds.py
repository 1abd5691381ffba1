"""What the numbers of a set of label images mean: which is the background, and whether they number objects at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

Numbers = NDArray[np.integer]
BACKGROUNDS = (0, 1, 255, 65_535)
MIN_BACKGROUND = 0.2  # share of an image, so that one number of a crowded image is not taken for the background
VOID = 255
MANY_PIECES = 4


@dataclass(frozen=True)
class LabelKind:
    """How to read the label images of one data set.

    background: the number of pixels without an object.
    is_binary: there is one number beside it; objects are then the connected components (8 neighbors).
    """

    background: int = 0
    is_binary: bool = False

    def to_objects(self, numbers: Numbers) -> Numbers:
        """Object numbers int32 [H, W], 0 for background."""
        if self.is_binary:
            return np.asarray(label(numbers != self.background, connectivity=2), dtype=np.int32)
        return np.asarray(np.where(numbers == self.background, 0, numbers), dtype=np.int32)


def find_kind(samples: Iterable[Numbers]) -> LabelKind:
    """The kind that fits all of some label images [H, W]; the one without surprises where there are none.

    Another background than 0 needs to be in every image, where no pixel is 0 and nothing else covers more. Binary are
    images that have no more than one and the same number beside the background, in more than one piece somewhere.
    """
    images = [numbers for numbers in samples if numbers.size]
    counted = [dict(zip(*map(np.ndarray.tolist, np.unique(each, return_counts=True)), strict=True)) for each in images]
    background = next((number for number in BACKGROUNDS if _is_background(number, counted)), 0)
    others = {number for counts in counted for number in counts if number != background}
    binary = LabelKind(background, len(others) == 1)
    in_pieces = binary.is_binary and any(binary.to_objects(each).max() > 1 for each in images)
    return binary if in_pieces else LabelKind(background)


def _is_background(number: int, counted: list[dict[int, int]]) -> bool:
    if number == 0:
        return any(0 in counts for counts in counted) or not counted
    alone = all(len(counts) == 1 for counts in counted)  # one object that fills its image looks the same
    return not alone and all(
        counts.get(number, 0) == max(counts.values()) and counts[number] >= MIN_BACKGROUND * sum(counts.values())
        for counts in counted
    )


def without_void(numbers: Numbers) -> Numbers:
    """Object numbers int32 [H, W] without the border of 255 that VOC's label images draw around objects.

    255 is a border where it is the highest number and in several pieces, each of which touches an object.
    """
    border = numbers == VOID
    if not border.any() or int(numbers.max()) != VOID:
        return numbers
    pieces, count = label(border, connectivity=2, return_num=True)
    others = np.pad((numbers > 0) & ~border, 1)
    near = np.zeros(numbers.shape, bool)
    for y in range(3):
        for x in range(3):
            near |= others[y : y + numbers.shape[0], x : x + numbers.shape[1]]
    touching = np.unique(pieces[near & border])
    return np.where(border, 0, numbers) if count > 1 and len(touching) == count else numbers


def count_in_many_pieces(objects: Numbers) -> int:
    """How many object numbers have `MANY_PIECES` connected pieces or more."""
    pieces, count = label(objects, connectivity=2, return_num=True)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces.ravel()] = objects.ravel()
    return int((np.unique(owner[1:], return_counts=True)[1] >= MANY_PIECES).sum())
