"""Third stage: a mask for each RoI. He et al., arXiv 1703.06870."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.assign import mean_loss
from maskrcnn.model.backbones import norm_layer
from maskrcnn.model.box_head import Pooler, Samples
from maskrcnn.model.config import BoxHeadConfig, MaskHeadConfig
from maskrcnn.model.rpn import image_index
from maskrcnn.structures.boxes import enlarge_boxes
from maskrcnn.structures.instances import Instances

CHUNK = 1024  # RoIs that pass the head together in use: bounds the memory of ten thousand detections


class MaskHead(nn.Module):
    """Mask logits of RoIs and the targets they learn from; mask and frame are enlarged alike."""

    def __init__(
        self, config: MaskHeadConfig, box: BoxHeadConfig, channels: int, strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        if config.mask_size % 2:
            raise UserError(f"mask_size must be even (RoIAlign pools half of it), got {config.mask_size}")
        self.config, self.aligned = config, box.aligned
        self.pool = Pooler(box, strides, config.mask_size // 2, config.sampling_ratio)
        norm = norm_layer("group", 1e-5) if config.norm else (lambda channels: nn.Identity())
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
        """The boxes `[K, 4]` that masks are predicted, learned and pasted in."""
        return enlarge_boxes(boxes, self.config.box_enlarge, self.config.box_border)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Logits float32 `[K, mask_size, mask_size]` of the masks of class `labels` in the frames of `boxes`."""
        x = self.pool(features, self.frames(boxes), images)
        for conv in self.convs:
            x = conv(x)
        x = F.relu(self.upsample(x))
        column = torch.zeros_like(labels) if self.config.class_agnostic else labels
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.logits(x.float())
        return logits[torch.arange(len(x), device=x.device), column]

    def loss(
        self, features: Sequence[Tensor], samples: Samples, instances: Sequence[Instances], per_sample: bool
    ) -> dict[str, Tensor]:
        """`loss_mask`: binary cross-entropy of the positives' masks."""
        positive = [self._positives(samples, image, truths) for image, truths in enumerate(instances)]
        images, chosen = image_index(positive), torch.cat(positive)
        boxes = samples.boxes[chosen]
        targets = self.targets(boxes, [samples.truth[part] for part in positive], instances)
        logits = self(features, boxes, images, samples.labels[chosen])
        values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(dim=1)
        counts = torch.tensor([len(part) for part in positive], dtype=torch.float32, device=values.device)
        return {"loss_mask": mean_loss(values, images, counts, per_sample)}

    def _positives(self, samples: Samples, image: int, truths: Instances) -> Tensor:
        """Positive samples whose objects have a mask: those with an empty one are learned by their boxes alone."""
        positive = torch.nonzero((samples.images == image) & (samples.labels > 0)).flatten()
        if truths.masks is not None:
            positive = positive[truths.has_mask()[samples.truth[positive]]]
        limit = self.config.rois_per_image
        return positive[:limit] if limit else positive  # sampled in random order: the first are a fair choice

    @torch.no_grad()
    def targets(self, boxes: Tensor, truth: Sequence[Tensor], instances: Sequence[Instances]) -> Tensor:
        """float32 `[K, mask_size, mask_size]`: true masks seen through the frames; `truth` per image, int64."""
        frames = torch.split(self.frames(boxes), [len(part) for part in truth])
        parts = [boxes.new_zeros(0, self.config.mask_size, self.config.mask_size)]
        for frame, index, truths in zip(frames, truth, instances, strict=True):
            if truths.masks is None and len(truths) == 0:
                continue
            if truths.masks is None:
                raise UserError("a mask head needs masks, but the data has boxes only; choose --head=faster_rcnn")
            parts.append(
                truths.masks.sample(
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
        """Mask probabilities float32 `[K, mask_size, mask_size]`, chunk by chunk."""
        if len(boxes) == 0:
            return boxes.new_zeros(0, self.config.mask_size, self.config.mask_size)
        parts = zip(*(torch.split(part, CHUNK) for part in (boxes, images, labels)), strict=True)
        return torch.cat([self(features, *part).sigmoid() for part in parts])
