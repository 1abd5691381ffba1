"""Top-k limits at inference: how they grow with an image, and a count of what they cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from maskrcnn.model.config import DetectorConfig

PLAUSIBLE_LOGIT = 0.0  # proposals with an objectness below .5 that a limit cuts are not worth a notice


@dataclass(frozen=True)
class LimitCut:
    """What one limit cut: `detections` (or proposals) that were likely objects, in `views` images or views."""

    option: str
    detections: int
    views: int


class LimitCuts:
    """Counts, on the device and without waiting for it, of what the limits cut at inference."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}

    def add(self, option: str, cut: Tensor) -> None:
        """Count `cut`, int64 scalar, of one image."""
        both = torch.stack([cut, (cut > 0).to(cut.dtype)])
        before = self._counts.get(option)
        self._counts[option] = both if before is None else before.to(both.device) + both

    def found(self) -> list[LimitCut]:
        """The limits that cut something since the last `clear`."""
        counts = {option: count.tolist() for option, count in self._counts.items()}
        return [LimitCut(option, cut, views) for option, (cut, views) in counts.items() if cut]

    def clear(self) -> None:
        """Start counting anew."""
        self._counts.clear()


def limit_factor(size: tuple[int, int], limit_size: int) -> float:
    """By how much the limits of an image of `size` (H, W) exceed those of `limit_size` squared; 1 at least.

    Where `limit_size` is 0 the limits are the same for all images.
    """
    return max(1.0, size[0] * size[1] / limit_size**2) if limit_size else 1.0


def scaled_limit(limit: int, factor: float) -> int:
    """A limit of an image whose `limit_factor` is `factor`."""
    return math.ceil(limit * factor)


def limit_values(config: DetectorConfig) -> Mapping[str, int]:
    """The inference limits, by the name of their option."""
    return {
        "pre_nms_limit": config.rpn.pre_nms_limit,
        "post_nms_rois_inference": config.rpn.post_nms_inference,
        "detection_max_instances": config.box.max_instances,
    }


def describe_cuts(cuts: LimitCuts, config: DetectorConfig) -> str | None:
    """One line that names the limits that cut something, and how to raise them; None where none did."""
    found = cuts.found()
    if not found:
        return None
    values = limit_values(config)
    per = f" per {config.limit_size}² px" if config.limit_size else ""
    words = [
        f"--{cut.option} ({values[cut.option]:,}{per}) cut {cut.detections:,} {_what(cut.option)} in {cut.views:,} "
        f"image{'s' * (cut.views > 1)} or tiles"
        for cut in found
    ]
    return f"limits reached, objects may be missing: {'; '.join(words)}; raise them"


def _what(option: str) -> str:
    return "detections" if option == "detection_max_instances" else "proposals of objectness ≥ .5"
