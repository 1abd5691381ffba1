"""Second stage: class and refined box of each RoI (Girshick, arXiv 1504.08083)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.assign import assign_proposals, find_targets, reduce_loss, sample
from maskrcnn.model.config import BoxHeadConfig
from maskrcnn.model.limits import LimitCuts, scale_limit
from maskrcnn.model.rpn import compute_image_index
from maskrcnn.ops.nms import nms
from maskrcnn.ops.pooling import roi_align
from maskrcnn.structures.boxes import assign_levels, clip_boxes, decode_boxes, encode_boxes
from maskrcnn.structures.instances import Instances

CHUNK = 8192  # RoIs per forward pass at inference; bounds the memory for large images


class SampledRoIs(NamedTuple):
    """RoIs sampled for the losses.

    Attributes:
        boxes: `[K, 4]`.
        images: int64 `[K]`, index of each RoI's image.
        labels: int64 `[K]`, 0 for background.
        targets: int64 `[K]`, index of the target in its image, or -1.
        counts: float `[B]`, number of RoIs per image.
        log_odds: float `[B]`, increase of the log odds of positives due to the sampling, per image.
    """

    boxes: Tensor
    images: Tensor
    labels: Tensor
    targets: Tensor
    counts: Tensor
    log_odds: Tensor


class Pooler(nn.Module):
    """RoIAlign from the pyramid level that matches the size of each RoI."""

    def __init__(self, config: BoxHeadConfig, strides: Sequence[int], output_size: int, sampling_ratio: int) -> None:
        super().__init__()
        if any(stride != strides[0] << i or stride & (stride - 1) for i, stride in enumerate(strides)):
            raise UserError(f"RoI levels require strides that are powers of two that double, got {list(strides)}")
        self.strides = list(strides)
        self.levels = [stride.bit_length() - 1 for stride in strides]
        self.canonical = (config.canonical_size, config.canonical_level)
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, config.aligned

    def forward(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """Pool RoIs.

        Args:
            features: maps `[B, C, h, w]` of the RoI levels.
            boxes: `[K, 4]`.
            images: int64 `[K]`, index of each RoI's image.

        Returns:
            `[K, C, S, S]`.
        """
        levels = assign_levels(boxes, *self.canonical, self.levels)
        return roi_align(
            features, boxes, images, levels, self.strides, self.output_size, self.sampling_ratio, self.aligned
        )


class BoxHead(nn.Module):
    """Predicts class scores and box deltas of RoIs, and computes detections from them."""

    def __init__(self, config: BoxHeadConfig, channels: int, strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.pool = Pooler(config, strides, config.pool_size, config.sampling_ratio)
        widths = [channels * config.pool_size**2, *config.widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.classes = nn.Linear(widths[-1], num_classes + 1)
        self.deltas = nn.Linear(widths[-1], 4 if config.class_agnostic else 4 * (num_classes + 1))
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits `[K, 1 + classes]` (0 is background) and deltas `[K, 1 or 1 + classes, 4]`, float32."""
        # Features are flattened in NCHW order for any memory format, because pretrained weights expect it.
        x = self.pool(features, boxes, images).flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.classes(x.float()), self.deltas(x.float()).unflatten(1, (-1, 4))

    @torch.no_grad()
    def sample(
        self, features: Sequence[Tensor], proposals: Sequence[Instances], instances: Sequence[Instances]
    ) -> SampledRoIs:
        """Sample proposals for the losses, with their targets."""
        boxes, labels, indices, log_odds = [], [], [], []
        for image, (proposed, targets) in enumerate(zip(proposals, instances, strict=True)):
            candidates = proposed.boxes
            if self.config.append_targets:
                candidates = torch.cat([candidates, targets.boxes[find_targets(targets)]])
            assigned = assign_proposals(candidates, targets, self.config)
            hardness = (
                self._hardness(features, candidates, image, assigned.labels) if self.config.hard_negatives else None
            )
            chosen = sample(assigned.labels, self.config.rois_per_image, self.config.positive_fraction, hardness)
            boxes.append(candidates[chosen])
            labels.append(assigned.labels[chosen])
            indices.append(assigned.targets[chosen])
            log_odds.append(compute_sampling_log_odds(assigned.labels, chosen))
        counts = torch.tensor([len(part) for part in boxes], dtype=torch.float32, device=boxes[0].device)
        return SampledRoIs(
            torch.cat(boxes),
            compute_image_index(boxes),
            torch.cat(labels),
            torch.cat(indices),
            counts,
            torch.stack(log_odds),
        )

    def _hardness(self, features: Sequence[Tensor], boxes: Tensor, image: int, labels: Tensor) -> Tensor:
        """Compute the current error of the head: log p(background) of positives, its negative for negatives."""
        logits, _ = self(features, boxes, torch.full_like(labels, image))
        background = logits.log_softmax(dim=1)[:, 0]  # the logarithm, because 1 - p would saturate
        return torch.where(labels > 0, background, -background)

    def loss(
        self, features: Sequence[Tensor], samples: SampledRoIs, instances: Sequence[Instances], per_sample: bool
    ) -> dict[str, Tensor]:
        """Compute `loss_classifier` and `loss_box_reg`."""
        logits, deltas = self(features, samples.boxes, samples.images)
        if self.config.calibrated and not self.config.hard_negatives:
            # Prior correction for sampling by class (King and Zeng 2001, section 4.1). Without it, the score of an
            # ambiguous RoI would be the fraction of positives among the samples instead of that among the proposals.
            logits = torch.cat([logits[:, :1], logits[:, 1:] + samples.log_odds[samples.images, None]], dim=1)
        class_loss = F.cross_entropy(logits, samples.labels, reduction="none")
        positive = torch.nonzero(samples.labels > 0).flatten()
        target_boxes = get_target_boxes(samples, positive, instances)
        targets = encode_boxes(target_boxes, samples.boxes[positive], self.config.coder_weights)
        column = 0 if self.config.class_agnostic else samples.labels[positive]
        box_loss = F.smooth_l1_loss(
            deltas[positive, column], targets, beta=self.config.smooth_l1_beta, reduction="none"
        ).sum(dim=1)
        return {
            "loss_classifier": reduce_loss(class_loss, samples.images, samples.counts, per_sample),
            "loss_box_reg": reduce_loss(box_loss, samples.images[positive], samples.counts, per_sample),
        }

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Instances],
        factors: Sequence[float] | None = None,
        cuts: LimitCuts | None = None,
    ) -> list[Instances]:
        """Compute the detections of each image, sorted by score, in the coordinates of the network's input.

        Args:
            features: maps `[B, C, h, w]` of the RoI levels.
            proposals: proposals of each image.
            factors: factors of the limit for each image (default: 1).
            cuts: counts the detections that the limit cuts.
        """
        factors = [1.0] * len(proposals) if factors is None else factors
        boxes = torch.cat([p.boxes for p in proposals])
        images = compute_image_index([p.boxes for p in proposals])
        chunks = zip(boxes.split(CHUNK), images.split(CHUNK), strict=True)
        logits, deltas = map(torch.cat, zip(*(self(features, *chunk) for chunk in chunks), strict=True))
        scores = logits.softmax(dim=1)[:, 1:]
        refined = decode_boxes(deltas, boxes[:, None], self.config.coder_weights)
        refined = refined if self.config.class_agnostic else refined[:, 1:]
        refined = refined.expand(-1, self.num_classes, -1)
        counts = [len(p) for p in proposals]
        return [
            self._select(part_scores, clip_boxes(part_boxes, p.size), p.size, factor, cuts)
            for part_scores, part_boxes, p, factor in zip(
                torch.split(scores, counts), torch.split(refined, counts), proposals, factors, strict=True
            )
        ]

    def _select(
        self, scores: Tensor, boxes: Tensor, size: tuple[int, int], factor: float, cuts: LimitCuts | None
    ) -> Instances:
        """Select detections from scores `[K, classes]` and boxes `[K, classes, 4]` of one image."""
        is_large = ((boxes[..., 2:] - boxes[..., :2]) >= self.config.min_size).all(dim=-1)
        row, column = torch.nonzero((scores > self.config.min_score) & is_large, as_tuple=True)
        boxes, scores = boxes[row, column], scores[row, column]
        keep = nms(boxes, scores, self.config.nms_threshold, column)
        limit = scale_limit(self.config.max_detections, factor)
        if cuts is not None:
            cuts.add("detection_max_instances", torch.tensor(max(0, len(keep) - limit)))
        keep = keep[:limit]
        return Instances(size, boxes[keep], column[keep] + 1, scores[keep])


def compute_sampling_log_odds(labels: Tensor, chosen: Tensor) -> Tensor:
    """Compute the log of the ratio of the sampling rates of positives and negatives, a float scalar.

    Args:
        labels: int64 `[P]`, labels of all proposals.
        chosen: indices of the sampled proposals.

    Returns:
        The log ratio; 0 if there are no positives or no negatives.
    """
    positive, negative = labels > 0, labels == 0
    kept = positive[chosen].sum() * negative.sum(), negative[chosen].sum() * positive.sum()
    ratio = kept[0].to(torch.float32) / kept[1].to(torch.float32)
    return ratio.log().nan_to_num(0.0, 0.0, 0.0)


def get_target_boxes(samples: SampledRoIs, positive: Tensor, instances: Sequence[Instances]) -> Tensor:
    """Return the target boxes `[K, 4]` of the positive samples."""
    first = torch.tensor([0, *(len(targets) for targets in instances)], device=positive.device).cumsum(0)
    index = first[samples.images[positive]] + samples.targets[positive]
    return torch.cat([targets.boxes for targets in instances])[index]
