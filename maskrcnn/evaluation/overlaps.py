"""Overlapping pairs of objects and detections of a whole data set, from which all metrics of matches are computed.

The pairs are found once, and stored for those that overlap only, so that memory follows the objects and not objects ×
detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import Kind, prepare_inputs
from maskrcnn.evaluation.coco_format import get_scores
from maskrcnn.ops.boxes import box_intersection
from maskrcnn.structures.instances import Instances

_CHUNK_SIZE = 512  # detections compared with all objects of an image at a time


@dataclass(frozen=True)
class Overlaps:
    """N objects and D detections of a data set, and the P pairs of them with a positive IoU.

    Detections are in descending order of score, equal scores in the order of images and of detections in them, as in
    the COCO API. Hence an index of a detection is its rank.

    Attributes:
        kind: "box" or "mask".
        class_names: names of labels 1, 2, ...
        image_ids: ids of the images, ascending.
        object_image: int64 `[N]`, index of the image.
        object_label: int64 `[N]`.
        object_box: float64 `[N, 4]`, xyxy in pixels.
        object_area: float64 `[N]`, in square pixels: of the mask, or of the box if there is none.
        object_ignore: bool `[N]`.
        image: int64 `[D]`, index of the image of each detection.
        label: int64 `[D]`.
        box: float64 `[D, 4]`.
        area: float64 `[D]`, of the boxes or masks that are evaluated.
        scores: float64 `[D]`, descending.
        pair_detection: int64 `[P]`, ascending.
        pair_object: int64 `[P]`.
        iou: float64 `[P]`; with an ignored object the intersection over the area of the detection, as in the COCO API.
    """

    kind: Kind
    class_names: tuple[str, ...]
    image_ids: tuple[int, ...]
    object_image: NDArray[np.int64]
    object_label: NDArray[np.int64]
    object_box: NDArray[np.float64]
    object_area: NDArray[np.float64]
    object_ignore: NDArray[np.bool_]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    box: NDArray[np.float64]
    area: NDArray[np.float64]
    scores: NDArray[np.float64]
    pair_detection: NDArray[np.int64]
    pair_object: NDArray[np.int64]
    iou: NDArray[np.float64]

    def above(self, threshold: float) -> Overlaps:
        """Return the same with the detections of at least this score."""
        count = int(np.searchsorted(-self.scores, -threshold, side="right"))
        pairs = int(np.searchsorted(self.pair_detection, count))
        return replace(
            self,
            **{name: getattr(self, name)[:count] for name in ("image", "label", "box", "area", "scores")},
            **{name: getattr(self, name)[:pairs] for name in ("pair_detection", "pair_object", "iou")},
        )


def find_overlaps(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    class_names: Sequence[str],
    kind: Kind = "box",
    class_agnostic: bool = False,
) -> Overlaps:
    """Find the overlapping pairs of objects and detections, of any two classes.

    Args:
        targets: ground truth by image id.
        predictions: predictions by image id; images without predictions may be missing.
        class_names: names of labels 1, 2, ...
        kind: "box" or "mask".
        class_agnostic: whether to treat all labels as one class.

    Raises:
        UserError: If predictions belong to an image without ground truth, have no scores or NaN scores, or masks are
            evaluated and missing.
    """
    targets, predictions, class_names = prepare_inputs(targets, predictions, class_names, kind, class_agnostic)
    ids = sorted(targets)
    found = [_get_detections(predictions.get(i), i) for i in ids]
    owners = [targets[i] for i in ids]
    pairs = [
        _find_pairs(a, b, kind) if b is not None and len(b) else _NO_PAIRS for a, b in zip(owners, found, strict=True)
    ]
    object_starts = np.cumsum([0, *(len(each) for each in owners)])
    starts = np.cumsum([0, *(0 if each is None else len(each) for each in found)])
    some = [each for each in found if each is not None]
    scores = _join([each.scores for each in some], np.float64)
    order = np.argsort(-scores, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    pair_detection = rank[
        np.concatenate([a + start for (a, _, _), start in zip(pairs, starts, strict=False)] or [[]]).astype(np.int64)
    ]
    pair_object = np.concatenate(
        [b + start for (_, b, _), start in zip(pairs, object_starts, strict=False)] or [[]]
    ).astype(np.int64)
    iou = np.concatenate([*(each[2] for each in pairs), np.zeros(0)])
    by_rank = np.argsort(pair_detection, kind="stable")
    return Overlaps(
        kind,
        tuple(class_names),
        tuple(ids),
        np.repeat(np.arange(len(ids)), np.diff(object_starts)),
        _join([each.labels for each in owners], np.int64),
        _join([each.boxes for each in owners], np.float64).reshape(-1, 4),
        _join([each.areas() for each in owners], np.float64),
        _join([each.ignore for each in owners], np.bool_),
        np.repeat(np.arange(len(ids)), np.diff(starts))[order],
        _join([each.labels for each in some], np.int64)[order],
        _join([each.boxes for each in some], np.float64).reshape(-1, 4)[order],
        _join([_measure(each, kind) for each in some], np.float64)[order],
        scores[order],
        pair_detection[by_rank],
        pair_object[by_rank],
        iou[by_rank],
    )


_NO_PAIRS = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
_Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _get_detections(prediction: Instances | None, image_id: int) -> Instances | None:
    if prediction is None or not len(prediction):
        return None
    if bool(get_scores(image_id, prediction).isnan().any()):
        raise UserError(f"prediction of image {image_id} has a score that is NaN; detections need finite scores")
    return prediction


def _join(parts: Sequence[torch.Tensor | None], dtype: type) -> NDArray[Any]:
    arrays: list[NDArray[Any]] = [part.detach().cpu().numpy().astype(dtype) for part in parts if part is not None]
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _measure(instances: Instances, kind: Kind) -> torch.Tensor:
    """Compute the areas of detections as the COCO API does: of the boxes, or of the masks even if they are empty."""
    if kind == "mask" and instances.masks is not None:
        return instances.masks.areas().double()
    boxes = instances.boxes.detach().double()
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _find_pairs(target: Instances, prediction: Instances, kind: Kind) -> _Pairs:
    """Find the pairs (detection, object, IoU) of an image, with the detections ascending."""
    areas, object_areas = _measure(prediction, kind), _measure(target, kind)
    if kind == "mask" and prediction.masks is not None and target.masks is not None:
        detection, found, ious = prediction.masks.iou(target.masks)
        # The operation returns float32. Intersections are whole numbers, so that the exact IoU is recovered from it.
        both = areas[detection] + object_areas[found]
        shared = (ious.double() * both / (1 + ious.double())).round()
    else:
        detection, found, shared = _find_overlapping_boxes(prediction.boxes.detach(), target.boxes)
    union = areas[detection] + object_areas[found] - shared
    ious = shared / torch.where(target.ignore[found], areas[detection], union)
    return detection.numpy(), found.numpy(), ious.numpy()


def _find_overlapping_boxes(
    boxes: torch.Tensor, others: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the pairs of boxes that overlap, and the areas that they share."""
    found = []
    for start in range(0, len(boxes), _CHUNK_SIZE):
        shared = box_intersection(boxes[start : start + _CHUNK_SIZE].double(), others.double())
        row, column = torch.nonzero(shared, as_tuple=True)
        found.append((row + start, column, shared[row, column]))
    rows, columns, areas = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rows, columns, areas
