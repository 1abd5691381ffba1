"""Who is responsible for what: truths to anchors and proposals, and which of them the losses see."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.config import BoxHeadConfig, RPNConfig
from maskrcnn.ops.matching import covered, match_anchors, match_boxes
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.instances import Instances


class Assignment(NamedTuple):
    """labels: int64 `[P]`, class of each prior, 0 background, -1 neither; truth: int64 `[P]`, its truth or -1."""

    labels: Tensor
    truth: Tensor


def truths_of(instances: Instances) -> Tensor:
    """int64 indices of the objects that are targets: not ignored, not degenerate."""
    boxes = instances.boxes
    sound = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return torch.nonzero(sound & ~instances.ignore).flatten()


def assign_anchors(
    levels: Sequence[AnchorLevel], anchors: Tensor, instances: Instances, config: RPNConfig
) -> Assignment:
    """Ren et al., arXiv 1506.01497, section 3.1.2: positive above an IoU or best for a truth, negative below another.

    `anchors` `[P, 4]` are those of `levels`, which the caller has made already.
    """
    targets = truths_of(instances)
    match = match_anchors(levels, instances.boxes[targets], config.negative_iou, config.forced_ties)  # type: ignore[arg-type]
    labels = torch.where(match.iou >= config.positive_iou, 1, -1)
    labels[match.forced] = 1
    labels[(match.iou < config.negative_iou) & ~match.forced] = 0
    if instances.ignore.any():
        labels[(labels == 0) & covered(anchors, instances.boxes[instances.ignore])] = -1
    return Assignment(labels, _original(match.index, targets))


def assign_proposals(proposals: Tensor, instances: Instances, config: BoxHeadConfig) -> Assignment:
    """Girshick, arXiv 1504.08083, section 2.3: the class of the best truth from an IoU on, else background."""
    targets = truths_of(instances)
    match = match_boxes(proposals, instances.boxes[targets], config.positive_iou)
    positive = (match.index >= 0) & (match.iou >= config.positive_iou)
    truth = _original(torch.where(positive, match.index, -1), targets)
    labels = torch.where(positive, instances.labels[truth.clamp(min=0)] if len(instances) else 0, 0)
    if instances.ignore.any():
        labels[~positive & covered(proposals, instances.boxes[instances.ignore])] = -1
    return Assignment(labels, truth)


def _original(index: Tensor, targets: Tensor) -> Tensor:
    """Indices into the targets as indices into all instances; -1 stays."""
    return torch.where(index >= 0, targets[index.clamp(min=0)], -1) if len(targets) else torch.full_like(index, -1)


def sample(labels: Tensor, count: int, positive_fraction: float, hardness: Tensor | None = None) -> Tensor:
    """Indices int64 of at most `count` priors, positives first, at most `positive_fraction` of them positive.

    Drawn at random, or, where `hardness` float `[P]` is given, those with the highest.
    """
    key = torch.rand(len(labels), dtype=torch.float32, device=labels.device) if hardness is None else hardness
    positives, negatives = torch.nonzero(labels > 0).flatten(), torch.nonzero(labels == 0).flatten()
    num_positives = min(len(positives), int(count * positive_fraction))
    num_negatives = min(len(negatives), count - num_positives)
    return torch.cat(
        [positives[key[positives].topk(num_positives).indices], negatives[key[negatives].topk(num_negatives).indices]]
    )


def mean_loss(values: Tensor, images: Tensor, counts: Tensor, per_sample: bool) -> Tensor:
    """Reduce losses `values [K]` of `images [K]` by what each image counts, float `[B]`.

    per_sample: each image's sum over its count, then the mean of the images; else all in one pool.
    """
    if per_sample:
        return (values / counts.clamp(min=1)[images]).sum() / len(counts)
    return values.sum() / counts.sum().clamp(min=1)
