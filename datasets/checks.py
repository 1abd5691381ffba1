"""What every reader does with doubtful annotations: refuse, drop or clip by one rule, and count."""

import logging
import re
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError

_CONTROLS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")
_log = logging.getLogger("datasets")


class Tally:
    """What was dropped or clipped while reading, counted by rule; the first of each rule is logged with its place."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, rule: str, where: str, count: int = 1) -> None:
        """``rule`` in the plural, such as "boxes outside the image dropped"; ``where`` file and object."""
        if not count:
            return
        if rule not in self.counts:
            _log.warning("%s: %s (the first; others are counted)", where, rule)
        self.counts[rule] += count


class TallyByImage:
    """A tally in which each image counts once, however often it is read."""

    def __init__(self) -> None:
        self.total, self._muted = Tally(), _Muted()
        self._seen: set[int] = set()

    @property
    def counts(self) -> Counter[str]:
        return +self.total.counts  # without rules that met nothing

    def of(self, index: int) -> Tally:
        """What to count image ``index`` in: one that forgets from the second time on."""
        if index in self._seen:
            return self._muted
        self._seen.add(index)
        return self.total


class _Muted(Tally):
    def add(self, rule: str, where: str, count: int = 1) -> None:
        pass


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
