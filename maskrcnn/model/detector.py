"""One detector of one, two or three stages."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrcnn.config import UserError
from maskrcnn.model.backbones import Backbone
from maskrcnn.model.box_head import BoxHead
from maskrcnn.model.config import HEADS, DetectorConfig
from maskrcnn.model.images import (
    Batch,
    group_by_padded_size,
    image_size,
    pad_images,
    prepare_image,
    resize_instances,
)
from maskrcnn.model.limits import LimitCuts, limit_factor
from maskrcnn.model.mask_head import MaskHead
from maskrcnn.model.rpn import RPN, image_index
from maskrcnn.ops.masks import paste_masks
from maskrcnn.structures.boxes import scale_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class Detector(nn.Module):
    """backbone → RPN → box head → mask head; `head` says how far.

    `detector(images, instances)` gives losses, `detector(images)` detections, in training mode and in evaluation mode.
    Images are uint8 or float in [0, 1], `[3, H, W]`, of any sizes.
    """

    def __init__(self, config: DetectorConfig, num_classes: int, head: str) -> None:
        super().__init__()
        if head not in HEADS:
            raise UserError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 (background not counted), got {num_classes}")
        self.config, self.num_classes, self.head = config, num_classes, head
        self.limit_cuts = LimitCuts()  # what the limits cut since `limit_cuts.clear()`
        self.backbone = Backbone(config.backbone)
        channels, strides = config.backbone.fpn_channels, self.backbone.strides
        roi_strides = strides[: self.backbone.num_roi_levels]
        self.rpn = RPN(config.rpn, channels, strides)
        self.box_head = None if head == "rpn" else BoxHead(config.box, channels, roi_strides, num_classes)
        self.mask_head = None
        if head == "mask_rcnn":
            self.mask_head = MaskHead(config.mask, config.box, channels, roi_strides, num_classes)

    @property
    def pad_multiple(self) -> int:
        return self.config.image.pad_multiple or self.backbone.strides[-1]

    def forward(
        self, images: Sequence[Tensor], instances: Sequence[Instances] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses by name (scalars) where truths are given, else for each image its detections by falling score.

        Raises:
            ValueError: an image that is not `[3, H, W]`, or truths of another size; names the image's place.
        """
        return self.detect(images) if instances is None else self.losses(images, instances)

    def losses(self, images: Sequence[Tensor], instances: Sequence[Instances]) -> dict[str, Tensor]:
        self._check_truths(images, instances)
        batch = self._batch(self._prepare(images))
        scaled = [resize_instances(t, size) for t, size in zip(instances, batch.sizes, strict=True)]
        per_sample = self.config.per_sample_loss
        features = self.backbone(batch.pixels)
        output = self.rpn(features, batch.padded)
        losses = self.rpn.loss(output, scaled, per_sample)
        if self.box_head is None:
            return losses
        proposals = self.rpn.propose(output, batch.sizes, training=True)
        features = features[: self.backbone.num_roi_levels]
        samples = self.box_head.sample(features, proposals, scaled)
        losses |= self.box_head.loss(features, samples, scaled, per_sample)
        if self.mask_head is not None:
            losses |= self.mask_head.loss(features, samples, scaled, per_sample)
        return losses

    def _check_truths(self, images: Sequence[Tensor], instances: Sequence[Instances]) -> None:
        for i, (image, truths) in enumerate(zip(images, instances, strict=True)):
            if image_size(image) != tuple(truths.size):
                raise ValueError(f"image {i} is {image_size(image)} but its instances are for {tuple(truths.size)}")
            wrong = truths.labels[(truths.labels < 1) | (truths.labels > self.num_classes)]
            if len(wrong):
                raise ValueError(f"image {i} has an object of label {int(wrong[0])}, beyond 1..{self.num_classes}")

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], proposals_only: bool = False) -> list[Instances]:
        prepared = self._prepare(images)
        groups = group_by_padded_size(prepared, self.pad_multiple, self._least_multiples)
        if self.config.image.pad_to_batch:
            groups = [list(range(len(images)))]
        results: dict[int, Instances] = {}
        for group in groups:
            batch = self._batch([prepared[i] for i in group])
            found = self._detect(batch, [image_size(images[i]) for i in group], proposals_only)
            results |= dict(zip(group, found, strict=True))
        return [results[i] for i in range(len(images))]

    def features(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The maps of the pyramid, `[B, C, h, w]`, finest first, of images padded to one batch."""
        maps: list[Tensor] = self.backbone(self._batch(self._prepare(images)).pixels)
        return maps

    def propose(self, images: Sequence[Tensor]) -> list[Instances]:
        """The RPN's proposals of each image, whatever the head: class-agnostic, labels all 1."""
        return self.detect(images, proposals_only=True)

    def _batch(self, images: Sequence[Tensor]) -> Batch:
        return pad_images(images, self.pad_multiple, self._least_multiples)

    @property
    def _least_multiples(self) -> int:
        """Least sides of a padded image, in multiples."""
        if self.config.image.resize == "square":
            return -(-self.config.image.max_size // self.pad_multiple)
        # Batch norm in training needs two values a channel, also of an image smaller than the coarsest stride.
        return 2 if self.training else 1

    def _prepare(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [prepare_image(image, self.config.image) for image in images]

    def _detect(self, batch: Batch, sizes: Sequence[tuple[int, int]], proposals_only: bool) -> list[Instances]:
        features = self.backbone(batch.pixels)
        factors = [limit_factor(size, self.config.limit_size) for size in sizes]
        output = self.rpn(features, batch.padded)
        found = self.rpn.propose(output, batch.sizes, training=False, factors=factors, cuts=self.limit_cuts)
        if self.box_head is None or proposals_only:
            return [_map_back(f, size) for f, size in zip(found, sizes, strict=True)]
        features = features[: self.backbone.num_roi_levels]
        found = self.box_head.detect(features, found, factors, self.limit_cuts)
        if self.mask_head is None:
            return [_map_back(f, size) for f, size in zip(found, sizes, strict=True)]
        boxes, labels = torch.cat([f.boxes for f in found]), torch.cat([f.labels for f in found])
        masks = self.mask_head.predict(features, boxes, image_index([f.boxes for f in found]), labels)
        counts = [len(f) for f in found]
        frames = self.mask_head.frames(boxes)  # before mapping back: a border is in pixels of the network's image
        parts = zip(found, sizes, torch.split(masks, counts), torch.split(frames, counts), strict=True)
        return [_paste(f, size, probabilities, frame) for f, size, probabilities, frame in parts]

    def pretrained_parameters(self) -> set[str]:
        """Names of the parameters that start from ImageNet weights."""
        if self.config.backbone.weights == "none":
            return set()
        return {f"backbone.body.{name}" for name, _ in self.backbone.body.named_parameters()}


def _map_back(found: Instances, size: tuple[int, int]) -> Instances:
    """Detections in the frame of the network's image → in the frame of the image given, of `size` (H, W)."""
    x, y = size[1] / found.size[1], size[0] / found.size[0]
    return Instances(size, scale_boxes(found.boxes, x, y), found.labels, found.scores)


def _paste(found: Instances, size: tuple[int, int], probabilities: Tensor, frames: Tensor) -> Instances:
    """`_map_back` with masks: probabilities `[K, S, S]` in their frames `[K, 4]` of the network's image."""
    result = _map_back(found, size)
    frames = scale_boxes(frames, size[1] / found.size[1], size[0] / found.size[0])
    result.masks = CroppedMasks(*paste_masks(probabilities, frames, size), size)
    return result
