"""All metrics of one evaluation, as a flat dict with the names used in `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maskrcnn.evaluation.coco import COCOMetrics, evaluate_coco, get_recall_at_limits, match_dataset
from maskrcnn.evaluation.nuclei import compute_count_error, compute_dsb_mean_precision
from maskrcnn.evaluation.operating_point import DEFAULT_THRESHOLD, find_operating_point
from maskrcnn.structures.edges import MIN_VISIBLE_FRACTION
from maskrcnn.structures.instances import Instances

Head = str  # "rpn", "faster_rcnn" or "mask_rcnn"

PROPOSAL_LIMITS = (10, 100, 1000)


LEGEND = {  # explanations of the printed metrics
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
    """Result of an evaluation.

    Attributes:
        metrics: all metrics by name.
        box: COCO metrics of boxes, with their curves.
        mask: COCO metrics of masks; None unless masks were evaluated.
    """

    metrics: dict[str, float]
    box: COCOMetrics
    mask: COCOMetrics | None


def evaluate(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    head: Head,
    class_agnostic: bool = False,
    score_threshold: float | None = DEFAULT_THRESHOLD,
    min_visible_fraction: float = MIN_VISIBLE_FRACTION,
) -> Evaluation:
    """Compute all metrics of a head.

    For all heads: `box_ap`, `box_ap50`, `box_ap75`, `box_ap_<size>`, `box_ar`, `box_ar_<size>`, and, with several
    classes, `box_ap_class_<name>`. For the RPN, they are class-agnostic, and `ar_10`, `ar_100`, `ar_1000`, and `ar_all`
    are added. For Mask R-CNN, if the ground truth has masks, the same metrics of masks are added with the prefix
    `mask_`, and `dsb_mean_precision`. Metrics that no ground truth defines are left out.

    For all heads at the score threshold `operating_threshold`: `f1` (at IoU .5, of masks if they are evaluated,
    otherwise of boxes), `count_error`, and `count_bias` (mean absolute and signed error of the number of objects per
    image). `dsb_mean_precision` uses the same threshold.

    Args:
        targets: ground truth by image id.
        predictions: predictions by image id.
        class_names: names of labels 1, 2, ...
        head: "rpn", "faster_rcnn", or "mask_rcnn".
        class_agnostic: whether to treat all labels as one class.
        score_threshold: operating threshold. None chooses the one with the best F1 on these images, as for validation
            images (see `maskrcnn.evaluation.operating_point`), or .5 if there is none.
        min_visible_fraction: see `compute_dsb_mean_precision`.
    """
    agnostic = class_agnostic or head == "rpn"
    limits = (1, *PROPOSAL_LIMITS) if head == "rpn" else (1, 100)
    box = evaluate_coco(targets, predictions, class_names, "box", agnostic, limits)
    figures = flatten_metrics("box", box)
    mask = None
    by_masks = head == "mask_rcnn" and _have_masks(targets)
    matches = match_dataset(targets, predictions, class_names, "mask" if by_masks else "box", agnostic)
    if score_threshold is None:
        point = find_operating_point(matches)
        score_threshold = DEFAULT_THRESHOLD if point is None else point.threshold
    figures |= {"operating_threshold": score_threshold, "f1": matches.f1(score_threshold)}
    figures |= _counts(targets, predictions, score_threshold)
    if head == "rpn":
        figures |= get_recall_at_limits(box, PROPOSAL_LIMITS)
    if by_masks:
        mask = evaluate_coco(targets, predictions, class_names, "mask", agnostic)
        figures |= flatten_metrics("mask", mask)
        figures["dsb_mean_precision"] = compute_dsb_mean_precision(
            targets, predictions, score_threshold, min_visible_fraction
        )
    return Evaluation({name: value for name, value in figures.items() if value is not None}, box, mask)


def explain_metrics(names: Iterable[str], threshold: float, origin: str) -> list[str]:
    """Return lines that explain the metrics in `names`; `origin` describes where the score threshold comes from."""
    present = {name.removeprefix("box_").removeprefix("mask_") for name in names}
    lines = [f"{name}: {meaning}" for name, meaning in LEGEND.items() if name in present]
    scored = [f"{name}: {meaning}" for name, meaning in LEGEND_AT_THRESHOLD.items() if name in present]
    return lines + [f"at score ≥ {threshold:.3g} ({origin}), {'; '.join(scored)}"] * bool(scored)


def flatten_metrics(prefix: str, figures: COCOMetrics) -> dict[str, float | None]:
    """Return all metrics by name, each beginning with `prefix`."""
    flat: dict[str, float | None] = {"ap": figures.ap, "ap50": figures.ap50, "ap75": figures.ap75, "ar": figures.ar}
    flat.update({f"ap_{size}": value for size, value in figures.ap_by_size.items()})
    flat.update({f"ar_{size}": value for size, value in figures.ar_by_size.items()})
    if len(figures.class_names) > 1:
        flat.update({f"ap_class_{name}": value for name, value in figures.ap_by_class.items()})
    return {f"{prefix}_{name}": value for name, value in flat.items()}


def _counts(
    targets: Mapping[int, Instances], predictions: Mapping[int, Instances], score_threshold: float
) -> dict[str, float | None]:
    error = compute_count_error(targets, predictions, score_threshold)
    return {"count_error": error.absolute, "count_bias": error.signed} if error is not None else {}


def _have_masks(targets: Mapping[int, Instances]) -> bool:
    return all(target.masks is not None or not len(target) for target in targets.values())
