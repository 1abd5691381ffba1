"""Region proposal network (Ren et al., arXiv 1506.01497) on a feature pyramid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from maskrcnn.model.anchors import check_anchors, make_anchor_levels
from maskrcnn.model.assign import assign_anchors, reduce_loss, sample
from maskrcnn.model.config import RPNConfig
from maskrcnn.model.limits import PLAUSIBLE_LOGIT, LimitCuts, scale_limit
from maskrcnn.ops.matching import all_anchors, anchors_at
from maskrcnn.ops.nms import nms
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.boxes import clip_boxes, decode_boxes, encode_boxes
from maskrcnn.structures.instances import Instances

CODER_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class RPNOutput(NamedTuple):
    """Output of the RPN, in the order row, column, anchor.

    Attributes:
        logits: float32 `[B, P_l]` for each level.
        deltas: float32 `[B, P_l, 4]` for each level.
        levels: anchor grid of each level.
    """

    logits: list[Tensor]
    deltas: list[Tensor]
    levels: list[AnchorLevel]


class RPN(nn.Module):
    """First stage: predicts objectness and box deltas of all anchors, and computes proposals from them."""

    def __init__(self, config: RPNConfig, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        check_anchors(config, len(strides))
        self.config = config
        self.strides = [stride * config.anchor_stride for stride in strides]
        per_cell = len(config.anchor_sizes[0]) * len(config.anchor_ratios)
        steps = [config.anchor_stride if i == 0 else 1 for i in range(config.depth)]
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=step, padding=1) for step in steps)
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, per_cell * 4, 1)
        for layer in [*self.convs, self.objectness, self.deltas]:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], padded: tuple[int, int]) -> RPNOutput:
        """Compute the output for maps `[B, C, h, w]`, finest first, of images padded to `padded` (H, W)."""
        logits, deltas, hidden = [], [], []
        for x in features:
            for conv in self.convs:
                x = F.relu(conv(x))
            hidden.append(x)
            with torch.autocast(x.device.type, enabled=False):
                logits.append(self.objectness(x.float()).permute(0, 2, 3, 1).flatten(1))
                deltas.append(self.deltas(x.float()).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
        return RPNOutput(logits, deltas, make_anchor_levels(self.config, hidden, self.strides, padded))

    @torch.no_grad()
    def propose(
        self,
        output: RPNOutput,
        sizes: Sequence[tuple[int, int]],
        training: bool,
        factors: Sequence[float] | None = None,
        cuts: LimitCuts | None = None,
    ) -> list[Instances]:
        """Compute the proposals of each image, sorted by score.

        Args:
            output: output for the images.
            sizes: (h, w) of each image.
            training: whether to use the limits for training.
            factors: factors of the limits for each image (default: 1).
            cuts: counts the likely objects that the limits cut.
        """
        config = self.config
        factors = [1.0] * len(sizes) if factors is None else factors
        limit = (config.pre_nms_top_n_training if training else 0) or config.pre_nms_top_n_inference
        limits = [scale_limit(limit, factor) for factor in factors]
        boxes, logits, groups = [], [], []
        for level, (level_logits, level_deltas) in enumerate(zip(output.logits, output.deltas, strict=True)):
            top, index = level_logits.topk(min(max(limits), level_logits.shape[1]), dim=1)
            anchors = anchors_at(output.levels[level], index)
            deltas = level_deltas.gather(1, index[..., None].expand(-1, -1, 4))
            boxes.append(decode_boxes(deltas, anchors, CODER_WEIGHTS))
            logits.append(top)
            groups.append(torch.full_like(index, level))
        if cuts is not None:
            for image, kept in enumerate(limits):
                cut = torch.stack([_count_cut(level_logits[image], kept) for level_logits in output.logits])
                cuts.add("pre_nms_limit", cut.sum())
        keep = config.post_nms_top_n_training if training else config.post_nms_top_n_inference
        proposals = []
        for i, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
            parts = (torch.cat([part[i, : limits[i]] for part in parts]) for parts in (boxes, logits, groups))
            all_boxes, all_logits, all_groups = parts
            boxes_inside = clip_boxes(all_boxes, size)
            proposals.append(self._select(boxes_inside, all_logits, all_groups, size, scale_limit(keep, factor), cuts))
        return proposals

    def _select(
        self,
        boxes: Tensor,
        logits: Tensor,
        groups: Tensor,
        size: tuple[int, int],
        limit: int,
        cuts: LimitCuts | None,
    ) -> Instances:
        is_valid = ((boxes[:, 2:] - boxes[:, :2]) >= self.config.min_size).all(dim=1) & torch.isfinite(logits)
        boxes, logits, groups = boxes[is_valid], logits[is_valid], groups[is_valid]
        keep = nms(boxes, logits, self.config.nms_threshold, groups)
        if cuts is not None:
            cuts.add("post_nms_rois_inference", _count_cut(logits[keep], limit))
        keep = keep[:limit]
        labels = torch.ones(len(keep), dtype=torch.int64, device=boxes.device)
        return Instances(size, boxes[keep], labels, logits[keep].sigmoid())

    def loss(self, output: RPNOutput, instances: Sequence[Instances], per_sample: bool) -> dict[str, Tensor]:
        """Compute `loss_objectness` and `loss_rpn_box_reg` for targets in the coordinates of the network's input."""
        logits, deltas = torch.cat(output.logits, dim=1), torch.cat(output.deltas, dim=1)
        anchors = all_anchors(output.levels)
        classes, boxes, box_targets, counts = [], [], [], []
        for image, targets in enumerate(instances):
            labels, index = assign_anchors(output.levels, anchors, targets, self.config)
            chosen = self._choose_anchors(labels)
            positive = chosen[labels[chosen] > 0]
            counts.append(len(positive) if self.config.focal_loss else len(chosen))
            classes.append(self._objectness_loss(logits[image, chosen], (labels[chosen] > 0).float()))
            boxes.append(deltas[image, positive])
            box_targets.append(encode_boxes(targets.boxes[index[positive]], anchors[positive], CODER_WEIGHTS))
        count = logits.new_tensor(counts)
        box_loss = F.smooth_l1_loss(
            torch.cat(boxes), torch.cat(box_targets), beta=self.config.smooth_l1_beta, reduction="none"
        ).sum(dim=1)
        return {
            "loss_objectness": reduce_loss(torch.cat(classes), compute_image_index(classes), count, per_sample),
            "loss_rpn_box_reg": reduce_loss(box_loss, compute_image_index(boxes), count, per_sample),
        }

    def _choose_anchors(self, labels: Tensor) -> Tensor:
        """Choose anchors for the loss: all for the focal loss (Lin et al., arXiv 1708.02002), otherwise a sample."""
        if self.config.focal_loss:
            return torch.nonzero(labels >= 0).flatten()
        return sample(labels, self.config.anchors_per_image, self.config.positive_fraction)

    def _objectness_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.config.focal_loss:
            loss: Tensor = sigmoid_focal_loss(logits, target)
            return loss
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _count_cut(logits: Tensor, limit: int) -> Tensor:
    """Count the likely objects beyond the best `limit` of `logits`; returns an int64 scalar on their device."""
    return ((logits >= PLAUSIBLE_LOGIT).sum() - limit).clamp(min=0)


def compute_image_index(parts: Sequence[Tensor]) -> Tensor:
    """Return the index of its part for each row of the concatenated parts, int64."""
    counts = torch.tensor([len(part) for part in parts], device=parts[0].device)
    return torch.repeat_interleave(counts)
