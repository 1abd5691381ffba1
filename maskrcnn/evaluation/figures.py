"""All figures of one evaluation, flat, under the names that ``metrics.jsonl`` uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maskrcnn.evaluation.coco import COCOFigures, evaluate_coco, match_detections, recall_at_limits
from maskrcnn.evaluation.nuclei import count_error, dsb_mean_precision
from maskrcnn.evaluation.operating_point import DEFAULT_THRESHOLD, find_operating_point
from maskrcnn.structures.instances import Instances

Head = str  # "rpn", "faster_rcnn" or "mask_rcnn"

PROPOSAL_LIMITS = (10, 100, 1000)


LEGEND = {  # what the metrics that are printed mean
    "ap": "average precision, mean over IoU .5 to .95 and classes; ap50: at IoU .5",
    "ar_100": "recall with the 100 best proposals per image, mean over IoU .5 to .95",
}
LEGEND_AT_THRESHOLD = {
    "dsb_mean_precision": "mean of TP / (TP + FP + FN) over IoU .5 to .95 and images",
    "f1": "2 TP / (2 TP + FP + FN) at IoU .5",
    "count_error": "mean absolute difference of the counts per image",
}


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
    score_threshold: float | None = DEFAULT_THRESHOLD,
    min_visible_fraction: float = 0.9,
) -> Evaluation:
    """Everything that is measured for a head, from truths and predictions by image id.

    All heads: ``box_ap``, ``box_ap50``, ``box_ap75``, ``box_ap_<size>``, ``box_ar``, ``box_ar_<size>`` and, with
    several classes, ``box_ap_class_<name>``. The RPN: class-agnostic, and ``ar_10``, ``ar_100``, ``ar_1000``,
    ``ar_all``. Mask R-CNN, when truths have masks: the same as for boxes under ``mask_``, and ``dsb_mean_precision``. A
    figure that no truth defines is left out.

    All heads, at ``operating_threshold``: ``f1`` (at IoU .5, of masks where they are evaluated, else of boxes),
    ``count_error`` and ``count_bias`` (mean absolute and signed error of the number of objects per image). That is
    ``score_threshold``, or where this is None, as for validation images, the one of the best F1 on these images (see
    ``maskrcnn.evaluation.operating_point``), .5 where there is none.
    ``dsb_mean_precision`` uses it, too; ``min_visible_fraction`` (see there) is for label images only.
    """
    agnostic = class_agnostic or head == "rpn"
    limits = (1, *PROPOSAL_LIMITS) if head == "rpn" else (1, 100)
    box = evaluate_coco(truths, predictions, class_names, "box", agnostic, limits)
    figures = _flatten("box", box)
    mask = None
    by_masks = head == "mask_rcnn" and _have_masks(truths)
    matches = match_detections(truths, predictions, class_names, "mask" if by_masks else "box", agnostic)
    if score_threshold is None:
        point = find_operating_point(matches)
        score_threshold = DEFAULT_THRESHOLD if point is None else point.threshold
    figures |= {"operating_threshold": score_threshold, "f1": matches.f1(score_threshold)}
    figures |= _counts(truths, predictions, score_threshold)
    if head == "rpn":
        figures |= recall_at_limits(box, PROPOSAL_LIMITS)
    if by_masks:
        mask = evaluate_coco(truths, predictions, class_names, "mask", agnostic)
        figures |= _flatten("mask", mask)
        figures["dsb_mean_precision"] = dsb_mean_precision(truths, predictions, score_threshold, min_visible_fraction)
    return Evaluation({name: value for name, value in figures.items() if value is not None}, box, mask)


def explain_metrics(names: Iterable[str], threshold: float, origin: str) -> list[str]:
    """Lines that explain the metrics among `names`; `origin` says where the score threshold comes from."""
    there = {name.removeprefix("box_").removeprefix("mask_") for name in names}
    lines = [f"{name}: {meaning}" for name, meaning in LEGEND.items() if name in there]
    scored = [f"{name}: {meaning}" for name, meaning in LEGEND_AT_THRESHOLD.items() if name in there]
    return lines + [f"at score ≥ {threshold:.3g} ({origin}), {'; '.join(scored)}"] * bool(scored)


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
