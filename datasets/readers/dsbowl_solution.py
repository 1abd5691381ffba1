"""Kaggle's solution files of the 2018 Data Science Bowl: the nuclei of test images as run lengths in a CSV."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import in_words
from datasets.readers.tables import quoted, read_table, whole_in
from maskrcnn.config import UserError
from maskrcnn.structures.masks import CroppedMasks

_COLUMNS = ("ImageId", "EncodedPixels", "Height", "Width", "Usage")
_IGNORED = "ignored"  # as Usage: images that did not count in the competition
_LONGEST = 1_000_000  # side of an image


@dataclass
class Solution:
    """The nuclei of one image of ``size`` (H, W), in the order of the file's rows."""

    size: tuple[int, int]
    line: int  # of the first row
    counts: list[NDArray[np.int64]] = field(default_factory=list)  # COCO's: not inside, inside, not inside, ...

    def masks(self) -> tuple[CroppedMasks, Tensor]:
        """Masks, and their numbers from 1, int64 [N]."""
        codes = [{"size": list(self.size), "counts": counts} for counts in self.counts]
        return CroppedMasks.from_rle(codes, self.size), torch.arange(1, len(codes) + 1)


def read_solution(path: Path) -> dict[str, Solution | None]:
    """The images of a solution file by id; None where Usage is "Ignored". An image may have no nuclei.

    Raises:
        UserError: unreadable, a size that is none or changes, runs that are none, overlap or leave the image; names
            the line.
    """
    solutions: dict[str, Solution | None] = {}
    for line, (name, code, height, width, usage) in read_table(path, _COLUMNS):
        where = f"{path}:{line}"
        if usage.lower() == _IGNORED:
            solutions.setdefault(name, None)
            continue
        size = whole_in(height, where, "Height", _LONGEST), whole_in(width, where, "Width", _LONGEST)
        solution = solutions.setdefault(name, Solution(size, line))
        if solution is None:
            raise UserError(f"{where}: image {quoted(name)} is ignored in another row")
        if solution.size != size:
            here, there = in_words(size), in_words(solution.size)
            raise UserError(f"{where}: image {quoted(name)} is {here}, in line {solution.line} it is {there}")
        if code:
            solution.counts.append(_counts(code, size[0] * size[1], where))
    return solutions


def _counts(code: str, area: int, where: str) -> NDArray[np.int64]:
    """COCO's counts of "start length start length ...", which count pixels from 1 down the columns."""
    words = code.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 16 for word in words):
        raise UserError(f"{where}: EncodedPixels is {quoted(code)}; it must be whole numbers")
    numbers = [int(word) for word in words]
    if len(numbers) % 2:
        count = f"{len(numbers)} number{'s' * (len(numbers) != 1)}"
        raise UserError(f"{where}: EncodedPixels has {count}; they must be pairs of start and length")
    runs = sorted((start - 1, start - 1 + length) for start, length in zip(numbers[::2], numbers[1::2], strict=True))
    for start, end in runs:
        if not 0 <= start < end <= area:
            raise UserError(f"{where}: the run of {end - start} pixels from {start + 1} leaves an image of {area}")
    for (_, end), (start, _) in pairwise(runs):
        if start < end:
            raise UserError(f"{where}: two runs overlap at pixel {start + 1}; remove one")
    borders = np.array([0, *(border for run in runs for border in run), area], np.int64)
    return borders[1:] - borders[:-1]
