"""Detection of what the values of label images mean: which one is background, and whether they number objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

Numbers = NDArray[np.integer]
BACKGROUNDS = (-1, 0, 1, 255, 65_535, 0xFFFFFF)  # the last one is white
MIN_BACKGROUND = 0.2  # fraction of an image, so that an object in a crowded image is not taken for background
VOID = 255
MANY_PIECES = 4


@dataclass(frozen=True)
class LabelKind:
    """How to read the label images of one data set.

    Attributes:
        background: value of pixels without an object.
        is_binary: whether there is only one other value; objects are then the connected components (8 neighbors).
    """

    background: int = 0
    is_binary: bool = False

    def to_objects(self, numbers: Numbers) -> Numbers:
        """Convert values [H, W] to object numbers [H, W], 0 for background; numbers from 0 count from 1."""
        if self.is_binary:
            return np.asarray(label(numbers != self.background, connectivity=2), dtype=np.int32)
        if self.background < 0:
            return np.asarray(numbers + 1)
        return np.asarray(np.where(numbers == self.background, 0, numbers), dtype=numbers.dtype)


def find_kind(samples: Iterable[Numbers], background: int | None = None) -> LabelKind:
    """Find the kind that fits all of the sampled label images [H, W]; the default if there are none.

    A background other than 0 must be the most frequent value of every image, and no pixel may be 0 unless it is -1.
    Images are binary if they have the same single value besides the background, in more than one piece in at least one
    image.

    Args:
        samples: label images [H, W].
        background: value of the background, if it is known.
    """
    images = [numbers for numbers in samples if numbers.size]
    counted = [dict(zip(*map(np.ndarray.tolist, np.unique(each, return_counts=True)), strict=True)) for each in images]
    if background is None:
        background = next((number for number in BACKGROUNDS if _is_background(number, counted)), 0)
    others = {number for counts in counted for number in counts if number != background}
    binary = LabelKind(background, len(others) == 1)
    in_pieces = binary.is_binary and any(binary.to_objects(each).max() > 1 for each in images)
    return binary if in_pieces else LabelKind(background)


def _is_background(number: int, counted: list[dict[int, int]]) -> bool:
    if number == 0:
        return any(0 in counts for counts in counted) or not counted
    alone = all(len(counts) == 1 for counts in counted)  # could as well be one object that fills the image
    return not alone and all(
        counts.get(number, 0) == max(counts.values()) and counts[number] >= MIN_BACKGROUND * sum(counts.values())
        for counts in counted
    )


def remove_void(numbers: Numbers) -> Numbers:
    """Remove the border of 255 that VOC's label images draw around objects.

    255 is a border if it is the highest number and has several pieces, each of which touches an object.

    Args:
        numbers: int32 [H, W], object numbers.

    Returns:
        int32 [H, W].
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


def split_components(objects: Numbers) -> tuple[NDArray[np.int32], int]:
    """Number the connected components (8 neighbors) of all objects anew from 1.

    Args:
        objects: object numbers [H, W], 0 for background.

    Returns:
        Their numbers int32 [H, W], and how many more there are than objects.
    """
    pieces, count = label(objects, connectivity=2, return_num=True)
    return np.asarray(pieces, dtype=np.int32), count - len(np.unique(objects[objects > 0]))


def count_in_many_pieces(objects: Numbers) -> int:
    """Count the object numbers with at least `MANY_PIECES` connected components."""
    pieces, count = label(objects, connectivity=2, return_num=True)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces.ravel()] = objects.ravel()
    return int((np.unique(owner[1:], return_counts=True)[1] >= MANY_PIECES).sum())
