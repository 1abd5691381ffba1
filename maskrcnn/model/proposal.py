"""Proposal of anchors, strides, and top-k limits for a data set: the fewest anchors that match enough objects."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.anchors import make_base_sizes
from maskrcnn.model.config import DetectorConfig, is_own_backbone
from maskrcnn.model.coverage import (
    TargetBoxes,
    compute_anchor_iou,
    compute_best_ious,
    compute_grid_gaps,
    compute_matched_fraction,
    compute_strides,
)

STEPS_PER_OCTAVE = 8  # of sizes and of ratios
MAX_SMALL_FRACTION = 0.05  # fraction of small objects above which stride 2 is preferred
HEADROOM = 0.01  # added to the coverage during the search, for unseen images
MAX_LEVELS = 5
MAX_SEARCH_OBJECTS = 4096  # objects used by the search, evenly spaced; results are evaluated on all
_PERCENTILES = (0.03, 0.97)  # range of object sizes covered by the initial anchors

Sizes = tuple[tuple[int, ...], ...]  # anchor sizes per level, in steps


class Crowding(NamedTuple):
    """Numbers of objects close together.

    Attributes:
        fullest: maximum per image, divided by the image's `maskrcnn.model.limits.compute_limit_factor`.
        crop: 99th percentile in a training sample.
        typical: median in a training sample.
    """

    fullest: int
    crop: int
    typical: int


# ---- anchors and strides


def propose_anchors(
    targets: TargetBoxes,
    config: DetectorConfig,
    coverage: float = 0.95,
    max_anchors: int = 9,
    finest_strides: Sequence[int] | None = None,
) -> DetectorConfig:
    """Return `config` with strides, anchor sizes, and anchor ratios for a data set.

    The first of the finest strides for which at most `max_anchors` per location match the fraction `coverage` of the
    objects at IoU .5 is chosen, with the fewest anchors per location, then the fewest levels, then the most objects
    matched at IoU .7. The body keeps its stages; the pyramid is extended if larger objects need it. If no configuration
    matches enough objects, the one that matches most is returned.

    Args:
        targets: boxes of the training objects.
        config: configuration to start from.
        coverage: fraction of objects to match at IoU .5.
        max_anchors: maximum number of anchors per location.
        finest_strides: finest strides in order of preference; default: 4 and 2, or 2 and 4 if many objects are small.

    Returns:
        The configuration.

    Raises:
        ValueError: If there are no objects.
    """
    if not len(targets.boxes):
        raise ValueError("targets must contain at least one box")
    if ":" in config.backbone.name:  # not every network has a map of stride 2
        finest_strides = compute_strides(config.backbone)[:1]
    finest_strides = _order_strides(targets) if finest_strides is None else finest_strides
    every = torch.arange(0, len(targets.boxes), -(-len(targets.boxes) // MAX_SEARCH_OBJECTS))
    sample = TargetBoxes(targets.boxes[every], targets.sizes[every])
    best, best_fraction = config, -1.0
    for candidate in _iterate_candidates(sample, config, coverage + HEADROOM, max_anchors, finest_strides):
        matched = compute_matched_fraction(compute_best_ious(targets, candidate), 0.5)
        if matched > best_fraction:
            best, best_fraction = candidate, matched
        if matched >= coverage:
            break
    return _set_roi_levels(best)


def _order_strides(targets: TargetBoxes) -> tuple[int, ...]:
    """Order the finest strides by preference: 4 first, unless too many objects are smaller than two of its cells."""
    sizes = (targets.boxes[:, 2:] - targets.boxes[:, :2]).prod(dim=1).sqrt()
    return (2, 4) if float((sizes < 2 * 4).double().mean()) > MAX_SMALL_FRACTION else (4, 2)


def _iterate_candidates(
    targets: TargetBoxes, config: DetectorConfig, wanted: float, max_anchors: int, finest_strides: Sequence[int]
) -> Iterator[DetectorConfig]:
    """Yield the best configuration for each finest stride, number of anchors, and number of levels, by preference."""
    own = is_own_backbone(config.backbone.name)
    num_levels = [len(compute_strides(config.backbone))] if own else range(config.backbone.num_levels, MAX_LEVELS + 1)
    for finest in finest_strides:
        for anchors in range(1, max_anchors + 1):
            for levels in num_levels:
                search = _AnchorSearch(targets, _set_levels(config, finest, levels), wanted)
                results = [
                    search.run(anchors // ratios, ratios) for ratios in range(1, anchors + 1) if not anchors % ratios
                ]
                yield search.make_config(*max(results)[1:])


def _set_levels(config: DetectorConfig, finest: int, levels: int) -> DetectorConfig:
    """Set the number of RPN levels; the last one is pooled if the body has one stage less."""
    if is_own_backbone(config.backbone.name):
        return config
    stages = max(config.backbone.num_levels, levels - 1)
    backbone = dataclasses.replace(config.backbone, finest_stride=finest, num_levels=stages, pool_level=levels > stages)
    return dataclasses.replace(config, backbone=backbone)


def _set_roi_levels(config: DetectorConfig) -> DetectorConfig:
    """Assign RoIs to the coarsest level on which bins are at least two cells wide, or else to the finest level."""
    finest = compute_strides(config.backbone)[0]
    box = dataclasses.replace(
        config.box, canonical_size=2.0 * config.box.pool_size * finest, canonical_level=finest.bit_length() - 1
    )
    return dataclasses.replace(config, box=box)


class _AnchorSearch:
    """Hill climbing over anchor sizes and ratios, in steps of an eighth of an octave, for given levels."""

    def __init__(self, targets: TargetBoxes, config: DetectorConfig, wanted: float) -> None:
        self.config, self.wanted = config, wanted
        self.gaps = [
            compute_grid_gaps(targets, level, config) for level in range(len(compute_strides(config.backbone)))
        ]
        sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
        self.sizes = STEPS_PER_OCTAVE * sides.prod(dim=1).clamp(min=1e-6).log2() / 2
        self.max_size = math.ceil(float(self.sizes.max()))
        self.middle = round(
            float(STEPS_PER_OCTAVE * (sides[:, 1] / sides[:, 0].clamp(min=1e-6)).clamp(1e-3, 1e3).log2().median())
        )
        self._ious: dict[tuple[int, int, int], Tensor] = {}

    def run(self, sizes_per_level: int, num_ratios: int) -> tuple[float, Sizes, tuple[int, ...]]:
        """Return the best score, and its sizes and ratios."""
        starts = [
            (sizes, ratios)
            for sizes in self._iterate_initial_sizes(sizes_per_level)
            for ratios in {tuple(self._space_ratios(num_ratios, width)) for width in (3, 5, 8)}
        ]
        score, sizes, ratios = max((self.score(*start), *start) for start in starts)
        while True:
            moves = [(changed, ratios) for changed in _vary_sizes(sizes)]
            moves += [(sizes, changed) for changed in _vary_ratios(ratios)]
            best = max((self.score(*move), *move) for move in moves)
            if best[0] <= score + 1e-6:
                return score, sizes, ratios
            score, sizes, ratios = best

    def _iterate_initial_sizes(self, sizes_per_level: int) -> Iterator[Sizes]:
        levels = len(self.gaps)
        low, high = torch.quantile(self.sizes, self.sizes.new_tensor(_PERCENTILES)).tolist()
        even = round((high - low) / max(1, levels * sizes_per_level - 1))
        for step in sorted({max(1, even), max(1, even + 1), 4, 8}):
            ladder = [max(0, round(low)) + step * number for number in range(levels * sizes_per_level)]
            yield tuple(tuple(ladder[i * sizes_per_level : (i + 1) * sizes_per_level]) for i in range(levels))

    def _space_ratios(self, count: int, width: int) -> Iterator[int]:
        return (self.middle + round(width * (number - (count - 1) / 2)) for number in range(count))

    def score(self, sizes: Sizes, ratios: tuple[int, ...]) -> float:
        """Score anchors by the fraction matched at .5, up to the desired one, then at .7, then by the mean IoU.

        Sizes above the largest object have a small penalty, which keeps unused sizes close to the others.
        """
        best = torch.zeros_like(self.sizes)
        for level, of_level in enumerate(sizes):
            for size in of_level:
                for ratio in ratios:
                    torch.maximum(best, self.iou(level, size, ratio), out=best)
        idle = sum(max(0, size - self.max_size) for of_level in sizes for size in of_level)
        matched = min(compute_matched_fraction(best, 0.5), self.wanted) + 0.3 * compute_matched_fraction(best, 0.7)
        return matched + 0.1 * float(best.mean()) - 1e-4 * idle

    def iou(self, level: int, size: int, ratio: int) -> Tensor:
        key = level, size, ratio
        if key not in self._ious:
            shape = make_base_sizes([_convert_steps(size)], [_convert_steps(ratio)], self.config.rpn.round_anchors)
            width, height = shape[0].tolist()
            self._ious[key] = compute_anchor_iou(self.gaps[level], width, height)
        return self._ious[key]

    def make_config(self, sizes: Sizes, ratios: tuple[int, ...]) -> DetectorConfig:
        rpn = dataclasses.replace(
            self.config.rpn,
            anchor_sizes=tuple(tuple(_convert_steps(size) for size in of_level) for of_level in sizes),
            anchor_ratios=tuple(_convert_steps(ratio) for ratio in ratios),
        )
        return dataclasses.replace(self.config, rpn=rpn)


def _vary_sizes(sizes: Sizes) -> Iterator[Sizes]:
    """Yield variations of one size that keep all sizes ascending."""
    flat, width = [size for of_level in sizes for size in of_level], len(sizes[0])
    for index, size in enumerate(flat):
        low = flat[index - 1] if index else -1
        high = flat[index + 1] if index + 1 < len(flat) else math.inf
        for changed in (size - 2, size - 1, size + 1, size + 2):
            if low < changed < high:
                new = [*flat[:index], changed, *flat[index + 1 :]]
                yield tuple(tuple(new[i : i + width]) for i in range(0, len(new), width))


def _vary_ratios(ratios: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for index, ratio in enumerate(ratios):
        for changed in (ratio - 1, ratio + 1):
            if changed not in ratios:
                yield tuple(sorted({*ratios[:index], changed, *ratios[index + 1 :]}))


def _convert_steps(steps: int) -> float:
    """Convert steps to a size or ratio with three significant digits."""
    return float(f"{2 ** (steps / STEPS_PER_OCTAVE):.3g}")


# ---- limits


def propose_limits(config: DetectorConfig, crowding: Crowding) -> DetectorConfig:
    """Return `config` with top-k limits that suffice for the fullest image and the fullest training sample.

    At inference the limits grow with the area of the image, see `maskrcnn.model.limits`.

    Before NMS each object has many matching anchors, after NMS several proposals, and finally one detection and some
    uncertain ones. In training each object can have two positive anchors and two positive RoIs.
    """
    fullest, crop, typical = crowding
    rpn = dataclasses.replace(
        config.rpn,
        pre_nms_top_n_inference=_round_up(8 * fullest, 500),
        pre_nms_top_n_training=_round_up(8 * crop, 200),
        post_nms_top_n_inference=_round_up(3 * fullest, 200),
        post_nms_top_n_training=_round_up(4 * crop, 200),
        anchors_per_image=_round_up(2 * crop / max(config.rpn.positive_fraction, 0.1), 128),
    )
    box = dataclasses.replace(
        config.box,
        max_detections=_round_up(2 * fullest, 100),
        rois_per_image=_round_up(2 * typical / max(config.box.positive_fraction, 0.1), 64),
    )
    return dataclasses.replace(config, rpn=rpn, box=box)


def _round_up(number: float, minimum: int) -> int:
    """Round up to a round number (1, 1.2, 1.5, 2, 2.5, … times a power of ten), at least `minimum`."""
    if number <= minimum:
        return minimum
    power = 10.0 ** math.floor(math.log10(number))
    return math.ceil(min(step * power for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= number))
