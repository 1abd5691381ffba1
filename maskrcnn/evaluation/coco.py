"""Average precision and recall of COCO, without a limit on the number of detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco_format import to_coco_dataset, to_coco_results
from maskrcnn.ops.boxes import box_area, box_intersection
from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count

Kind = Literal["box", "mask"]

IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALL_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 101).tolist())

# Areas in square pixels, both ends inclusive. "small" to "large" are the bins of COCO. The others are those of AI-TOD
# (Wang et al. 2021); its two upper bins have a prefix because COCO uses the same names.
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
class COCOMetrics:
    """Precision and recall over IoU thresholds T, recall levels R, classes K, sizes A and detection limits M.

    The arrays are those of pycocotools, with NaN instead of -1 for classes without ground truth of that size. T follows
    `IOU_THRESHOLDS`, R `RECALL_THRESHOLDS`, K `class_names`, A `SIZE_RANGES`, and M `limits`. Every metric below is
    None if no ground truth defines it.

    Attributes:
        kind: "box" or "mask".
        class_names: names of labels 1, 2, ...
        limits: maximum numbers of detections per image, ascending; the last one includes all detections.
        precision: float64 `[T, R, K, A, M]`.
        recall: float64 `[T, K, A, M]`.
    """

    kind: Kind
    class_names: tuple[str, ...]
    limits: tuple[int, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def average_precision(
        self, iou: float | None = None, size: str = "all", class_name: str | None = None
    ) -> float | None:
        """Return AP at one IoU threshold (default: mean over .5:.05:.95) for a size and a class (default: mean)."""
        return _mean(self.precision[_threshold(iou), :, self._class(class_name), _size(size), -1])

    def average_recall(self, limit: int | None = None, size: str = "all") -> float | None:
        """Return AR over IoU .5:.05:.95 with at most `limit` detections per image, one of `limits` (default: all)."""
        index = len(self.limits) - 1 if limit is None else self.limits.index(limit)
        return _mean(self.recall[:, :, _size(size), index])

    @property
    def ap(self) -> float | None:
        """AP, mean over IoU .5:.05:.95 and classes."""
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
        """AR without a limit on detections per image."""
        return self.average_recall()

    @property
    def ap_by_size(self) -> dict[str, float | None]:
        """AP for each bin of `SIZE_RANGES` except "all"."""
        return {size: self.average_precision(size=size) for size in SIZE_RANGES if size != "all"}

    @property
    def ar_by_size(self) -> dict[str, float | None]:
        """AR for each bin of `SIZE_RANGES` except "all"."""
        return {size: self.average_recall(size=size) for size in SIZE_RANGES if size != "all"}

    @property
    def ap_by_class(self) -> dict[str, float | None]:
        """AP for each class."""
        return {name: self.average_precision(class_name=name) for name in self.class_names}

    def precision_recall_curves(
        self, ious: Sequence[float] = (0.5, 0.75, 0.9)
    ) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return recall `[101]` and precision `[101]` for each IoU threshold, mean over classes with ground truth.

        The result is empty if no class has ground truth.
        """
        has_targets = ~np.isnan(self.precision[0, 0, :, 0, -1])
        if not has_targets.any():
            return {}
        recall = np.asarray(RECALL_THRESHOLDS)
        return {iou: (recall, self.precision[_threshold(iou), :, has_targets, 0, -1].mean(axis=0)) for iou in ious}

    def _class(self, name: str | None) -> int | slice:
        return slice(None) if name is None else self.class_names.index(name)


def evaluate_coco(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind = "box",
    class_agnostic: bool = False,
    limits: Iterable[int] = (1, 100),
) -> COCOMetrics:
    """Compute AP and AR of boxes or masks.

    For masks, objects with an empty mask are ignored.

    Args:
        targets: ground truth by image id.
        predictions: predictions by image id; images without predictions may be missing.
        class_names: names of labels 1, 2, ...
        kind: "box" or "mask".
        class_agnostic: whether to treat all labels as one class.
        limits: maximum numbers of detections per image to compute AR at; all detections are always added.

    Raises:
        UserError: If predictions belong to an image without ground truth, or have no scores, or masks are evaluated
            and missing.
    """
    targets, predictions, class_names = prepare_inputs(targets, predictions, class_names, kind, class_agnostic)
    max_count = max((len(p) for p in predictions.values()), default=0)
    # pycocotools requires 100 among the limits and computes AP at the last one, so the limit for all is added at the
    # end, above the others.
    below = sorted(set(limits))
    max_detections = (*below, max(max_count, below[-1] + 1))
    with_masks = kind == "mask"  # encoding masks takes longer than evaluating boxes
    dataset = to_coco_dataset(targets, class_names, with_masks=with_masks)
    results = to_coco_results(predictions, with_masks)
    precision, recall = _accumulate(dataset, results, kind, max_detections, len(class_names))
    return COCOMetrics(kind, tuple(class_names), max_detections, precision, recall)


def evaluate_coco_files(annotations: Any, results: Any) -> tuple[COCOMetrics, COCOMetrics | None]:
    """Compute AP and AR of the contents of a COCO results file against those of an annotation file.

    Args:
        annotations: a dict with `images`, `annotations` and `categories`.
        results: a list of entries with `image_id`, `category_id`, `score`, and `bbox` or `segmentation`. If there is no
            `bbox`, boxes are the extents of the masks.

    Returns:
        The metrics of boxes, and those of masks if both files have masks.

    Raises:
        UserError: If they are something else, or if results are of unknown images or categories.
    """
    keys = ("images", "annotations", "categories")
    if not isinstance(annotations, dict) or not all(isinstance(annotations.get(key), list) for key in keys):
        raise UserError(f"annotations: are not COCO's, which have {', '.join(keys)}")
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise UserError("results: are not COCO's, which are a list of detections")
    known = {key: {each["id"] for each in annotations[key]} for key in ("images", "categories")}
    for number, entry in enumerate(results):
        for key, owner in (("image_id", "images"), ("category_id", "categories")):
            if entry.get(key) not in known[owner]:
                raise UserError(f"results: entry {number} has {key} {entry.get(key)}, unknown in the annotations")
    names = tuple(str(each["name"]) for each in sorted(annotations["categories"], key=lambda each: int(each["id"])))
    most = Counter(entry["image_id"] for entry in results).most_common(1)
    limits = (1, 100, max(101, most[0][1] if most else 0))
    found = []
    for kind in _kinds(annotations, results):
        dataset = _prepare_file(annotations, kind)
        found.append(COCOMetrics(kind, names, limits, *_accumulate(dataset, _copy(results), kind, limits, len(names))))
    return found[0], found[1] if len(found) > 1 else None


def _prepare_file(annotations: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Ignore objects without a mask in the evaluation of masks, as everywhere else: their box serves as the mask."""
    if kind == "box":
        return annotations
    entries = [entry if entry.get("segmentation") else _fill_box(entry) for entry in annotations["annotations"]]
    return {**annotations, "annotations": entries}


def _fill_box(entry: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = entry["bbox"]
    ring = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {**entry, "segmentation": [ring], "iscrowd": 1}


def _copy(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(entry) for entry in results]  # the evaluator changes its entries


def _kinds(annotations: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Kind, ...]:
    with_masks = all(any("segmentation" in entry for entry in part) for part in (annotations["annotations"], results))
    return ("box", "mask") if with_masks else ("box",)


@dataclass(frozen=True)
class DatasetMatches:
    """Detections of all images, matched at one IoU threshold, without ignored ones.

    Attributes:
        scores: float64 `[D]`.
        true_positive: bool `[D]`.
        num_objects: number of ground-truth objects that are not ignored.
    """

    scores: NDArray[np.float64]
    true_positive: NDArray[np.bool_]
    num_objects: int

    def f1(self, threshold: float) -> float | None:
        """Return F1 = 2 TP / (2 TP + FP + FN) at a score threshold; None without objects and detections."""
        counted = self.scores >= threshold
        both = int(counted.sum()) + self.num_objects
        return 2 * int(self.true_positive[counted].sum()) / both if both else None


def match_dataset(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind = "box",
    class_agnostic: bool = False,
    iou: float = 0.5,
) -> DatasetMatches:
    """Match detections at one IoU threshold as `evaluate_coco` does: greedily in descending order of score.

    Args:
        targets: ground truth by image id.
        predictions: predictions by image id.
        class_names: names of labels 1, 2, ...
        kind: "box" or "mask".
        class_agnostic: whether to treat all labels as one class.
        iou: minimum IoU of a match.

    Raises:
        UserError: As in `evaluate_coco`.
    """
    targets, predictions, class_names = prepare_inputs(targets, predictions, class_names, kind, class_agnostic)
    dataset = to_coco_dataset(targets, class_names, with_masks=kind == "mask")
    results = to_coco_results(predictions, with_masks=kind == "mask")
    scores = np.array([entry["score"] for entry in results], dtype=np.float64)
    ignored = {entry["id"] for entry in dataset["annotations"] if entry["iscrowd"]}
    partner = np.zeros(len(results), dtype=np.int64)  # id of the matched object, 0 for none
    if results and dataset["annotations"]:
        evaluator = _run_evaluator(dataset, results, kind, (1, len(results) + 1), ("all",), (iou,))
        for pair in evaluator.eval["matched"]:
            detection, found = map(int, pair.split("_"))
            partner[detection - 1] = found
    counted = np.array([found not in ignored for found in partner.tolist()], dtype=bool)
    return DatasetMatches(scores[counted], partner[counted] > 0, len(dataset["annotations"]) - len(ignored))


def compute_proposal_recall(
    targets: Mapping[int, Instances],
    proposals: Mapping[int, Instances],
    limits: Sequence[int] = (10, 100, 1000),
) -> dict[str, float | None]:
    """Compute class-agnostic box AR over IoU .5:.05:.95: `ar_<limit>` for each limit per image, and `ar_all`."""
    figures = evaluate_coco(targets, proposals, ("object",), class_agnostic=True, limits=limits)
    return get_recall_at_limits(figures, limits)


def get_recall_at_limits(figures: COCOMetrics, limits: Sequence[int]) -> dict[str, float | None]:
    """Return `ar_<limit>` for each limit, and `ar_all`."""
    recalls = {f"ar_{limit}": figures.average_recall(limit) for limit in limits}
    return {**recalls, "ar_all": figures.ar}


def _check(targets: Mapping[int, Instances], predictions: Mapping[int, Instances], kind: Kind) -> None:
    if kind not in ("box", "mask"):
        raise UserError(f"unknown kind of evaluation {kind!r}; choose box or mask")
    unknown = sorted(set(predictions) - set(targets))
    if unknown:
        images = format_count(len(unknown), "images")
        raise UserError(f"predictions for {images} without ground truth, the first is image {unknown[0]}")
    if kind == "mask":
        for what, all_instances in (("ground truth", targets), ("prediction", predictions)):
            for image_id, instances in all_instances.items():
                if len(instances) and instances.masks is None:
                    raise UserError(f"{what} of image {image_id} has no masks; evaluate boxes instead")


def _drop_at_empty_masks(prediction: Instances, target: Instances) -> Instances:
    """Drop detections with an empty mask of which half is in the box of an object of their class with an empty mask."""
    no_target, no_mask = ~target.has_mask(), ~prediction.has_mask()
    if not no_target.any() or not no_mask.any():
        return prediction
    boxes = prediction.boxes.detach()
    inside = box_intersection(boxes, target.boxes[no_target]) * (prediction.labels[:, None] == target.labels[no_target])
    return prediction[~(no_mask & (inside.amax(dim=1) >= 0.5 * box_area(boxes)))]


def prepare_inputs(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind,
    class_agnostic: bool,
) -> tuple[Mapping[int, Instances], Mapping[int, Instances], Sequence[str]]:
    """Check ground truth and predictions, and apply the rules for classes and empty masks."""
    _check(targets, predictions, kind)
    if class_agnostic:
        targets, predictions, class_names = _merge_classes(targets), _merge_classes(predictions), ("object",)
    if kind == "mask":
        predictions = {i: _drop_at_empty_masks(p, targets[i]) for i, p in predictions.items()}
        targets = {i: target.ignore_empty_masks() for i, target in targets.items()}
    return targets, predictions, class_names


def _merge_classes(by_image: Mapping[int, Instances]) -> dict[int, Instances]:
    return {i: replace(instances, labels=torch.ones_like(instances.labels)) for i, instances in by_image.items()}


def _accumulate(
    dataset: dict[str, Any], results: list[dict[str, Any]], kind: Kind, limits: tuple[int, ...], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute precision `[T, R, K, A, M]` and recall `[T, K, A, M]`, NaN where no ground truth defines them."""
    shape = (len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), num_classes, len(SIZE_RANGES), len(limits))
    if not dataset["annotations"]:
        return np.full(shape, np.nan), np.full(shape[:1] + shape[2:], np.nan)
    evaluator = _run_evaluator(dataset, results, kind, limits, SIZE_RANGES, IOU_THRESHOLDS)
    precision = np.asarray(evaluator.eval["precision"], dtype=np.float64).reshape(shape)
    recall = np.asarray(evaluator.eval["recall"], dtype=np.float64).reshape(shape[:1] + shape[2:])
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def _run_evaluator(
    dataset: dict[str, Any],
    results: list[dict[str, Any]],
    kind: Kind,
    limits: Iterable[int],
    sizes: Iterable[str],
    ious: Iterable[float],
) -> Any:
    """Run the COCO evaluator and return it with its results."""
    from faster_coco_eval import (  # imported here because the import takes longer than an evaluation
        COCO,
        COCOeval_faster,
    )

    if kind == "mask":  # with bbox, the areas of detected masks would be those of their boxes
        for entry in results:
            entry.pop("bbox", None)
    coco = COCO(dataset)
    evaluator = COCOeval_faster(coco, coco.loadRes(results), iouType="segm" if kind == "mask" else "bbox")
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
        raise UserError(f"AP is computed at IoU .5:.05:.95, not at {iou}")
    return index


def _size(name: str) -> int:
    if name not in SIZE_RANGES:
        raise UserError(f"unknown size {name!r}; choose from {', '.join(SIZE_RANGES)}")
    return list(SIZE_RANGES).index(name)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
