"""Detector with one, two, or three stages: RPN, Faster R-CNN, or Mask R-CNN."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from maskrcnn.config import UserError
from maskrcnn.model.backbones import Backbone, build_backbone, check_backbone
from maskrcnn.model.box_head import BoxHead
from maskrcnn.model.config import HEADS, DetectorConfig
from maskrcnn.model.images import (
    PaddedBatch,
    check_list,
    check_statistics,
    group_by_padded_size,
    image_size,
    pad_images,
    prepare_image,
    resize_instances,
)
from maskrcnn.model.limits import compute_limit_factor, get_counts
from maskrcnn.model.mask_head import MaskHead
from maskrcnn.model.rpn import RPN, compute_image_index
from maskrcnn.ops.masks import paste_masks
from maskrcnn.structures.boxes import scale_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class Detector(nn.Module):
    """Detector with a backbone, an RPN, and, depending on `head`, a box head and a mask head.

    `detector(images, instances)` returns losses and `detector(images)` detections, in training and in evaluation mode.
    Detection never changes state: normalization layers use their running statistics in either mode, and all submodules
    keep their mode. Losses use batch statistics, and update the running statistics, only in training mode.

    Images are `[C, H, W]` of any size, where C is `config.image.channels` (3 by default), uint8 or uint16 with the full
    range of the dtype, or floating-point in [0, 1].
    Floating-point values clearly outside [0, 1], and NaN, are rejected, except for losses on a GPU, where the check
    would synchronize in every training step.

    Parameters are float32 regardless of PyTorch's default dtype, because box coordinates require it: `half()`,
    `bfloat16()`, and `double()` are rejected. Use `torch.autocast` to compute in bfloat16 or float16.

    Args:
        config: options of the model.
        num_classes: number of classes without the background.
        head: "rpn", "faster_rcnn", or "mask_rcnn".
        backbone: module that maps `[B, C, H, W]` to a list of maps `[B, D, h, w]`, finest first, with the attributes
            `strides` (pixels per cell of each map) and `channels` (D), and optionally `num_roi_levels`, the number of
            maps that RoIs are pooled from (default: all). Anchors and RoI levels follow its strides. None builds the
            backbone of `config.backbone`.

    Raises:
        UserError: If the head is unknown, or the strides of the backbone are not ascending or, with a box head, not
            powers of two that double.
    """

    def __init__(self, config: DetectorConfig, num_classes: int, head: str, backbone: nn.Module | None = None) -> None:
        super().__init__()
        if head not in HEADS:
            raise UserError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 (background not counted), got {num_classes}")
        self.config, self.num_classes, self.head = config, num_classes, head
        with _default_float32():
            self._build(config, backbone)

    def _build(self, config: DetectorConfig, backbone: nn.Module | None) -> None:
        check_statistics(config.image)
        self.backbone = build_backbone(config.backbone, config.image.channels) if backbone is None else backbone
        channels, self.strides = check_backbone(self.backbone)
        self.num_roi_levels = int(getattr(self.backbone, "num_roi_levels", len(self.strides)))
        self.rpn = RPN(config.rpn, channels, self.strides)
        self.box_head, self.mask_head = None, None
        if self.head == "rpn":
            return
        roi_strides = self.strides[: self.num_roi_levels]
        self.box_head = BoxHead(config.box, channels, roi_strides, self.num_classes)
        if self.head == "mask_rcnn":
            self.mask_head = MaskHead(config.mask, config.box, channels, roi_strides, self.num_classes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Detector":
        dtype = fn(torch.empty(0, dtype=torch.float32)).dtype
        if dtype != torch.float32:
            raise UserError(
                f"a Detector computes boxes in float32 and cannot be converted to {dtype}; to compute in half "
                "precision, use torch.autocast"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def pad_multiple(self) -> int:
        """Number of pixels that the padded height and width are multiples of."""
        return self.config.image.pad_multiple or self.strides[-1]

    def forward(
        self,
        images: Sequence[Tensor],
        instances: Sequence[Instances | Mapping[str, Tensor]] | None = None,
        proposals_only: bool = False,
    ) -> dict[str, Tensor] | list[Instances]:
        """Compute losses if targets are given, otherwise detections.

        Args:
            images: `[C, H, W]` each, see the class.
            instances: ground truth of each image, `Instances` or a target dict of torchvision's detectors.
            proposals_only: whether to return the proposals of the RPN, whose labels are all 1, for any head.

        Returns:
            Losses by name (scalars), or the detections of each image, sorted by score.

        Raises:
            ValueError: If an image has an unsupported shape, dtype, or range, or its targets have another size; names
                the index of the image.
        """
        return self.detect(images, proposals_only) if instances is None else self.losses(images, instances)

    def losses(
        self, images: Sequence[Tensor], instances: Sequence[Instances | Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses by name, float32 scalars; updates running statistics in training mode only."""
        prepared = self._prepare(images)
        if not prepared:
            raise UserError("there are no images to compute losses of; give at least one image and its targets")
        instances = self._convert_targets(images, instances)
        batch = self._batch(prepared)
        scaled = [resize_instances(t, size) for t, size in zip(instances, batch.sizes, strict=True)]
        per_sample = self.config.per_sample_loss
        features = self._maps(batch)
        output = self.rpn(features, batch.padded)
        losses = self.rpn.loss(output, scaled, per_sample)
        if self.box_head is None:
            return losses
        proposals = self.rpn.propose(output, batch.sizes, training=True)
        features = features[: self.num_roi_levels]
        samples = self.box_head.sample(features, proposals, scaled)
        losses |= self.box_head.loss(features, samples, scaled, per_sample)
        if self.mask_head is not None:
            losses |= self.mask_head.loss(features, samples, scaled, per_sample)
        return losses

    def _convert_targets(
        self, images: Sequence[Tensor], instances: Sequence[Instances | Mapping[str, Tensor]]
    ) -> list[Instances]:
        """Convert the targets of each image to `Instances`, and check them."""
        if isinstance(instances, Instances | Mapping) or len(instances) != len(images):
            one = isinstance(instances, Instances | Mapping)
            given = f"one {type(instances).__name__}" if one else f"{len(instances)} targets"
            raise UserError(f"got {len(images)} images but {given}; give a list with the targets of each image")
        converted = []
        for i, (image, targets) in enumerate(zip(images, instances, strict=True)):
            try:
                whole = (
                    Instances.from_torchvision(targets, image_size(image)) if isinstance(targets, Mapping) else targets
                )
            except ValueError as error:
                raise UserError(f"image {i}: {error}") from error
            self._check_targets(f"image {i}", image, whole)
            converted.append(whole)
        return converted

    def _check_targets(self, name: str, image: Tensor, targets: Instances) -> None:
        if not isinstance(targets, Instances):
            kind = type(targets).__name__
            raise UserError(f"{name}: targets must be Instances or a dict of boxes and labels, got {kind}")
        if image_size(image) != tuple(targets.size):
            raise UserError(f"{name} is {image_size(image)} but its instances are for {tuple(targets.size)} (H, W)")
        wrong = targets.labels[(targets.labels < 1) | (targets.labels > self.num_classes)]
        if len(wrong):
            raise UserError(f"{name} has an object with label {int(wrong[0])}, outside 1..{self.num_classes}")

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], proposals_only: bool = False) -> list[Instances]:
        """Detect objects; see `forward`. Does not change any state, in either mode."""
        with _evaluation_mode(self):
            return self._detect_all(images, proposals_only)

    def _detect_all(self, images: Sequence[Tensor], proposals_only: bool) -> list[Instances]:
        prepared = self._prepare(images, with_values=True)
        groups = group_by_padded_size(prepared, self.pad_multiple, self._min_multiples)
        if self.config.image.pad_to_batch and prepared:
            groups = [list(range(len(images)))]
        elif prepared and prepared[0].device.type == "cpu":
            # As fast as a batch, and oneDNN's sums would depend on the size of the batch.
            groups = [[i] for i in range(len(images))]
        results: dict[int, Instances] = {}
        for group in groups:
            batch = self._batch([prepared[i] for i in group])
            found = self._detect(batch, [image_size(images[i]) for i in group], proposals_only)
            results |= dict(zip(group, found, strict=True))
        return [results[i] for i in range(len(images))]

    def features(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Compute the feature maps `[B, C, h, w]`, finest first, of images padded to one batch, as for detection."""
        with _evaluation_mode(self):
            prepared = self._prepare(images, with_values=True)
            if not prepared:
                raise UserError("there are no images to compute feature maps of; give at least one")
            return self._maps(self._batch(prepared))

    def _maps(self, batch: PaddedBatch) -> list[Tensor]:
        """Compute and check the maps of the backbone, which may have been replaced by one with other strides."""
        maps: list[Tensor] = list(self.backbone(batch.pixels))
        sizes = [tuple(x.shape[-2:]) for x in maps]
        wanted = [tuple(-(-side // stride) for side in batch.padded) for stride in self.strides]
        if sizes != wanted:
            raise UserError(
                f"the backbone returns maps of {_format_sizes(sizes)} cells for {_format_sizes([batch.padded])} pixels "
                f"but the detector was built for strides {self.strides}, that is, {_format_sizes(wanted)}; pass the "
                "backbone to Detector(...)"
            )
        return maps

    def propose(self, images: Sequence[Tensor]) -> list[Instances]:
        """Compute the proposals of the RPN for any head; they are class-agnostic, and all labels are 1."""
        return self.detect(images, proposals_only=True)

    def _batch(self, images: Sequence[Tensor]) -> PaddedBatch:
        return pad_images(images, self.pad_multiple, self._min_multiples)

    @property
    def _min_multiples(self) -> int:
        """Minimum sides of a padded image, in multiples of `pad_multiple`."""
        if self.config.image.resize == "square":
            return -(-self.config.image.max_size // self.pad_multiple)
        # Training with batch norm requires two values per channel, also for one cell at the coarsest stride.
        return 2 if self.training else 1

    def _prepare(self, images: Sequence[Tensor], with_values: bool = False) -> list[Tensor]:
        prepared: list[Tensor] = []
        check_list(images)
        for i, image in enumerate(images):
            try:
                on_cpu = isinstance(image, Tensor) and image.device.type == "cpu"
                prepared.append(prepare_image(image, self.config.image, with_values or on_cpu))
            except UserError as error:
                raise UserError(f"image {i}: {error}") from error
        return prepared

    def _detect(self, batch: PaddedBatch, sizes: Sequence[tuple[int, int]], proposals_only: bool) -> list[Instances]:
        features = self._maps(batch)
        factors = [compute_limit_factor(size, self.config.limit_size) for size in sizes]
        output = self.rpn(features, batch.padded)
        found = self.rpn.propose(output, batch.sizes, training=False, factors=factors, cuts=get_counts())
        if self.box_head is None or proposals_only:
            return [_map_back(f, size) for f, size in zip(found, sizes, strict=True)]
        features = features[: self.num_roi_levels]
        found = self.box_head.detect(features, found, factors, get_counts())
        if self.mask_head is None:
            return [_map_back(f, size) for f, size in zip(found, sizes, strict=True)]
        boxes, labels = torch.cat([f.boxes for f in found]), torch.cat([f.labels for f in found])
        masks = self.mask_head.predict(features, boxes, compute_image_index([f.boxes for f in found]), labels)
        counts = [len(f) for f in found]
        frames = self.mask_head.frames(
            boxes
        )  # not mapped back yet, because borders are in pixels of the network's input
        parts = zip(found, sizes, torch.split(masks, counts), torch.split(frames, counts), strict=True)
        return [_paste(f, size, probabilities, frame) for f, size, probabilities, frame in parts]

    def pretrained_parameters(self) -> set[str]:
        """Return the names of parameters initialized from ImageNet weights."""
        if self.config.backbone.weights == "none" or not isinstance(self.backbone, Backbone):
            return set()
        return {f"backbone.body.{name}" for name, _ in self.backbone.body.named_parameters()}


@contextmanager
def _default_float32() -> Iterator[None]:
    """Set PyTorch's default dtype to float32 inside the context."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode inside the context, and restore the mode of each submodule afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _format_sizes(sizes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in sizes)


def _map_back(found: Instances, size: tuple[int, int]) -> Instances:
    """Map detections from the network's input to the original image of `size` (H, W)."""
    x, y = size[1] / found.size[1], size[0] / found.size[0]
    return Instances(size, scale_boxes(found.boxes, x, y), found.labels, found.scores)


def _paste(found: Instances, size: tuple[int, int], probabilities: Tensor, frames: Tensor) -> Instances:
    """Map detections back with masks, given as probabilities `[K, S, S]` in frames `[K, 4]` of the network's input."""
    result = _map_back(found, size)
    frames = scale_boxes(frames, size[1] / found.size[1], size[0] / found.size[0])
    result.masks = CroppedMasks(*paste_masks(probabilities, frames, size), size).fill_empty(result.boxes)
    return result
