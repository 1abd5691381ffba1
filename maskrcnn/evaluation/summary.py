"""Evaluation in one call, of lists of `Instances` or of COCO files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import COCOMetrics, evaluate_coco_files
from maskrcnn.evaluation.coco_reading import read_json
from maskrcnn.evaluation.figures import evaluate as evaluate_by_id
from maskrcnn.evaluation.figures import flatten_metrics
from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count

ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("AP", "average_precision", {}),
    ("AP50", "average_precision", {"iou": 0.5}),
    ("AP75", "average_precision", {"iou": 0.75}),
    ("AP below 8 px", "average_precision", {"size": "very_tiny"}),
    ("AP 8 to 16 px", "average_precision", {"size": "tiny"}),
    ("AP 16 to 32 px", "average_precision", {"size": "aitod_small"}),
    ("AP above 32 px", "average_precision", {"size": "aitod_medium"}),
    ("AR", "average_recall", {}),
)


@dataclass(frozen=True)
class Summary:
    """Metrics of detections against ground truth; `print` shows a table.

    Attributes:
        metrics: by name: `box_ap`, `box_ap50`, `mask_ap`, `box_ap_very_tiny`, …; also read as `summary["box_ap"]`.
        box: AP and AR of boxes, with the curves behind them.
        mask: the same of masks; None where there are none.
    """

    metrics: Mapping[str, float]
    box: COCOMetrics
    mask: COCOMetrics | None

    def __getitem__(self, name: str) -> float:
        """Return a metric by its name."""
        return self.metrics[name]

    def __str__(self) -> str:
        """Format the main metrics as a table; every detection counts, so `maxDets` of COCO's tools gives less."""
        columns = [("boxes", self.box)] + ([("masks", self.mask)] if self.mask is not None else [])
        lines = ["".join([f"{'':<16}", *(f"{name:>8}" for name, _ in columns)])]
        for title, method, options in ROWS:
            values = [getattr(figures, method)(**options) for _, figures in columns]
            cells = ["       -" if value is None else f"{value:8.3f}" for value in values]
            lines.append("".join([f"{title:<16}", *cells]))
        return "\n".join(lines)


def evaluate(
    targets: Sequence[Instances] | str | os.PathLike[str],
    predictions: Sequence[Instances] | str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
) -> Summary:
    """Measure detections against ground truth, as COCO does but with every detection counted.

    Args:
        targets: the ground truth: one `Instances` per image, or the path of a COCO annotation file.
        predictions: the detections of the same images in the same order, or the path of a COCO results file. Of a file
            without `bbox`, such as `coco_masks.json`, boxes are the extents of the masks; `coco_boxes.json` has boxes.
        class_names: of labels 1 to K, for lists; default: the labels.

    Returns:
        Metrics by name, and tables of precision and recall.

    Raises:
        ValueError: lists of different lengths, detections without scores, an unreadable file or is of
            another kind.
    """
    if isinstance(targets, str | os.PathLike) != isinstance(predictions, str | os.PathLike):
        raise UserError("targets and predictions must both be lists of Instances, or both be paths of COCO files")
    if isinstance(targets, str | os.PathLike):
        box, mask = evaluate_coco_files(read_json(targets), read_json(predictions))  # type: ignore[arg-type]
        return Summary(_flatten(box, mask), box, mask)
    assert not isinstance(predictions, str | os.PathLike)
    if len(targets) != len(predictions):
        counts = f"{format_count(len(targets), 'targets')} but {format_count(len(predictions), 'predictions')}"
        raise UserError(f"there are {counts}; give one per image")
    for number, pair in enumerate(zip(targets, predictions, strict=True)):
        if tuple(pair[0].size) != tuple(pair[1].size):
            raise UserError(f"image {number}: targets are of size {pair[0].size}, predictions of {pair[1].size} (H, W)")
    names = class_names or _number_labels([*targets, *predictions])
    with_masks = all(each.masks is not None for each in [*targets, *predictions] if len(each))
    head = "mask_rcnn" if with_masks else "faster_rcnn"
    result = evaluate_by_id(dict(enumerate(targets, 1)), dict(enumerate(predictions, 1)), names, head)
    return Summary(result.metrics, result.box, result.mask)


def _number_labels(instances: Sequence[Instances]) -> list[str]:
    count = max((int(each.labels.max()) for each in instances if len(each)), default=1)
    return [str(label) for label in range(1, count + 1)]


def _flatten(box: COCOMetrics, mask: COCOMetrics | None) -> dict[str, float]:
    both = flatten_metrics("box", box) | (flatten_metrics("mask", mask) if mask is not None else {})
    return {name: value for name, value in both.items() if value is not None}
