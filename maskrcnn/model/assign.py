"""Assignment of targets to anchors and proposals, and sampling for the losses."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.config import BoxHeadConfig, RPNConfig
from maskrcnn.ops.matching import covered, match_anchors, match_boxes
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.instances import Instances


class Assignment(NamedTuple):
    """Targets assigned to P priors (anchors or proposals).

    Attributes:
        labels: int64 `[P]`, class of each prior; 0 for background, -1 for priors that are not used.
        targets: int64 `[P]`, index of the target of each prior, or -1.
    """

    labels: Tensor
    targets: Tensor


def find_targets(instances: Instances) -> Tensor:
    """Find the objects that are targets, neither ignored nor degenerate; returns their indices, int64."""
    boxes = instances.boxes
    valid = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return torch.nonzero(valid & ~instances.ignore).flatten()


def assign_anchors(
    levels: Sequence[AnchorLevel], anchors: Tensor, instances: Instances, config: RPNConfig
) -> Assignment:
    """Assign targets to anchors (Ren et al., arXiv 1506.01497, section 3.1.2).

    Anchors are positive if their IoU with a target is at least `positive_iou`, or if they are the best for a target,
    and negative if their IoU is below `negative_iou`. Negatives inside ignored objects are not used.

    Args:
        levels: anchor grids of all levels.
        anchors: `[P, 4]`, the anchors of `levels`, which the caller needs anyway.
        instances: ground truth.
        config: options.

    Returns:
        Labels are 1, 0, or -1.
    """
    targets = find_targets(instances)
    match = match_anchors(levels, instances.boxes[targets], config.negative_iou, config.forced_ties)  # type: ignore[arg-type]
    labels = torch.where(match.iou >= config.positive_iou, 1, -1)
    labels[match.forced] = 1
    labels[(match.iou < config.negative_iou) & ~match.forced] = 0
    if instances.ignore.any():
        labels[(labels == 0) & covered(anchors, instances.boxes[instances.ignore])] = -1
    return Assignment(labels, _to_instance_index(match.index, targets))


def assign_proposals(proposals: Tensor, instances: Instances, config: BoxHeadConfig) -> Assignment:
    """Assign targets to proposals (Girshick, arXiv 1504.08083, section 2.3).

    A proposal gets the class of the target with the maximum IoU if it is at least `positive_iou`, otherwise background.
    Negatives inside ignored objects are not used.

    Args:
        proposals: `[P, 4]`.
        instances: ground truth.
        config: options.
    """
    targets = find_targets(instances)
    match = match_boxes(proposals, instances.boxes[targets], config.positive_iou)
    positive = (match.index >= 0) & (match.iou >= config.positive_iou)
    assigned = _to_instance_index(torch.where(positive, match.index, -1), targets)
    labels = torch.where(positive, instances.labels[assigned.clamp(min=0)] if len(instances) else 0, 0)
    if instances.ignore.any():
        labels[~positive & covered(proposals, instances.boxes[instances.ignore])] = -1
    return Assignment(labels, assigned)


def _to_instance_index(index: Tensor, targets: Tensor) -> Tensor:
    """Convert indices of targets to indices of instances; -1 is kept."""
    return torch.where(index >= 0, targets[index.clamp(min=0)], -1) if len(targets) else torch.full_like(index, -1)


def sample(labels: Tensor, count: int, positive_fraction: float, hardness: Tensor | None = None) -> Tensor:
    """Sample priors for a loss, at random or by hardness.

    Args:
        labels: int64 `[P]`, see `Assignment`.
        count: maximum number of samples.
        positive_fraction: maximum fraction of positives in `count`.
        hardness: float `[P]`; if given, the priors with the highest values are taken.

    Returns:
        Indices int64, positives first.
    """
    key = torch.rand(len(labels), dtype=torch.float32, device=labels.device) if hardness is None else hardness
    positives, negatives = torch.nonzero(labels > 0).flatten(), torch.nonzero(labels == 0).flatten()
    num_positives = min(len(positives), int(count * positive_fraction))
    num_negatives = min(len(negatives), count - num_positives)
    return torch.cat(
        [positives[key[positives].topk(num_positives).indices], negatives[key[negatives].topk(num_negatives).indices]]
    )


def reduce_loss(values: Tensor, images: Tensor, counts: Tensor, per_sample: bool) -> Tensor:
    """Reduce losses of samples to a scalar.

    Args:
        values: float `[K]`, loss of each sample.
        images: int64 `[K]`, index of its image.
        counts: float `[B]`, number of samples to divide by, per image.
        per_sample: whether to average over each image, then over the images; otherwise over all samples.
    """
    if per_sample:
        return (values / counts.clamp(min=1)[images]).sum() / len(counts)
    return values.sum() / counts.sum().clamp(min=1)
