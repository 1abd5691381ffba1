"""Solution files of the 2018 Data Science Bowl (Kaggle): the nuclei of the test images as run lengths in a CSV."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import format_size
from datasets.readers.tables import parse_integer, quote, read_table
from maskrcnn.config import UserError
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.text import format_count

_COLUMNS = ("ImageId", "EncodedPixels", "Height", "Width", "Usage")
_IGNORED = "ignored"  # value of Usage for images that were not scored
_MAX_SIDE = 1_000_000  # pixels


@dataclass
class Solution:
    """Nuclei of one image of `size` (H, W), in file order."""

    size: tuple[int, int]
    line: int  # of the first row
    counts: list[NDArray[np.int64]] = field(default_factory=list)  # COCO's uncompressed RLE

    def masks(self) -> tuple[CroppedMasks, Tensor]:
        """Decode the masks.

        Returns:
            The N masks, and their numbers 1 to N, int64 [N].
        """
        codes = [{"size": list(self.size), "counts": counts} for counts in self.counts]
        return CroppedMasks.from_rle(codes, self.size), torch.arange(1, len(codes) + 1)


def read_solution(path: Path) -> dict[str, Solution | None]:
    """Read a solution file.

    Returns:
        The nuclei of each image by its id; None where Usage is "Ignored".

    Raises:
        UserError: If the file is unreadable, a size is invalid or inconsistent, or runs are invalid, overlap or exceed
            the image.
    """
    solutions: dict[str, Solution | None] = {}
    for line, (name, code, height, width, usage) in read_table(path, _COLUMNS):
        where = f"{path}:{line}"
        if usage.lower() == _IGNORED:
            solutions.setdefault(name, None)
            continue
        size = parse_integer(height, where, "Height", _MAX_SIDE), parse_integer(width, where, "Width", _MAX_SIDE)
        solution = solutions.setdefault(name, Solution(size, line))
        if solution is None:
            raise UserError(f"{where}: image {quote(name)} is ignored in another row")
        if solution.size != size:
            here, there = format_size(size), format_size(solution.size)
            raise UserError(f"{where}: image {quote(name)} is {here}, but {there} in line {solution.line}")
        if code:
            solution.counts.append(_parse_runs(code, size[0] * size[1], where))
    return solutions


def _parse_runs(code: str, area: int, where: str) -> NDArray[np.int64]:
    """Convert "start length start length ...", which counts pixels from 1 in column order, to COCO's counts."""
    words = code.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 16 for word in words):
        raise UserError(f"{where}: EncodedPixels is {quote(code)}; it must be integers")
    numbers = [int(word) for word in words]
    if len(numbers) % 2:
        count = format_count(len(numbers), "numbers")
        raise UserError(f"{where}: EncodedPixels has {count}; it must be pairs of start and length")
    runs = sorted((start - 1, start - 1 + length) for start, length in zip(numbers[::2], numbers[1::2], strict=True))
    for start, end in runs:
        if not 0 <= start < end <= area:
            raise UserError(
                f"{where}: the run of {end - start} pixels from {start + 1} exceeds the image of {area} pixels"
            )
    for (_, end), (start, _) in pairwise(runs):
        if start < end:
            raise UserError(f"{where}: two runs overlap at pixel {start + 1}; remove one")
    borders = np.array([0, *(border for run in runs for border in run), area], np.int64)
    return borders[1:] - borders[:-1]
