"""Third stage: a mask for each RoI (He et al., arXiv 1703.06870)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.assign import reduce_loss
from maskrcnn.model.backbones import make_norm_layer
from maskrcnn.model.box_head import Pooler, SampledRoIs
from maskrcnn.model.config import BoxHeadConfig, MaskHeadConfig
from maskrcnn.model.rpn import compute_image_index
from maskrcnn.structures.boxes import enlarge_boxes
from maskrcnn.structures.instances import Instances

CHUNK = 1024  # RoIs per forward pass at inference; bounds the memory for many detections


class MaskHead(nn.Module):
    """Predicts mask logits of RoIs in frames, which are enlarged boxes, and computes their targets and loss."""

    def __init__(
        self, config: MaskHeadConfig, box: BoxHeadConfig, channels: int, strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        if config.mask_size % 2:
            raise UserError(f"mask_size must be even (RoIAlign pools half of it), got {config.mask_size}")
        self.config, self.aligned = config, box.aligned
        self.pool = Pooler(box, strides, config.mask_size // 2, config.sampling_ratio)
        norm = make_norm_layer("group", 1e-5) if config.norm else (lambda channels: nn.Identity())
        widths = [channels, *[config.channels] * config.depth]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=not config.norm), norm(b), nn.ReLU(inplace=True))
            for a, b in itertools.pairwise(widths)
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, 1 if config.class_agnostic else num_classes + 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.logits.weight, std=0.001)

    def frames(self, boxes: Tensor) -> Tensor:
        """Compute the frames `[K, 4]` of boxes, in which masks are trained, predicted, and pasted."""
        return enlarge_boxes(boxes, self.config.box_enlarge, self.config.box_border)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Compute mask logits, float32 `[K, mask_size, mask_size]`.

        Args:
            features: maps `[B, C, h, w]` of the RoI levels.
            boxes: RoIs `[K, 4]`; masks are predicted in their frames.
            images: int64 `[K]`, index of each RoI's image.
            labels: int64 `[K]`, class of each mask.
        """
        x = self.pool(features, self.frames(boxes), images)
        for conv in self.convs:
            x = conv(x)
        x = F.relu(self.upsample(x))
        column = torch.zeros_like(labels) if self.config.class_agnostic else labels
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.logits(x.float())
        return logits[torch.arange(x.shape[0], device=x.device), column]

    def loss(
        self, features: Sequence[Tensor], samples: SampledRoIs, instances: Sequence[Instances], per_sample: bool
    ) -> dict[str, Tensor]:
        """Compute `loss_mask`, the binary cross-entropy of the masks of positive RoIs."""
        positive = [self._find_positives(samples, image, targets) for image, targets in enumerate(instances)]
        images, chosen = compute_image_index(positive), torch.cat(positive)
        boxes = samples.boxes[chosen]
        targets = self.targets(boxes, [samples.targets[part] for part in positive], instances)
        logits = self(features, boxes, images, samples.labels[chosen])
        values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(dim=1)
        counts = torch.tensor([len(part) for part in positive], dtype=torch.float32, device=values.device)
        return {"loss_mask": reduce_loss(values, images, counts, per_sample)}

    def _find_positives(self, samples: SampledRoIs, image: int, targets: Instances) -> Tensor:
        """Find the positive RoIs whose target has a mask; targets with an empty mask only train the box head."""
        positive = torch.nonzero((samples.images == image) & (samples.labels > 0)).flatten()
        if targets.masks is not None:
            positive = positive[targets.has_mask()[samples.targets[positive]]]
        limit = self.config.rois_per_image
        return positive[:limit] if limit else positive  # the order is random, so the first are a random sample

    @torch.no_grad()
    def targets(self, boxes: Tensor, indices: Sequence[Tensor], instances: Sequence[Instances]) -> Tensor:
        """Sample the target masks in the frames of RoIs, float32 `[K, mask_size, mask_size]`.

        Args:
            boxes: RoIs `[K, 4]` of all images.
            indices: int64, index of each RoI's target, per image.
            instances: ground truth of each image.

        Raises:
            UserError: If the ground truth has no masks.
        """
        frames = torch.split(self.frames(boxes), [len(part) for part in indices])
        parts = [boxes.new_zeros(0, self.config.mask_size, self.config.mask_size)]
        for frame, index, targets in zip(frames, indices, instances, strict=True):
            if targets.masks is None and len(targets) == 0:
                continue
            if targets.masks is None:
                raise UserError("a mask head requires masks, but the data has boxes only; choose --head=faster_rcnn")
            parts.append(
                targets.masks.sample(
                    frame,
                    self.config.mask_size,
                    index,
                    self.config.target_sampling_ratio,
                    self.aligned,
                    self.config.soft_targets,
                )
            )
        return torch.cat(parts)

    @torch.no_grad()
    def predict(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Predict mask probabilities, float32 `[K, mask_size, mask_size]`, in chunks to save memory."""
        if len(boxes) == 0:
            return boxes.new_zeros(0, self.config.mask_size, self.config.mask_size)
        parts = zip(*(torch.split(part, CHUNK) for part in (boxes, images, labels)), strict=True)
        return torch.cat([self(features, *part).sigmoid() for part in parts])
