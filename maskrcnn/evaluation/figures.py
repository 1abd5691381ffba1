"""All figures of one evaluation, flat, under the names that ``metrics.jsonl`` uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maskrcnn.evaluation.coco import COCOFigures, evaluate_coco, recall_at_limits
from maskrcnn.evaluation.nuclei import count_error, dsb_mean_precision
from maskrcnn.structures.instances import Instances

Head = str  # "rpn", "faster_rcnn" or "mask_rcnn"

PROPOSAL_LIMITS = (10, 100, 1000)


@dataclass(frozen=True)
class Evaluation:
    """``metrics`` flat by name; ``box`` and ``mask`` (Mask R-CNN only) with the curves behind them."""

    metrics: dict[str, float]
    box: COCOFigures
    mask: COCOFigures | None


def evaluate(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    head: Head,
    class_agnostic: bool = False,
    score_threshold: float = 0.5,
    min_visible_fraction: float = 0.9,
) -> Evaluation:
    """Everything that is measured for a head, from truths and predictions by image id.

    All heads: ``box_ap``, ``box_ap50``, ``box_ap75``, ``box_ap_<size>``, ``box_ar``, ``box_ar_<size>`` and, with
    several classes, ``box_ap_class_<name>``. The RPN: class-agnostic, and ``ar_10``, ``ar_100``, ``ar_1000``,
    ``ar_all``. Heads with classes: ``count_error`` and ``count_bias`` (mean unsigned and signed error of the count,
    objects an image). Mask R-CNN, when truths have masks: the same as for boxes under ``mask_``, and
    ``dsb_mean_precision``. A figure that no truth defines is left out. ``score_threshold`` is for counts and label
    images, ``min_visible_fraction`` (see ``dsb_mean_precision``) for label images only.
    """
    agnostic = class_agnostic or head == "rpn"
    limits = (1, *PROPOSAL_LIMITS) if head == "rpn" else (1, 100)
    box = evaluate_coco(truths, predictions, class_names, "box", agnostic, limits)
    figures = _flatten("box", box)
    mask = None
    if head == "rpn":
        figures.update(recall_at_limits(box, PROPOSAL_LIMITS))
    else:
        figures.update(_counts(truths, predictions, score_threshold))
    if head == "mask_rcnn" and _have_masks(truths):
        mask = evaluate_coco(truths, predictions, class_names, "mask", agnostic)
        figures.update(_flatten("mask", mask))
        figures["dsb_mean_precision"] = dsb_mean_precision(truths, predictions, score_threshold, min_visible_fraction)
    return Evaluation({name: value for name, value in figures.items() if value is not None}, box, mask)


def _flatten(prefix: str, figures: COCOFigures) -> dict[str, float | None]:
    flat: dict[str, float | None] = {"ap": figures.ap, "ap50": figures.ap50, "ap75": figures.ap75, "ar": figures.ar}
    flat.update({f"ap_{size}": value for size, value in figures.ap_by_size.items()})
    flat.update({f"ar_{size}": value for size, value in figures.ar_by_size.items()})
    if len(figures.class_names) > 1:
        flat.update({f"ap_class_{name}": value for name, value in figures.ap_by_class.items()})
    return {f"{prefix}_{name}": value for name, value in flat.items()}


def _counts(
    truths: Mapping[int, Instances], predictions: Mapping[int, Instances], score_threshold: float
) -> dict[str, float | None]:
    error = count_error(truths, predictions, score_threshold)
    return {"count_error": error.absolute, "count_bias": error.signed} if error is not None else {}


def _have_masks(truths: Mapping[int, Instances]) -> bool:
    return all(truth.masks is not None or not len(truth) for truth in truths.values())
