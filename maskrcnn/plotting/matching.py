"""Which detection found which truth: greedy, by falling score, as a picture needs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn.ops.boxes import box_area, box_intersection, box_iou
from maskrcnn.structures.instances import Instances

_ROWS_AT_ONCE = 512  # boxes compared with all others at a time: bounds the memory for ten thousand of each


@dataclass(frozen=True)
class Matches:
    """Partners of D detections and N truths.

    ``truth_of`` int64 [D] is the truth that a detection found, else -1; ``detection_of`` int64 [N] the reverse.
    ``excused`` bool [D]: unmatched, but at least half of the box lies in a truth to ignore. ``ignored`` bool [N].
    """

    truth_of: NDArray[np.int64]
    detection_of: NDArray[np.int64]
    excused: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """bool [D]"""
        return self.truth_of >= 0

    @property
    def false_alarms(self) -> NDArray[np.bool_]:
        """bool [D]"""
        return ~self.hits & ~self.excused

    @property
    def missed(self) -> NDArray[np.bool_]:
        """bool [N]"""
        return (self.detection_of < 0) & ~self.ignored


def match_detections(
    truth: Instances,
    prediction: Instances,
    iou_threshold: float = 0.5,
    by_masks: bool = False,
    class_agnostic: bool = False,
) -> Matches:
    """Give each detection, by falling score, the free truth of its class of highest IoU, if that reaches the threshold.

    IoU is of masks when ``by_masks`` and both have them, else of boxes. Truths to ignore match nothing.
    """
    if by_masks and prediction.masks is not None:
        truth = truth.as_judged_by_masks()
    detections, truths, ious = _close_pairs(truth, prediction, iou_threshold, by_masks)
    ignored = truth.ignore.cpu().numpy()
    allowed = ~ignored[truths]
    if not class_agnostic:
        allowed &= prediction.labels.cpu().numpy()[detections] == truth.labels.cpu().numpy()[truths]
    detections, truths, ious = detections[allowed], truths[allowed], ious[allowed]
    scores = np.zeros(len(prediction)) if prediction.scores is None else prediction.scores.detach().cpu().numpy()
    truth_of, detection_of = np.full(len(prediction), -1), np.full(len(truth), -1)
    for pair in np.lexsort((-ious, detections, -scores[detections])):
        detection, found = detections[pair], truths[pair]
        if truth_of[detection] < 0 and detection_of[found] < 0:
            truth_of[detection], detection_of[found] = found, detection
    excused = (truth_of < 0) & _half_inside_ignored(truth, prediction)
    return Matches(truth_of, detection_of, excused, ignored)


def _close_pairs(
    truth: Instances, prediction: Instances, iou_threshold: float, by_masks: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (detection, truth, IoU) at or above the threshold; only these are kept."""
    if by_masks and prediction.masks is not None and truth.masks is not None:
        rows, columns, ious = prediction.masks.iou(truth.masks)
    else:
        rows, columns, ious = _close_boxes(prediction.boxes.detach(), truth.boxes, iou_threshold)
    close = ious >= iou_threshold
    return rows[close].cpu().numpy(), columns[close].cpu().numpy(), ious[close].double().cpu().numpy()


def _close_boxes(
    boxes: torch.Tensor, others: torch.Tensor, iou_threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, columns, ious = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for start in range(0, len(boxes), _ROWS_AT_ONCE):
        iou = box_iou(boxes[start : start + _ROWS_AT_ONCE], others)
        row, column = torch.nonzero(iou >= iou_threshold, as_tuple=True)
        rows.append(row.cpu() + start)
        columns.append(column.cpu())
        ious.append(iou[row, column].cpu())
    return torch.cat(rows), torch.cat(columns), torch.cat(ious)


def _half_inside_ignored(truth: Instances, prediction: Instances) -> NDArray[np.bool_]:
    """bool [D]: at least half of the detection's box lies in one truth to ignore."""
    if not len(prediction) or not bool(truth.ignore.any()):
        return np.zeros(len(prediction), dtype=bool)
    boxes = prediction.boxes.detach()
    inside = box_intersection(boxes, truth.boxes[truth.ignore]).amax(dim=1)
    return (inside >= 0.5 * box_area(boxes)).cpu().numpy()
