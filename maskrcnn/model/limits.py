"""Top-k limits at inference: scaling with the size of an image, and counts of the detections that they remove."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn.text import format_count

if TYPE_CHECKING:
    from maskrcnn.model.config import DetectorConfig

PLAUSIBLE_LOGIT = 0.0  # cut proposals are reported if their objectness is at least .5


@dataclass(frozen=True)
class LimitCut:
    """What one limit cut.

    Attributes:
        option: name of the limit's option.
        detections: number of detections or proposals that were cut and are likely objects.
        views: number of images or views in which the limit cut any.
    """

    option: str
    detections: int
    views: int


class LimitCuts:
    """Counts what the limits cut at inference, on the device and without synchronizing with it."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}

    def add(self, option: str, cut: Tensor) -> None:
        """Add the number of detections cut in one image, an int64 scalar."""
        both = torch.stack([cut, (cut > 0).to(cut.dtype)])
        before = self._counts.get(option)
        self._counts[option] = both if before is None else before.to(both.device) + both

    def found(self) -> list[LimitCut]:
        """Return the limits that cut something."""
        counts = {option: count.tolist() for option, count in self._counts.items()}
        return [LimitCut(option, cut, views) for option, (cut, views) in counts.items() if cut]


_counts: ContextVar[LimitCuts | None] = ContextVar("limit_cuts", default=None)


@contextmanager
def count_cuts() -> Iterator[LimitCuts]:
    """Count what the limits of all detectors cut at inference within the block.

    >>> with count_cuts() as cuts:
    ...     found = model.predict(image)
    >>> describe_cuts(cuts, model.detector.config)
    """
    cuts = LimitCuts()
    token = _counts.set(cuts)
    try:
        yield cuts
    finally:
        _counts.reset(token)


def get_counts() -> LimitCuts | None:
    """Return the counts of the innermost block of `count_cuts`; None outside, where nothing is counted."""
    return _counts.get()


def compute_limit_factor(size: tuple[int, int], limit_size: int) -> float:
    """Compute the factor by which limits grow for an image.

    Args:
        size: size of the image (H, W).
        limit_size: side of the images that the limits refer to; 0 for the same limits for all images.

    Returns:
        Ratio of the areas, at least 1.
    """
    return max(1.0, size[0] * size[1] / limit_size**2) if limit_size else 1.0


def scale_limit(limit: int, factor: float) -> int:
    """Scale a limit by the factor of an image, rounded up."""
    return math.ceil(limit * factor)


def get_limits(config: DetectorConfig) -> Mapping[str, int]:
    """Return the limits at inference by the name of their option."""
    return {
        "pre_nms_limit": config.rpn.pre_nms_top_n_inference,
        "post_nms_rois_inference": config.rpn.post_nms_top_n_inference,
        "detection_max_instances": config.box.max_detections,
    }


def describe_cuts(cuts: LimitCuts, config: DetectorConfig) -> str | None:
    """Return a line that names the limits that cut something and their options; None if none did."""
    found = cuts.found()
    if not found:
        return None
    values = get_limits(config)
    per = f" per {config.limit_size}² px" if config.limit_size else ""
    parts = [
        f"--{cut.option} ({values[cut.option]:,}{per}) cut {format_count(cut.detections, _name_cut(cut.option))} in "
        f"{cut.views:,} {'image or tile' if cut.views == 1 else 'images or tiles'}"
        for cut in found
    ]
    start, end = ("limit reached", "this limit") if len(found) == 1 else ("limits reached", "these limits")
    return f"{start}, objects may be missing: {'; '.join(parts)}; increase {end}"


def _name_cut(option: str) -> str:
    return "detections" if option == "detection_max_instances" else "proposals of objectness ≥ .5"
