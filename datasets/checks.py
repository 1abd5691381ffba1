"""What every reader does with doubtful annotations: refuse, drop or clip by one rule, and count."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.text import escape

_CONTROLS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")
_log = logging.getLogger("datasets")
MAX_MARGIN = 3.0  # pixels between a box and its mask, as tools leave them, before a notice says so


RULES = (
    "boxes that are not finite dropped",
    "inverted or empty boxes dropped",
    "boxes outside the image dropped",
    "boxes clipped to the image",
    "objects without a mask, which count for boxes only",
    "objects with an empty mask and no box dropped",
    "boxes that do not fit their mask",
    "outlines of fewer than three points dropped",
    "annotations that are broken skipped",
    "empty masks dropped",
    "images without a row in the solution file left out",
    "label images with a background of another number than 0 read",
    "label images of one value read as masks, split into connected pieces",
    "label images whose border of 255 is taken for no object",
    "images of which one object covers most",
    "16-bit images with values beyond the gray levels shown (--gray_levels)",
    "numbers in many pieces (classes instead of objects?) in the label images looked at first",
)


class Tally:
    """What was dropped, clipped or left out, counted by rule; the first of each rule is logged with its place."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, rule: str, where: str, count: int = 1) -> None:
        """``rule`` is one of ``RULES``; ``where``: file and object."""
        if not count:
            return
        if rule not in self.counts:
            _say(rule, where)
        self.counts[rule] += count


class TallyByImage:
    """A tally in which each image counts once, however often it is read and in whichever process of a loader."""

    def __init__(self, num_images: int, opening: Tally | None = None) -> None:
        """``opening``: what was counted before, of no image."""
        self._opening = Counter[str]() if opening is None else opening.counts
        # In memory that processes share. Whoever reads an image writes the same numbers, so no lock is needed.
        self._by_image = torch.zeros(num_images, len(RULES), dtype=torch.int32).share_memory_()

    @property
    def counts(self) -> Counter[str]:
        """By rule, without rules that met nothing."""
        return self._opening + Counter(dict(zip(RULES, self._by_image.sum(dim=0).tolist(), strict=True)))

    def of(self, index: int) -> Tally:
        """What to count image ``index`` in, each rule at most once."""
        return _TallyOfImage(self._by_image, index)


class _TallyOfImage(Tally):
    def __init__(self, by_image: Tensor, index: int) -> None:
        self._by_image, self._index = by_image, index

    def add(self, rule: str, where: str, count: int = 1) -> None:
        if not count:
            return
        of_rule = self._by_image[:, RULES.index(rule)]
        if not of_rule.any():
            _say(rule, where)
        of_rule[self._index] = count


def _say(rule: str, where: str) -> None:
    _log.warning("%s: %s (the first; others are counted)", escape(where), rule)


def in_words(size: Sequence[int]) -> str:
    """A size (H, W) with the width first, as image programs say it."""
    return f"{size[1]} x {size[0]}"


def check_size(path: Path, size: Sequence[int], image_size: Sequence[int]) -> None:
    """UserError where labels or a mask are of another size (H, W) than their image."""
    if tuple(size) != tuple(image_size):
        raise UserError(f"{path}: is {in_words(size)} but its image is {in_words(image_size)}")


def inside_folder(folder: Path, name: str, named_by: str) -> Path:
    """``folder / name``, where ``name`` stands in an annotation file at ``named_by``.

    Raises:
        UserError: an empty or absolute path, or one that climbs out of the folder, in the notation of any system;
            control characters or line breaks.
    """
    windows, posix = PureWindowsPath(name), PurePosixPath(name.replace("\\", "/"))
    bad = not posix.parts or windows.drive or windows.root or posix.is_absolute() or ".." in posix.parts
    if bad:
        raise UserError(f"{named_by}: file name {name[:200]!r} leads out of the data folder; use a relative path in it")
    if _CONTROLS.search(name):
        raise UserError(f"{named_by}: file name {name[:200]!r} has control characters; rename the file")
    return folder.joinpath(*posix.parts)


def usable_boxes(
    boxes: NDArray[np.float64], size: tuple[int, int], tally: Tally, where: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes of one image clipped to it, and which of them are kept.

    Boxes that are not finite, inverted or empty, or lie wholly outside, are dropped; those that reach out are clipped.
    All are counted in ``tally``.

    Args:
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels.
        size: of the image, (H, W).

    Returns:
        float32 [K, 4] of the K kept boxes, and bool [N].
    """
    finite = np.isfinite(boxes).all(axis=1)
    right_way = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    low, high = np.zeros(2), np.array([size[1], size[0]], np.float64)
    safe = np.where(right_way[:, None], boxes, 0.0)
    clipped = np.concatenate([safe[:, :2].clip(low, high), safe[:, 2:].clip(low, high)], axis=1).astype(np.float32)
    reaches_out = ((safe[:, :2] < low) | (safe[:, 2:] > high)).any(axis=1)
    # After rounding to float32, so that what is kept has an area there, too.
    kept = right_way & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    tally.add("boxes that are not finite dropped", where, int((~finite).sum()))
    tally.add("inverted or empty boxes dropped", where, int((finite & ~right_way).sum()))
    tally.add("boxes outside the image dropped", where, int((right_way & ~kept).sum()))
    tally.add("boxes clipped to the image", where, int((kept & reaches_out).sum()))
    return clipped[kept], kept


def boxes_beside_masks(
    boxes: NDArray[np.float64], masks: CroppedMasks, tally: Tally, where: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The file's boxes of objects that have masks, and which objects are kept.

    An object without a box, or with one that cannot be used, gets the extent of its mask; one whose mask is empty keeps
    its box; one that has neither is dropped. All are counted in ``tally``.

    Args:
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels; NaN where the file has none.

    Returns:
        float32 [N, 4], and bool [N].
    """
    extents, drawn = masks.boxes().numpy(), (masks.areas() > 0).numpy()
    given = np.flatnonzero(~np.isnan(boxes).all(axis=1))
    found, usable = usable_boxes(boxes[given], masks.size, tally, where)
    at = given[usable]
    result, kept = extents.copy(), drawn.copy()
    result[at] = found
    kept[at] = True
    beside = np.abs(result - extents).reshape(-1, 2, 2)  # by corner
    room = np.maximum(MAX_MARGIN, (extents[:, 2:] - extents[:, :2]) / 2)
    tally.add("objects without a mask, which count for boxes only", where, int((kept & ~drawn).sum()))
    tally.add("objects with an empty mask and no box dropped", where, int((~kept).sum()))
    tally.add("boxes that do not fit their mask", where, int((drawn & (beside > room[:, None]).any(axis=(1, 2))).sum()))
    return result, kept
