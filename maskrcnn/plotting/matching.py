"""Greedy matching of detections to ground truth for plots, in descending order of score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.ops.boxes import box_area, box_intersection, box_iou
from maskrcnn.structures.instances import Instances

_CHUNK_SIZE = 512  # boxes compared with all others at a time: bounds the memory for ten thousand of each


@dataclass(frozen=True)
class DetectionMatches:
    """Matches of D detections and N ground-truth objects.

    Attributes:
        matched_target: int64 `[D]`, index of the matched object per detection, or -1.
        matched_detection: int64 `[N]`, index of the matched detection per object, or -1.
        ignored_detections: bool `[D]`, unmatched detections with at least half of the box inside an ignored object.
        ignored_targets: bool `[N]`, ignored objects.
    """

    matched_target: NDArray[np.int64]
    matched_detection: NDArray[np.int64]
    ignored_detections: NDArray[np.bool_]
    ignored_targets: NDArray[np.bool_]

    @property
    def true_positives(self) -> NDArray[np.bool_]:
        """Matched detections, bool `[D]`."""
        return self.matched_target >= 0

    @property
    def false_positives(self) -> NDArray[np.bool_]:
        """Unmatched detections that are not ignored, bool `[D]`."""
        return ~self.true_positives & ~self.ignored_detections

    @property
    def false_negatives(self) -> NDArray[np.bool_]:
        """Missed objects that are not ignored, bool `[N]`."""
        return (self.matched_detection < 0) & ~self.ignored_targets


def match_detections(
    targets: Instances,
    prediction: Instances,
    iou_threshold: float = 0.5,
    by_masks: bool = False,
    class_agnostic: bool = False,
) -> DetectionMatches:
    """Match detections, in descending order of score, to the unmatched object of the same class with the highest IoU.

    Ignored objects are never matched.

    Args:
        targets: N objects.
        prediction: D detections.
        iou_threshold: minimum IoU.
        by_masks: use the IoU of masks if both have masks.
        class_agnostic: match objects of any class.

    Returns:
        The matches.
    """
    if by_masks and prediction.masks is not None:
        targets = targets.ignore_empty_masks()
    detections, target_index, ious = _find_close_pairs(targets, prediction, iou_threshold, by_masks)
    ignored_targets = targets.ignore.cpu().numpy()
    allowed = ~ignored_targets[target_index]
    if not class_agnostic:
        allowed &= prediction.labels.cpu().numpy()[detections] == targets.labels.cpu().numpy()[target_index]
    detections, target_index, ious = detections[allowed], target_index[allowed], ious[allowed]
    scores = np.zeros(len(prediction)) if prediction.scores is None else prediction.scores.detach().cpu().numpy()
    matched_target, matched_detection = np.full(len(prediction), -1), np.full(len(targets), -1)
    for pair in np.lexsort((-ious, detections, -scores[detections])):
        detection, found = detections[pair], target_index[pair]
        if matched_target[detection] < 0 and matched_detection[found] < 0:
            matched_target[detection], matched_detection[found] = found, detection
    ignored_detections = (matched_target < 0) & _find_ignored_detections(targets, prediction)
    return DetectionMatches(matched_target, matched_detection, ignored_detections, ignored_targets)


def _find_close_pairs(
    targets: Instances, prediction: Instances, iou_threshold: float, by_masks: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Find the pairs (detection, ground truth, IoU) whose IoU is at least the threshold."""
    if by_masks and prediction.masks is not None and targets.masks is not None:
        rows, columns, ious = prediction.masks.iou(targets.masks)
    else:
        rows, columns, ious = _find_close_boxes(prediction.boxes.detach(), targets.boxes, iou_threshold)
    close = ious >= iou_threshold
    return rows[close].cpu().numpy(), columns[close].cpu().numpy(), ious[close].double().cpu().numpy()


def _find_close_boxes(
    boxes: torch.Tensor, others: torch.Tensor, iou_threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, columns, ious = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for start in range(0, len(boxes), _CHUNK_SIZE):
        iou = box_iou(boxes[start : start + _CHUNK_SIZE], others)
        row, column = torch.nonzero(iou >= iou_threshold, as_tuple=True)
        rows.append(row.cpu() + start)
        columns.append(column.cpu())
        ious.append(iou[row, column].cpu())
    return torch.cat(rows), torch.cat(columns), torch.cat(ious)


def _find_ignored_detections(targets: Instances, prediction: Instances) -> NDArray[np.bool_]:
    """Return whether at least half of each detection's box is inside one ignored object, bool `[D]`."""
    if not len(prediction) or not bool(targets.ignore.any()):
        return np.zeros(len(prediction), dtype=bool)
    boxes = prediction.boxes.detach()
    inside = box_intersection(boxes, targets.boxes[targets.ignore]).amax(dim=1)
    return (inside >= 0.5 * box_area(boxes)).cpu().numpy()
