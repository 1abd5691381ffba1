"""COCO's truth and results formats, and its average precision and recall, with every detection counted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.files import write_text
from maskrcnn.ops.boxes import box_area, box_intersection
from maskrcnn.structures.instances import Instances

Kind = Literal["box", "mask"]

BOXES_FILE, MASKS_FILE = "coco_boxes.json", "coco_masks.json"

IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALL_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 101).tolist())

# Areas in square pixels, both ends included. "small" to "large" are COCO's bins; the others are AI-TOD's (Wang et al.
# 2021), whose two upper bins carry the data set's name because COCO's have the same ones.
SIZE_RANGES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
    "very_tiny": (0.0, 8.0**2),
    "tiny": (8.0**2, 16.0**2),
    "aitod_small": (16.0**2, 32.0**2),
    "aitod_medium": (32.0**2, 1e10),
}


@dataclass(frozen=True)
class COCOFigures:
    """Precision and recall over IoU thresholds T, recall levels R, classes K, sizes A and detection limits M.

    ``precision`` float64 [T, R, K, A, M] and ``recall`` float64 [T, K, A, M] are pycocotools' arrays, with NaN where
    it has -1: where a class has no truth of that size. T follows ``IOU_THRESHOLDS``, R ``RECALL_THRESHOLDS``, K
    ``class_names``, A ``SIZE_RANGES`` and M ``limits`` (detections an image, rising; the last one counts all of them).
    Every figure below is None where no truth defines it.
    """

    kind: Kind
    class_names: tuple[str, ...]
    limits: tuple[int, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def average_precision(
        self, iou: float | None = None, size: str = "all", class_name: str | None = None
    ) -> float | None:
        """AP at one IoU threshold (None: mean over .5:.05:.95) for a size and a class (None: mean over classes)."""
        return _mean(self.precision[_threshold(iou), :, self._class(class_name), _size(size), -1])

    def average_recall(self, limit: int | None = None, size: str = "all") -> float | None:
        """AR over IoU .5:.05:.95 with at most ``limit`` detections an image, one of ``limits`` (None: all of them)."""
        index = len(self.limits) - 1 if limit is None else self.limits.index(limit)
        return _mean(self.recall[:, :, _size(size), index])

    @property
    def ap(self) -> float | None:
        """Mean over IoU .5:.05:.95 and classes."""
        return self.average_precision()

    @property
    def ap50(self) -> float | None:
        """AP at IoU .5."""
        return self.average_precision(iou=0.5)

    @property
    def ap75(self) -> float | None:
        """AP at IoU .75."""
        return self.average_precision(iou=0.75)

    @property
    def ar(self) -> float | None:
        """AR with all detections counted."""
        return self.average_recall()

    @property
    def ap_by_size(self) -> dict[str, float | None]:
        """AP for each bin of ``SIZE_RANGES`` but "all"."""
        return {size: self.average_precision(size=size) for size in SIZE_RANGES if size != "all"}

    @property
    def ar_by_size(self) -> dict[str, float | None]:
        """AR for each bin of ``SIZE_RANGES`` but "all"."""
        return {size: self.average_recall(size=size) for size in SIZE_RANGES if size != "all"}

    @property
    def ap_by_class(self) -> dict[str, float | None]:
        """AP for each class."""
        return {name: self.average_precision(class_name=name) for name in self.class_names}

    def precision_recall_curves(
        self, ious: Sequence[float] = (0.5, 0.75, 0.9)
    ) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """For each IoU threshold: recall [101] and precision [101] (mean over the classes that have truths).

        Empty when no class has a truth.
        """
        has_truths = ~np.isnan(self.precision[0, 0, :, 0, -1])
        if not has_truths.any():
            return {}
        recall = np.asarray(RECALL_THRESHOLDS)
        return {iou: (recall, self.precision[_threshold(iou), :, has_truths, 0, -1].mean(axis=0)) for iou in ious}

    def _class(self, name: str | None) -> int | slice:
        return slice(None) if name is None else self.class_names.index(name)


def coco_truth(
    truths: Mapping[int, Instances],
    class_names: Sequence[str],
    image_names: Mapping[int, str] | None = None,
    with_masks: bool = True,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Truths by image id as a COCO data set (a dict ready for JSON).

    ``class_names[0]`` is label 1, ``category_ids[0]`` its id (default: labels are ids). Objects to ignore get
    ``iscrowd: 1``, the only mark that pycocotools heeds. ``area`` is the mask's number of pixels, or the box's area
    where there is none; ``with_masks=False`` leaves out the masks themselves and keeps that area.
    """
    names = image_names or {}
    images = [
        {"id": int(i), "file_name": names.get(i, ""), "height": int(t.size[0]), "width": int(t.size[1])}
        for i, t in truths.items()
    ]
    annotations = [entry for i, truth in truths.items() for entry in _truth_entries(int(i), truth, with_masks)]
    for number, entry in enumerate(annotations, start=1):  # 0 would read as "not matched"
        entry["id"] = number
    ids = range(1, len(class_names) + 1) if category_ids is None else category_ids
    for entry in annotations:
        entry["category_id"] = ids[entry["category_id"] - 1]
    categories = [{"id": number, "name": name} for number, name in zip(ids, class_names, strict=True)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_results(
    predictions: Mapping[int, Instances], with_masks: bool = True, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Predictions by image id in COCO's results format: bbox as x y w h, score, category and, with masks, RLE.

    ``category_ids[k]`` is the id of label k + 1; default: labels are ids.

    Raises ``UserError`` for a prediction without scores.
    """
    entries = [
        entry for i, prediction in predictions.items() for entry in _result_entries(int(i), prediction, with_masks)
    ]
    if category_ids is not None:
        for entry in entries:
            entry["category_id"] = category_ids[entry["category_id"] - 1]
    return entries


def write_coco_results(
    folder: str | os.PathLike[str],
    predictions: Mapping[int, Instances],
    category_ids: Sequence[int] | None = None,
) -> list[Path]:
    """Write ``BOXES_FILE`` and, where predictions have masks, ``MASKS_FILE`` to a folder; returns their paths.

    Each is complete or not written at all. Entries with masks have no 'bbox': pycocotools would take the areas of masks
    from it. See ``coco_results`` for ``category_ids``.
    """
    entries = coco_results(predictions, category_ids=category_ids)
    return write_coco_entries(folder, entries, any(each.masks is not None for each in predictions.values()))


def write_coco_entries(
    folder: str | os.PathLike[str], entries: Sequence[Mapping[str, Any]], with_masks: bool
) -> list[Path]:
    """Write entries as `coco_results` returns them, as `write_coco_results` does; returns the paths."""
    paths = [Path(folder) / BOXES_FILE]
    without_masks = [{key: value for key, value in each.items() if key != "segmentation"} for each in entries]
    write_text(paths[0], json.dumps(without_masks))
    if with_masks:
        paths.append(Path(folder) / MASKS_FILE)
        without_boxes = [{key: value for key, value in each.items() if key != "bbox"} for each in entries]
        write_text(paths[1], json.dumps(without_boxes))
    return paths


def evaluate_coco(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind = "box",
    class_agnostic: bool = False,
    limits: Iterable[int] = (1, 100),
) -> COCOFigures:
    """AP and AR of predictions against truths, both by image id, over boxes or masks.

    An image without predictions may be missing from ``predictions``. ``class_agnostic`` takes all labels for one.
    ``limits`` are further numbers of detections an image to measure at; the largest count is always added. For masks,
    an object whose mask is empty is ignored.
    Raises ``UserError`` for predictions of an image that has no entry in ``truths``, or without scores, or without
    masks where masks are asked for.
    """
    truths, predictions, class_names = _as_judged(truths, predictions, class_names, kind, class_agnostic)
    largest = max((len(p) for p in predictions.values()), default=0)
    # pycocotools needs 100 among the limits and AP at the last one, so that one comes last and is new.
    below = sorted(set(limits))
    max_detections = (*below, max(largest, below[-1] + 1))
    with_masks = kind == "mask"  # encoding them takes longer than evaluating boxes
    truth = coco_truth(truths, class_names, with_masks=with_masks)
    results = coco_results(predictions, with_masks)
    precision, recall = _accumulate(truth, results, kind, max_detections, len(class_names))
    return COCOFigures(kind, tuple(class_names), max_detections, precision, recall)


@dataclass(frozen=True)
class DetectionMatches:
    """Detections of all images matched at one IoU, and the number of objects; without what is ignored.

    ``scores`` float64 [D] and ``true_positive`` bool [D].
    """

    scores: NDArray[np.float64]
    true_positive: NDArray[np.bool_]
    num_objects: int

    def f1(self, threshold: float) -> float | None:
        """F1 = 2 TP / (2 TP + FP + FN) of detections scoring at least the threshold; None of nothing at all."""
        counted = self.scores >= threshold
        both = int(counted.sum()) + self.num_objects
        return 2 * int(self.true_positive[counted].sum()) / both if both else None


def match_detections(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind = "box",
    class_agnostic: bool = False,
    iou: float = 0.5,
) -> DetectionMatches:
    """Match detections greedily in descending order of score as ``evaluate_coco`` does; it has the arguments, too."""
    truths, predictions, class_names = _as_judged(truths, predictions, class_names, kind, class_agnostic)
    truth = coco_truth(truths, class_names, with_masks=kind == "mask")
    results = coco_results(predictions, with_masks=kind == "mask")
    scores = np.array([entry["score"] for entry in results], dtype=np.float64)
    ignored = {entry["id"] for entry in truth["annotations"] if entry["iscrowd"]}
    partner = np.zeros(len(results), dtype=np.int64)  # the number of the matched object, 0: none
    if results and truth["annotations"]:
        evaluator = _evaluator(truth, results, kind, (1, len(results) + 1), ("all",), (iou,))
        for pair in evaluator.eval["matched"]:
            detection, found = map(int, pair.split("_"))
            partner[detection - 1] = found
    counted = np.array([found not in ignored for found in partner.tolist()], dtype=bool)
    return DetectionMatches(scores[counted], partner[counted] > 0, len(truth["annotations"]) - len(ignored))


def proposal_recall(
    truths: Mapping[int, Instances],
    proposals: Mapping[int, Instances],
    limits: Sequence[int] = (10, 100, 1000),
) -> dict[str, float | None]:
    """Class-agnostic box AR over IoU .5:.05:.95: ``ar_10``, ... with the best so many of an image, ``ar_all``."""
    figures = evaluate_coco(truths, proposals, ("object",), class_agnostic=True, limits=limits)
    return recall_at_limits(figures, limits)


def recall_at_limits(figures: COCOFigures, limits: Sequence[int]) -> dict[str, float | None]:
    """``ar_<limit>`` for each limit and ``ar_all``."""
    recalls = {f"ar_{limit}": figures.average_recall(limit) for limit in limits}
    return {**recalls, "ar_all": figures.ar}


def _truth_entries(image_id: int, truth: Instances, with_masks: bool) -> list[dict[str, Any]]:
    entries = _entries(image_id, truth, with_masks)
    for entry, ignore, area in zip(entries, truth.ignore.tolist(), truth.areas().tolist(), strict=True):
        entry["iscrowd"] = int(ignore)
        entry["area"] = area
    return entries


def _result_entries(image_id: int, prediction: Instances, with_masks: bool) -> list[dict[str, Any]]:
    if prediction.scores is None:
        raise UserError(f"The prediction of image {image_id} has no scores; only detections can be evaluated")
    entries = _entries(image_id, prediction, with_masks)
    for entry, score in zip(entries, prediction.scores.tolist(), strict=True):
        entry["score"] = score
    return entries


def _entries(image_id: int, instances: Instances, with_masks: bool) -> list[dict[str, Any]]:
    boxes = instances.boxes.detach().to("cpu", torch.float64)
    corners_and_sizes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    entries: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": label, "bbox": box}
        for label, box in zip(instances.labels.tolist(), corners_and_sizes, strict=True)
    ]
    if with_masks and instances.masks is not None:
        for entry, rle in zip(entries, instances.masks.to_rle(), strict=True):
            entry["segmentation"] = rle
    return entries


def _check(truths: Mapping[int, Instances], predictions: Mapping[int, Instances], kind: Kind) -> None:
    if kind not in ("box", "mask"):
        raise UserError(f"Unknown kind of evaluation {kind!r}; choose box or mask")
    strangers = sorted(set(predictions) - set(truths))
    if strangers:
        raise UserError(f"Predictions for {len(strangers)} images without truth, the first is image {strangers[0]}")
    if kind == "mask":
        for what, all_instances in (("truth", truths), ("prediction", predictions)):
            for image_id, instances in all_instances.items():
                if len(instances) and instances.masks is None:
                    raise UserError(f"The {what} of image {image_id} has no masks; evaluate boxes instead")


def _drop_at_empty_masks(prediction: Instances, truth: Instances) -> Instances:
    """Leave out detections without a mask pixel that lie at least half in the box of a like object without one."""
    empty, hollow = ~truth.has_mask(), ~prediction.has_mask()
    if not empty.any() or not hollow.any():
        return prediction
    boxes = prediction.boxes.detach()
    inside = box_intersection(boxes, truth.boxes[empty]) * (prediction.labels[:, None] == truth.labels[empty])
    return prediction[~(hollow & (inside.amax(dim=1) >= 0.5 * box_area(boxes)))]


def _as_judged(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind,
    class_agnostic: bool,
) -> tuple[Mapping[int, Instances], Mapping[int, Instances], Sequence[str]]:
    """Both sides checked, and as they are compared."""
    _check(truths, predictions, kind)
    if class_agnostic:
        truths, predictions, class_names = _merge_classes(truths), _merge_classes(predictions), ("object",)
    if kind == "mask":
        predictions = {i: _drop_at_empty_masks(p, truths[i]) for i, p in predictions.items()}
        truths = {i: truth.ignore_empty_masks() for i, truth in truths.items()}
    return truths, predictions, class_names


def _merge_classes(by_image: Mapping[int, Instances]) -> dict[int, Instances]:
    return {i: replace(instances, labels=torch.ones_like(instances.labels)) for i, instances in by_image.items()}


def _accumulate(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: Kind, limits: tuple[int, ...], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M], NaN where no truth defines them."""
    shape = (len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), num_classes, len(SIZE_RANGES), len(limits))
    if not truth["annotations"]:
        return np.full(shape, np.nan), np.full(shape[:1] + shape[2:], np.nan)
    evaluator = _evaluator(truth, results, kind, limits, SIZE_RANGES, IOU_THRESHOLDS)
    precision = np.asarray(evaluator.eval["precision"], dtype=np.float64).reshape(shape)
    recall = np.asarray(evaluator.eval["recall"], dtype=np.float64).reshape(shape[:1] + shape[2:])
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def _evaluator(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    kind: Kind,
    limits: Iterable[int],
    sizes: Iterable[str],
    ious: Iterable[float],
) -> Any:
    """The COCO evaluator after its evaluation."""
    from faster_coco_eval import COCO, COCOeval_faster  # loaded late: it takes longer to import than to run

    if kind == "mask":  # with bbox left in, the areas of the detected masks would be those of their boxes
        for entry in results:
            del entry["bbox"]
    truths = COCO(truth)
    evaluator = COCOeval_faster(truths, truths.loadRes(results), iouType="segm" if kind == "mask" else "bbox")
    evaluator.params.iouThrs = np.array(list(ious))
    evaluator.params.maxDets = list(limits)
    evaluator.params.areaRng = [list(SIZE_RANGES[size]) for size in sizes]
    evaluator.params.areaRngLbl = list(sizes)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _threshold(iou: float | None) -> int | slice:
    if iou is None:
        return slice(None)
    index = int(np.argmin(np.abs(np.asarray(IOU_THRESHOLDS) - iou)))
    if abs(IOU_THRESHOLDS[index] - iou) > 1e-9:
        raise UserError(f"AP is measured at IoU .5:.05:.95, not at {iou}")
    return index


def _size(name: str) -> int:
    if name not in SIZE_RANGES:
        raise UserError(f"Unknown size {name!r}; choose from {', '.join(SIZE_RANGES)}")
    return list(SIZE_RANGES).index(name)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
