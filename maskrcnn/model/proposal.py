"""The anchors, strides and top-k limits that a data set asks for: the fewest that match enough of its objects."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.anchors import base_sizes
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.coverage import Truths, best_ious, grid_gaps, iou_with, pyramid_strides, share

STEPS = 8  # of sizes and of ratios in an octave
SMALL = 0.05  # share of objects
HEADROOM = 0.01  # added to the wanted coverage while searching, for images that are not there
MOST_LEVELS = 5
SEARCHED = 4096  # truths that the search looks at, evenly spaced; what it finds is measured on all
_PERCENTILES = (0.03, 0.97)  # of the sizes, where the first ladder of anchors begins and ends

Sizes = tuple[tuple[int, ...], ...]  # of each level, in steps of an octave


class Crowding(NamedTuple):
    """Objects close together. crop, typical: in a training sample, the 99% and the 50%.

    fullest: in one image, divided by the image's `maskrcnn.model.limits.limit_factor`.
    """

    fullest: int
    crop: int
    typical: int


# ---- anchors and strides


def propose_anchors(
    truths: Truths,
    config: DetectorConfig,
    coverage: float = 0.95,
    max_anchors: int = 9,
    finest_strides: Sequence[int] | None = None,
) -> DetectorConfig:
    """`config` with the strides, anchor sizes and ratios that this data asks for.

    The first of the finest strides (None: of 4 and 2, or of 2 and 4 where many objects are small) with which
    `max_anchors` a location match the share `coverage` of the truths at IoU .5 from some anchor of the image; there the
    fewest anchors a location, then the fewest levels, then the most truths at IoU .7. The body keeps its stages; the
    pyramid grows where larger objects need it. Where nothing matches enough, what matches most.

    Raises:
        ValueError: no truths.
    """
    if not len(truths.boxes):
        raise ValueError("there are no truths to propose anchors for")
    finest_strides = _preferred_strides(truths) if finest_strides is None else finest_strides
    every = torch.arange(0, len(truths.boxes), -(-len(truths.boxes) // SEARCHED))
    sample = Truths(truths.boxes[every], truths.sizes[every])
    best, most = config, -1.0
    for candidate in _candidates(sample, config, coverage + HEADROOM, max_anchors, finest_strides):
        matched = share(best_ious(truths, candidate), 0.5)
        if matched > most:
            best, most = candidate, matched
        if matched >= coverage:
            break
    return _with_roi_levels(best)


def _preferred_strides(truths: Truths) -> tuple[int, ...]:
    """Finest strides, the better first: 4, unless more than SMALL of the objects are smaller than two of its cells."""
    sizes = (truths.boxes[:, 2:] - truths.boxes[:, :2]).prod(dim=1).sqrt()
    return (2, 4) if float((sizes < 2 * 4).double().mean()) > SMALL else (4, 2)


def _candidates(
    truths: Truths, config: DetectorConfig, wanted: float, max_anchors: int, finest_strides: Sequence[int]
) -> Iterator[DetectorConfig]:
    """The best configuration of each finest stride, number of anchors and number of levels, in order of preference."""
    for finest in finest_strides:
        for anchors in range(1, max_anchors + 1):
            for levels in range(config.backbone.num_levels, MOST_LEVELS + 1):
                search = _Search(truths, _with_levels(config, finest, levels), wanted)
                found = [
                    search.run(anchors // ratios, ratios) for ratios in range(1, anchors + 1) if not anchors % ratios
                ]
                yield search.configured(*max(found)[1:])


def _with_levels(config: DetectorConfig, finest: int, levels: int) -> DetectorConfig:
    """So many levels for the RPN; the last is pooled where the body has a stage less."""
    stages = max(config.backbone.num_levels, levels - 1)
    backbone = dataclasses.replace(config.backbone, finest_stride=finest, num_levels=stages, pool_level=levels > stages)
    return dataclasses.replace(config, backbone=backbone)


def _with_roi_levels(config: DetectorConfig) -> DetectorConfig:
    """Each RoI from the coarsest level on which its bins are still two cells wide, or from the finest."""
    finest = config.backbone.finest_stride
    box = dataclasses.replace(
        config.box, canonical_size=2.0 * config.box.pool_size * finest, canonical_level=finest.bit_length() - 1
    )
    return dataclasses.replace(config, box=box)


class _Search:
    """Hill climbing over anchor sizes and ratios in steps of an eighth of an octave, for given levels."""

    def __init__(self, truths: Truths, config: DetectorConfig, wanted: float) -> None:
        self.config, self.wanted = config, wanted
        self.gaps = [grid_gaps(truths, level, config) for level in range(len(pyramid_strides(config.backbone)))]
        sides = truths.boxes[:, 2:] - truths.boxes[:, :2]
        self.sizes = STEPS * sides.prod(dim=1).clamp(min=1e-6).log2() / 2
        self.largest = math.ceil(float(self.sizes.max()))
        self.middle = round(float(STEPS * (sides[:, 1] / sides[:, 0].clamp(min=1e-6)).clamp(1e-3, 1e3).log2().median()))
        self._ious: dict[tuple[int, int, int], Tensor] = {}

    def run(self, sizes_a_level: int, num_ratios: int) -> tuple[float, Sizes, tuple[int, ...]]:
        """The best score found, and its sizes and ratios."""
        starts = [
            (sizes, ratios)
            for sizes in self._ladders(sizes_a_level)
            for ratios in {tuple(self._spread(num_ratios, width)) for width in (3, 5, 8)}
        ]
        score, sizes, ratios = max((self.score(*start), *start) for start in starts)
        while True:
            moves = [(moved, ratios) for moved in _moved_sizes(sizes)]
            moves += [(sizes, moved) for moved in _moved_ratios(ratios)]
            best = max((self.score(*move), *move) for move in moves)
            if best[0] <= score + 1e-6:
                return score, sizes, ratios
            score, sizes, ratios = best

    def _ladders(self, sizes_a_level: int) -> Iterator[Sizes]:
        levels = len(self.gaps)
        low, high = torch.quantile(self.sizes, self.sizes.new_tensor(_PERCENTILES)).tolist()
        even = round((high - low) / max(1, levels * sizes_a_level - 1))
        for step in sorted({max(1, even), max(1, even + 1), 4, 8}):
            ladder = [max(0, round(low)) + step * number for number in range(levels * sizes_a_level)]
            yield tuple(tuple(ladder[i * sizes_a_level : (i + 1) * sizes_a_level]) for i in range(levels))

    def _spread(self, count: int, width: int) -> Iterator[int]:
        return (self.middle + round(width * (number - (count - 1) / 2)) for number in range(count))

    def score(self, sizes: Sizes, ratios: tuple[int, ...]) -> float:
        """First what is matched at .5, up to what is wanted; then at .7, and a little for every bit of IoU.

        Sizes above the largest object cost a little, so that idle ones stay near the others.
        """
        best = torch.zeros_like(self.sizes)
        for level, of_level in enumerate(sizes):
            for size in of_level:
                for ratio in ratios:
                    torch.maximum(best, self.iou(level, size, ratio), out=best)
        idle = sum(max(0, size - self.largest) for of_level in sizes for size in of_level)
        matched = min(share(best, 0.5), self.wanted) + 0.3 * share(best, 0.7)
        return matched + 0.1 * float(best.mean()) - 1e-4 * idle

    def iou(self, level: int, size: int, ratio: int) -> Tensor:
        key = level, size, ratio
        if key not in self._ious:
            shape = base_sizes([_rounded(size)], [_rounded(ratio)], self.config.rpn.round_anchors)
            width, height = shape[0].tolist()
            self._ious[key] = iou_with(self.gaps[level], width, height)
        return self._ious[key]

    def configured(self, sizes: Sizes, ratios: tuple[int, ...]) -> DetectorConfig:
        rpn = dataclasses.replace(
            self.config.rpn,
            anchor_sizes=tuple(tuple(_rounded(size) for size in of_level) for of_level in sizes),
            anchor_ratios=tuple(_rounded(ratio) for ratio in ratios),
        )
        return dataclasses.replace(self.config, rpn=rpn)


def _moved_sizes(sizes: Sizes) -> Iterator[Sizes]:
    """One size changed, with all of them still rising."""
    flat, width = [size for of_level in sizes for size in of_level], len(sizes[0])
    for place, size in enumerate(flat):
        low = flat[place - 1] if place else -1
        high = flat[place + 1] if place + 1 < len(flat) else math.inf
        for moved in (size - 2, size - 1, size + 1, size + 2):
            if low < moved < high:
                new = [*flat[:place], moved, *flat[place + 1 :]]
                yield tuple(tuple(new[i : i + width]) for i in range(0, len(new), width))


def _moved_ratios(ratios: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for place, ratio in enumerate(ratios):
        for moved in (ratio - 1, ratio + 1):
            if moved not in ratios:
                yield tuple(sorted({*ratios[:place], moved, *ratios[place + 1 :]}))


def _rounded(steps: int) -> float:
    """The size or ratio that many steps from 1, to three figures."""
    return float(f"{2 ** (steps / STEPS):.3g}")


# ---- limits


def propose_limits(config: DetectorConfig, crowding: Crowding) -> DetectorConfig:
    """`config` with top-k limits that leave room for the fullest image and the fullest training sample.

    At inference the limits grow with an image's area, see `maskrcnn.model.limits`.

    Before NMS each object is found by many anchors, after it by several proposals, in the end by one detection and
    some doubtful ones. In training each object can have two positives among the anchors and among the RoIs.
    """
    fullest, crop, typical = crowding
    rpn = dataclasses.replace(
        config.rpn,
        pre_nms_limit=_up(8 * fullest, 500),
        pre_nms_limit_training=_up(8 * crop, 200),
        post_nms_inference=_up(3 * fullest, 200),
        post_nms_training=_up(4 * crop, 200),
        anchors_per_image=_up(2 * crop / max(config.rpn.positive_fraction, 0.1), 128),
    )
    box = dataclasses.replace(
        config.box,
        max_instances=_up(2 * fullest, 100),
        rois_per_image=_up(2 * typical / max(config.box.positive_fraction, 0.1), 64),
    )
    return dataclasses.replace(config, rpn=rpn, box=box)


def _up(number: float, least: int) -> int:
    """The next round number (1, 1.2, 1.5, 2, 2.5 ... times a power of ten), `least` at least."""
    if number <= least:
        return least
    power = 10.0 ** math.floor(math.log10(number))
    return math.ceil(min(step * power for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= number))
