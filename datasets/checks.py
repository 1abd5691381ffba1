"""Checks shared by all readers: invalid annotations are rejected, dropped or clipped by the same rules, and counted."""

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
_logged: set[str] = set()  # rules of which a case was logged
MAX_MARGIN = 3.0  # pixels: margin that common tools leave between a mask and its box

RULES = (
    "boxes that are not finite dropped",
    "inverted or empty boxes dropped",
    "boxes outside the image dropped",
    "boxes clipped to the image",
    "objects without a mask, used for boxes only",
    "objects with an empty mask and no box dropped",
    "boxes that do not fit their mask",
    "polygons of fewer than three points dropped",
    "invalid annotations skipped",
    "objects of classes that are not selected left out",
    "empty masks dropped",
    "images without a row in the solution file left out",
    "label images read with a background other than 0",
    "label images of one value read as masks, split into connected components",
    "label images whose border of 255 is not read as an object",
    "images mostly covered by one object",
    "16-bit images with values outside the gray levels shown (--gray_levels)",
    "numbers in many pieces (classes instead of objects?) in a sample of the label images",
    "label images in color, read as numbers R + 256 G + 65,536 B",
    "pieces of objects made objects of their own (--split_components)",
    "lines and points dropped, which have no area",
    "outlines clipped to the image",
    "self-intersecting outlines filled by the even-odd rule",
    "annotations around detections left out",
    "tiles, TMA cores and regions of interest left out",
)


class Tally:
    """Number of dropped, clipped or skipped annotations by rule; the first of each rule is logged."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, rule: str, where: str, count: int = 1) -> None:
        """Count annotations, and log the first of a rule.

        Args:
            rule: one of `RULES`.
            where: file and object.
            count: number of annotations.
        """
        if not count:
            return
        if rule not in self.counts:
            _log_first(rule, where)
        self.counts[rule] += count


class TallyByImage:
    """A tally in which each image counts once, however often it is read and by whichever data loader worker."""

    def __init__(self, num_images: int, opening: Tally | None = None) -> None:
        """Create a tally of `num_images` images; `opening` has the counts that do not belong to an image."""
        self._opening = Counter[str]() if opening is None else opening.counts
        # In shared memory. Every process that reads an image writes the same numbers, so no lock is needed.
        self._by_image = torch.zeros(num_images, len(RULES), dtype=torch.int32).share_memory_()

    @property
    def counts(self) -> Counter[str]:
        """Counts by rule, without those that are 0."""
        return self._opening + Counter(dict(zip(RULES, self._by_image.sum(dim=0).tolist(), strict=True)))

    def of(self, index: int) -> Tally:
        """Return the tally of one image, to which each rule is added at most once."""
        return _ImageTally(self._by_image, index)


class TalliedImages:
    """Base of readers that count in `_tallies`, image by image; readers set it and `image_ids`."""

    image_ids: list[int]
    _tallies: TallyByImage

    @property
    def counts(self) -> Counter[str]:
        """Number of dropped or corrected annotations so far, by rule."""
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self.image_ids)


class _ImageTally(Tally):
    def __init__(self, by_image: Tensor, index: int) -> None:
        self._by_image, self._index = by_image, index

    def add(self, rule: str, where: str, count: int = 1) -> None:
        if not count:
            return
        of_rule = self._by_image[:, RULES.index(rule)]
        if not of_rule.any():
            _log_first(rule, where)
        of_rule[self._index] = count


def _log_first(rule: str, where: str) -> None:
    """Log the first case of a rule in this process, whichever split or data set it is in."""
    if rule not in _logged:
        _logged.add(rule)
        _log.warning("%s: %s (first of its kind; others are only counted)", escape(where), rule)


def format_size(size: Sequence[int]) -> str:
    """Format a size (H, W) as width x height, as image programs show it."""
    return f"{size[1]} x {size[0]}"


def check_size(path: Path, size: Sequence[int], image_size: Sequence[int]) -> None:
    """Raise a UserError if labels or a mask differ in size (H, W) from their image."""
    if tuple(size) != tuple(image_size):
        raise UserError(f"{path}: is {format_size(size)} but its image is {format_size(image_size)}")


def resolve_inside(folder: Path, name: str, named_by: str) -> Path:
    """Return `folder / name` for a file name from an annotation file.

    Args:
        folder: the data folder.
        name: relative path, in the notation of any operating system.
        named_by: where the name comes from, for error messages.

    Raises:
        UserError: If the name is empty, absolute, points out of the folder or contains control characters.
    """
    windows, posix = PureWindowsPath(name), PurePosixPath(name.replace("\\", "/"))
    bad = not posix.parts or windows.drive or windows.root or posix.is_absolute() or ".." in posix.parts
    if bad:
        raise UserError(f"{named_by}: file name {name[:200]!r} points out of the data folder; use a relative path")
    if _CONTROLS.search(name):
        raise UserError(f"{named_by}: file name {name[:200]!r} has control characters; rename the file")
    return folder.joinpath(*posix.parts)


def clip_boxes(
    boxes: NDArray[np.float64], size: tuple[int, int], tally: Tally, where: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip the boxes of an image to it, and drop invalid ones.

    Boxes that are not finite, inverted, empty or completely outside the image are dropped. All are counted.

    Args:
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels.
        size: image size (H, W).
        tally: where dropped and clipped boxes are counted.
        where: file, for the log.

    Returns:
        The K kept boxes, float32 [K, 4], and which boxes are kept, bool [N].
    """
    finite = np.isfinite(boxes).all(axis=1)
    valid = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    low, high = np.zeros(2), np.array([size[1], size[0]], np.float64)
    safe = np.where(valid[:, None], boxes, 0.0)
    clipped = np.concatenate([safe[:, :2].clip(low, high), safe[:, 2:].clip(low, high)], axis=1).astype(np.float32)
    exceeds = ((safe[:, :2] < low) | (safe[:, 2:] > high)).any(axis=1)
    # Checked after rounding to float32, so that kept boxes are not empty in float32 either.
    kept = valid & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    tally.add("boxes that are not finite dropped", where, int((~finite).sum()))
    tally.add("inverted or empty boxes dropped", where, int((finite & ~valid).sum()))
    tally.add("boxes outside the image dropped", where, int((valid & ~kept).sum()))
    tally.add("boxes clipped to the image", where, int((kept & exceeds).sum()))
    return clipped[kept], kept


def reconcile_boxes(
    boxes: NDArray[np.float64], masks: CroppedMasks, tally: Tally, where: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Combine annotated boxes with masks.

    An object without a valid box gets the bounding box of its mask; an object with an empty mask keeps its box; an
    object with neither is dropped. All are counted.

    Args:
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels; NaN where there is none.
        masks: the N masks.
        tally: where dropped and clipped boxes and missing masks are counted.
        where: file, for the log.

    Returns:
        Boxes float32 [N, 4], and which objects are kept, bool [N].
    """
    extents, drawn = masks.boxes().numpy(), (masks.areas() > 0).numpy()
    given = np.flatnonzero(~np.isnan(boxes).all(axis=1))
    found, usable = clip_boxes(boxes[given], masks.size, tally, where)
    at = given[usable]
    result, kept = extents.copy(), drawn.copy()
    result[at] = found
    kept[at] = True
    margins = np.abs(result - extents).reshape(-1, 2, 2)  # by corner
    allowed = np.maximum(MAX_MARGIN, (extents[:, 2:] - extents[:, :2]) / 2)
    does_not_fit = drawn & (margins > allowed[:, None]).any(axis=(1, 2))
    tally.add("objects without a mask, used for boxes only", where, int((kept & ~drawn).sum()))
    tally.add("objects with an empty mask and no box dropped", where, int((~kept).sum()))
    tally.add("boxes that do not fit their mask", where, int(does_not_fit.sum()))
    return result, kept
