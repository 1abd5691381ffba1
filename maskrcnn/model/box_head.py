"""Second stage: class and refined box of each RoI. Girshick, arXiv 1504.08083."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.assign import assign_proposals, mean_loss, sample, truths_of
from maskrcnn.model.config import BoxHeadConfig
from maskrcnn.model.limits import LimitCuts, scaled_limit
from maskrcnn.model.rpn import image_index
from maskrcnn.ops.nms import nms
from maskrcnn.ops.pooling import roi_align
from maskrcnn.structures.boxes import assign_levels, clip_boxes, decode_boxes, encode_boxes
from maskrcnn.structures.instances import Instances

CHUNK = 8192  # RoIs that pass the head together at inference: bounds the memory of large images


class Samples(NamedTuple):
    """RoIs that the losses see. boxes `[K, 4]`, images, labels and truth int64 `[K]`; counts float `[B]`.

    log_odds: float `[B]`, by how much sampling raised the log odds of the positives in each image.
    """

    boxes: Tensor
    images: Tensor
    labels: Tensor
    truth: Tensor
    counts: Tensor
    log_odds: Tensor


class Pooler(nn.Module):
    """RoIAlign that finds each RoI's level by its size."""

    def __init__(self, config: BoxHeadConfig, strides: Sequence[int], output_size: int, sampling_ratio: int) -> None:
        super().__init__()
        if any(stride != strides[0] << i or stride & (stride - 1) for i, stride in enumerate(strides)):
            raise UserError(f"RoIs need levels whose strides are powers of two that double, got {list(strides)}")
        self.strides = list(strides)
        self.levels = [stride.bit_length() - 1 for stride in strides]
        self.canonical = (config.canonical_size, config.canonical_level)
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, config.aligned

    def forward(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """Maps of the RoI levels, boxes `[K, 4]` of images int64 `[K]` → `[K, C, S, S]`."""
        levels = assign_levels(boxes, *self.canonical, self.levels)
        return roi_align(
            features, boxes, images, levels, self.strides, self.output_size, self.sampling_ratio, self.aligned
        )


class BoxHead(nn.Module):
    """Class scores and box deltas of RoIs, and the detections made of them."""

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
        """Logits `[K, 1 + classes]` (0 is background) and deltas `[K, 1 or 1 + classes, 4]`, float32."""
        # NCHW order of the flattened features, whatever the memory format: weights of other projects expect it.
        x = self.pool(features, boxes, images).flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.classes(x.float()), self.deltas(x.float()).unflatten(1, (-1, 4))

    @torch.no_grad()
    def sample(
        self, features: Sequence[Tensor], proposals: Sequence[Instances], instances: Sequence[Instances]
    ) -> Samples:
        """Which proposals the losses see, with their targets."""
        boxes, labels, truth, log_odds = [], [], [], []
        for image, (proposed, truths) in enumerate(zip(proposals, instances, strict=True)):
            candidates = proposed.boxes
            if self.config.append_truths:
                candidates = torch.cat([candidates, truths.boxes[truths_of(truths)]])
            assigned = assign_proposals(candidates, truths, self.config)
            hardness = (
                self._hardness(features, candidates, image, assigned.labels) if self.config.hard_negatives else None
            )
            chosen = sample(assigned.labels, self.config.rois_per_image, self.config.positive_fraction, hardness)
            boxes.append(candidates[chosen])
            labels.append(assigned.labels[chosen])
            truth.append(assigned.truth[chosen])
            log_odds.append(sampling_log_odds(assigned.labels, chosen))
        counts = torch.tensor([len(part) for part in boxes], dtype=torch.float32, device=boxes[0].device)
        return Samples(
            torch.cat(boxes), image_index(boxes), torch.cat(labels), torch.cat(truth), counts, torch.stack(log_odds)
        )

    def _hardness(self, features: Sequence[Tensor], boxes: Tensor, image: int, labels: Tensor) -> Tensor:
        """How wrong the head is now: log p(background) of positives, minus that of negatives (1 - p would saturate)."""
        logits, _ = self(features, boxes, torch.full_like(labels, image))
        background = logits.log_softmax(dim=1)[:, 0]
        return torch.where(labels > 0, background, -background)

    def loss(
        self, features: Sequence[Tensor], samples: Samples, instances: Sequence[Instances], per_sample: bool
    ) -> dict[str, Tensor]:
        """`loss_classifier` and `loss_box_reg`."""
        logits, deltas = self(features, samples.boxes, samples.images)
        if self.config.calibrated and not self.config.hard_negatives:
            # Prior correction for samples drawn by class (King and Zeng 2001, section 4.1): without it a RoI that could
            # be either scores what the sample's positive share is, .5, instead of the proposals' own.
            logits = torch.cat([logits[:, :1], logits[:, 1:] + samples.log_odds[samples.images, None]], dim=1)
        class_loss = F.cross_entropy(logits, samples.labels, reduction="none")
        positive = torch.nonzero(samples.labels > 0).flatten()
        wanted = true_boxes(samples, positive, instances)
        targets = encode_boxes(wanted, samples.boxes[positive], self.config.coder_weights)
        column = 0 if self.config.class_agnostic else samples.labels[positive]
        box_loss = F.smooth_l1_loss(
            deltas[positive, column], targets, beta=self.config.smooth_l1_beta, reduction="none"
        ).sum(dim=1)
        return {
            "loss_classifier": mean_loss(class_loss, samples.images, samples.counts, per_sample),
            "loss_box_reg": mean_loss(box_loss, samples.images[positive], samples.counts, per_sample),
        }

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Instances],
        factors: Sequence[float] | None = None,
        cuts: LimitCuts | None = None,
    ) -> list[Instances]:
        """Detections of each image sorted by score, in the frame of the network's images.

        `factors` multiply the limit of each image (None: 1); `cuts` counts the detections that it cuts.
        """
        factors = [1.0] * len(proposals) if factors is None else factors
        boxes = torch.cat([p.boxes for p in proposals])
        images = image_index([p.boxes for p in proposals])
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
        """From scores `[K, classes]` and boxes `[K, classes, 4]` of one image."""
        big = ((boxes[..., 2:] - boxes[..., :2]) >= self.config.min_size).all(dim=-1)
        row, column = torch.nonzero((scores > self.config.min_confidence) & big, as_tuple=True)
        boxes, scores = boxes[row, column], scores[row, column]
        keep = nms(boxes, scores, self.config.nms_threshold, column)
        limit = scaled_limit(self.config.max_instances, factor)
        if cuts is not None:
            cuts.add("detection_max_instances", torch.tensor(max(0, len(keep) - limit)))
        keep = keep[:limit]
        return Instances(size, boxes[keep], column[keep] + 1, scores[keep])


def sampling_log_odds(labels: Tensor, chosen: Tensor) -> Tensor:
    """float scalar: log of the positives' sampling rate over the negatives'; 0 where either are missing.

    `labels` int64 `[P]` are those of all proposals, `chosen` the indices of those in the sample.
    """
    positive, negative = labels > 0, labels == 0
    kept = positive[chosen].sum() * negative.sum(), negative[chosen].sum() * positive.sum()
    ratio = kept[0].to(torch.float32) / kept[1].to(torch.float32)
    return ratio.log().nan_to_num(0.0, 0.0, 0.0)


def true_boxes(samples: Samples, positive: Tensor, instances: Sequence[Instances]) -> Tensor:
    """Boxes `[K, 4]` of the truths of the positive samples."""
    first = torch.tensor([0, *(len(truths) for truths in instances)], device=positive.device).cumsum(0)
    return torch.cat([truths.boxes for truths in instances])[first[samples.images[positive]] + samples.truth[positive]]
