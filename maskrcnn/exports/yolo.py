"""YOLO's text file of one image: a line per object, in fractions of the image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.outlines import join_rings

_DIGITS, _MORE_DIGITS, _LARGE = 6, 8, 10_000  # decimals; those of images with a longer side


def make_lines(instances: Instances, with_scores: bool = False) -> list[str]:
    """Make the lines of all objects, in their order; classes are numbered from 0 in the order of the labels.

    A mask is a polygon along the edges of its pixels; the rings of several parts and of holes are joined by lines there
    and back, which enclose nothing. An object without a mask is a box.

    Args:
        instances: objects of the image.
        with_scores: append the score of each box; polygons cannot have one.
    """
    height, width = instances.size
    digits = _DIGITS if max(instances.size) <= _LARGE else _MORE_DIGITS
    drawn, labels = instances.has_mask().tolist(), instances.labels.tolist()
    scale = np.array([width, height])
    lines = []
    for place, box in enumerate(instances.boxes.double().numpy()):
        if drawn[place] and instances.masks is not None:
            values = (join_rings(instances.masks.trace(place)) / scale).ravel()
            score = ""
        else:
            low, high = box[:2] / scale, box[2:] / scale
            values = np.concatenate([(low + high) / 2, high - low])
            has_score = with_scores and instances.scores is not None
            score = f" {float(instances.scores[place]):.4f}" if has_score else ""  # type: ignore[index]
        lines.append(f"{labels[place] - 1} {_format(values, digits)}{score}")
    return lines


def _format(values: Iterable[float], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}".rstrip("0").rstrip(".") or "0" for value in values)
