"""Metrics of methods with intervals, their comparison, and how both are printed and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.calibration import compute_calibration
from maskrcnn.evaluation.centers import compute_center_scores
from maskrcnn.evaluation.coco import IOU_THRESHOLDS, RECALL_THRESHOLDS, Kind, evaluate_coco, match_dataset
from maskrcnn.evaluation.coco_reading import AnnotatedImages
from maskrcnn.evaluation.confusion import compute_confusion_matrix
from maskrcnn.evaluation.errors import find_error_types
from maskrcnn.evaluation.intervals import Interval, compute_difference, compute_interval, describe_difference
from maskrcnn.evaluation.localization_recall_precision import compute_lrp
from maskrcnn.evaluation.matching import match_overlaps, measure_average_precision
from maskrcnn.evaluation.nuclei import compute_count_error, compute_dsb_mean_precision
from maskrcnn.evaluation.operating_point import DEFAULT_THRESHOLD, find_operating_point
from maskrcnn.evaluation.overlaps import Overlaps, find_overlaps
from maskrcnn.evaluation.panoptic import compute_panoptic_quality
from maskrcnn.evaluation.resampling import draw_image_weights, resample_average_precision
from workbench.results import Method

COUNTS = ("true_positives", "false_positives", "missed")


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
        sizes: edges of the bins of object size √area, in pixels; above the last one is a bin, too.
        max_distance: maximum distance of centers in pixels.
        replicates: number of replicates of the bootstrap.
        class_agnostic: whether to treat all labels as one class.
    """

    sizes: tuple[float, ...]
    max_distance: float
    replicates: int
    class_agnostic: bool = False


@dataclass(frozen=True)
class Assessment:
    """Metrics of a method.

    Attributes:
        method: the method.
        intervals: of AP by kind ("box", "mask") and name ("AP", "AP50", "AP75", "AP 0-8 px", …).
        values: AP of each seed, and its replicates `[S, R]`, by kind and name.
        figures: the other metrics of the first seed, ready for JSON.
        overlaps: of the first seed, by kind.
    """

    method: Method
    intervals: Mapping[str, Mapping[str, Interval]]
    values: Mapping[str, Mapping[str, tuple[list[float], NDArray[np.float64]]]]
    figures: dict[str, Any]
    overlaps: Mapping[str, Overlaps]


def assess(method: Method, annotated: AnnotatedImages, request: Request) -> Assessment:
    """Measure a method."""
    kinds: list[Kind] = ["box", "mask"] if _have_masks(method, annotated) else ["box"]
    names = ("object",) if request.class_agnostic else annotated.class_names
    weights = draw_image_weights(len(annotated.targets), request.replicates)
    intervals: dict[str, dict[str, Interval]] = {}
    values: dict[str, dict[str, tuple[list[float], NDArray[np.float64]]]] = {}
    first: dict[str, Overlaps] = {}
    for kind in kinds:
        found = [
            find_overlaps(annotated.targets, result, names, kind, request.class_agnostic) for result in method.results
        ]
        first[kind], values[kind], intervals[kind] = found[0], {}, {}
        for name, (ious, area_range) in _list_average_precisions(request.sizes).items():
            measured = [measure_average_precision(each, ious, area_range) for each in found]
            known = [value for value in measured if value is not None]  # depends on the objects, not on the seed
            if len(known) == len(found):
                sampled = np.stack([resample_average_precision(each, weights, ious, area_range) for each in found])
                values[kind][name] = known, sampled
                intervals[kind][name] = compute_interval(*values[kind][name], len(annotated.targets))
    figures: dict[str, Any] = {kind: _measure_kind(method, annotated, request, kind, first[kind]) for kind in kinds}
    return Assessment(method, intervals, values, figures, first)


def _list_average_precisions(
    sizes: Sequence[float],
) -> dict[str, tuple[tuple[float, ...], tuple[float, float] | None]]:
    """List IoU thresholds and range of areas of each AP by name."""
    found: dict[str, tuple[tuple[float, ...], tuple[float, float] | None]] = {
        "AP": (IOU_THRESHOLDS, None),
        "AP50": ((0.5,), None),
        "AP75": ((0.75,), None),
    }
    for low, high in pairwise([*sizes, 1e5]):
        text = f"AP above {low:g} px" if high == 1e5 else f"AP {low:g}-{high:g} px"
        found[text] = IOU_THRESHOLDS, (low**2, high**2)
    return found


def _have_masks(method: Method, annotated: AnnotatedImages) -> bool:
    everything = [*annotated.targets.values(), *(each for result in method.results for each in result.values())]
    return all(each.masks is not None for each in everything if len(each))


def _measure_kind(
    method: Method, annotated: AnnotatedImages, request: Request, kind: Kind, overlaps: Overlaps
) -> dict[str, Any]:
    """Measure what has no interval, of the first seed."""
    targets, result = annotated.targets, method.results[0]
    agnostic = request.class_agnostic
    matches = match_dataset(targets, result, annotated.class_names, kind, agnostic)
    point = find_operating_point(matches)
    threshold = method.threshold if method.threshold is not None else point.threshold if point else DEFAULT_THRESHOLD
    coco = evaluate_coco(targets, result, annotated.class_names, kind, agnostic)
    errors, calibration, lrp = find_error_types(overlaps), compute_calibration(overlaps), compute_lrp(overlaps)
    hits = match_overlaps(overlaps.above(threshold))
    true, false = int(hits.true_positive.sum()), int(hits.false_positive.sum())
    centers = compute_center_scores(overlaps, request.max_distance, threshold)
    count = compute_count_error(targets, result, threshold)
    figures: dict[str, Any] = {
        "ar": coco.ar,
        "ar_100": coco.average_recall(100),
        "ap_by_class": coco.ap_by_class,
        "threshold": threshold,
        "threshold_from": "validation images" if method.threshold is not None else "these images",
        "precision": true / (true + false) if true + false else None,
        "recall": true / matches.num_objects if matches.num_objects else None,
        "f1": matches.f1(threshold),
        "count_error": None if count is None else count.absolute,
        "count_bias": None if count is None else count.signed,
        "centers": asdict(centers) | {"precision": centers.precision, "recall": centers.recall, "f1": centers.f1},
        "lrp": None if lrp is None else asdict(lrp),
        "calibration_error": calibration.expected_error,
        "errors": {"ap50": errors.ap, "gained": dict(errors.gained), "counts": dict(errors.counts)},
        "confusion": compute_confusion_matrix(overlaps, threshold).tolist(),
    }
    if kind == "mask" and not agnostic:
        figures["dsb_mean_precision"] = compute_dsb_mean_precision(targets, result, threshold)
        quality = compute_panoptic_quality(targets, result, annotated.class_names, threshold)
        figures["panoptic"] = None if quality is None else asdict(quality)
    return figures


def compare(first: Assessment, other: Assessment, num_images: int) -> dict[str, dict[str, Interval]]:
    """Compute the differences of AP, first minus other, by kind and name."""
    return {
        kind: {
            name: compute_difference(*values, *other.values[kind][name], num_images)
            for name, values in by_name.items()
            if name in other.values[kind]
        }
        for kind, by_name in first.values.items()
        if kind in other.values
    }


def describe_comparison(first: Assessment, other: Assessment, num_images: int) -> list[str]:
    """Describe the difference of AP in a sentence for each kind."""
    return [
        describe_difference(first.method.name, other.method.name, f"{kind} AP", by_name["AP"])
        for kind, by_name in compare(first, other, num_images).items()
        if "AP" in by_name
    ]


def to_json(assessment: Assessment) -> dict[str, Any]:
    """Convert to what is written as JSON; NaN becomes null."""
    intervals = {
        kind: {name: asdict(interval) | {"seeds": assessment.values[kind][name][0]} for name, interval in each.items()}
        for kind, each in assessment.intervals.items()
    }
    method = assessment.method
    return {"sources": method.sources, "intervals": intervals, "first_seed": assessment.figures}


def print_tables(assessments: Sequence[Assessment], annotated: AnnotatedImages) -> None:
    """Print a table with the metrics of all methods for each kind."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for kind in ("box", "mask"):
        shown = [each for each in assessments if kind in each.intervals]
        if not shown:
            continue
        table = Table(title="Boxes" if kind == "box" else "Masks", title_justify="left")
        table.add_column("")
        for each in shown:
            table.add_column(Text(each.method.name), justify="right", overflow="fold")
        for name in dict.fromkeys(name for each in shown for name in each.intervals[kind]):
            cells = (each.intervals[kind].get(name) for each in shown)
            table.add_row(name, *("-" if c is None else f"{c.value:.3f} ± {c.half_width:.3f}" for c in cells))
        for name, getter in _list_rows(shown[0].figures[kind]).items():
            table.add_row(name, *(_format(getter(each.figures[kind])) for each in shown))
        Console(width=max(80, 36 + 24 * len(shown))).print(table)


def _list_rows(figures: Mapping[str, Any]) -> dict[str, Any]:
    """List the rows of the table without intervals: name, and how to get the value."""

    def get(*path: str) -> Any:
        def read(values: Any) -> Any:
            for key in path:
                values = None if values is None else values.get(key)
            return values

        return read

    distance = f"centers ≤ {figures['centers']['max_distance']:g} px"
    rows: dict[str, Any] = {"AR": get("ar")}
    if len(figures["ap_by_class"]) > 1:
        rows |= {f"AP {name}": get("ap_by_class", name) for name in figures["ap_by_class"]}
    rows |= {
        "score threshold": get("threshold"),
        "precision": get("precision"),
        "recall": get("recall"),
        "F1": get("f1"),
        "counting error per image": get("count_error"),
        f"precision, {distance}": get("centers", "precision"),
        f"recall, {distance}": get("centers", "recall"),
        f"F1, {distance}": get("centers", "f1"),
        "localization RMSE (px)": get("centers", "rmse"),
        "calibration error (ECE)": get("calibration_error"),
        "optimal LRP (error)": get("lrp", "error"),
        "  localization": get("lrp", "localization"),
        "  false positives": get("lrp", "false_positive"),
        "  missed": get("lrp", "false_negative"),
    }
    if "panoptic" in figures:
        rows |= {"panoptic quality": get("panoptic", "quality"), "DSB mean precision": get("dsb_mean_precision")}
    return rows | {f"AP50 gained, {name}": get("errors", "gained", name) for name in figures["errors"]["counts"]}


def _format(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw(assessments: Sequence[Assessment], annotated: AnnotatedImages, folder: Path, title: str) -> list[Path]:
    """Draw reliability, precision and recall, and error types of all methods; return the files."""
    from maskrcnn.plotting.evaluation import plot_error_types, plot_precision_recall_of_results, plot_reliability

    files = []
    for kind in ("box", "mask"):
        shown = {each.method.name: each for each in assessments if kind in each.overlaps}
        if not shown:
            continue
        what = f"{title}, {'boxes' if kind == 'box' else 'masks'}"
        calibrations = {name: compute_calibration(each.overlaps[kind]) for name, each in shown.items()}
        reliability = {name: ((each.mean_score, each.precision), each.count) for name, each in calibrations.items()}
        errors = {name: each.figures[kind]["errors"] for name, each in shown.items()}
        curves = {name: _compute_curve(each, annotated, kind) for name, each in shown.items()}
        paths = [folder / f"{kind}_{name}.png" for name in ("reliability", "precision_recall", "errors")]
        plot_reliability(reliability, paths[0], what)
        plot_precision_recall_of_results(curves, paths[1], what)
        gained, counts = ({name: each[key] for name, each in errors.items()} for key in ("gained", "counts"))
        plot_error_types(gained, counts, paths[2], what)
        files += paths
    return files


def _compute_curve(assessment: Assessment, annotated: AnnotatedImages, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
    agnostic = len(assessment.overlaps[kind].class_names) < len(annotated.class_names)
    result = assessment.method.results[0]
    coco = evaluate_coco(
        annotated.targets, result, annotated.class_names, "mask" if kind == "mask" else "box", agnostic
    )
    none = np.asarray(RECALL_THRESHOLDS), np.zeros(len(RECALL_THRESHOLDS))
    return coco.precision_recall_curves((0.5,)).get(0.5, none)
