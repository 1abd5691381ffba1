"""Adapters between torchvision's detectors and ours, in both directions."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskrcnn.config import UserError
from maskrcnn.inference.predictor import Predictor
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.pixels import to_float

MASK_CHUNK_SIZE = 64  # dense masks converted at a time


@dataclass(frozen=True)
class TorchVisionDetector:
    """Wrap a torchvision detection model (Mask R-CNN, RetinaNet, …): `detector(images) -> list[Instances]`.

    Images are `[3, H, W]`, uint8 or float in [0, 1], of any size. All images of a call are passed to the model at once,
    on the model's device, in evaluation mode, without gradients. All detections are returned, on their image's device,
    with boxes, labels, scores, and, if the model has them, masks whose levels are probabilities: round(255 p).

    Args:
        model: the torchvision model.
    """

    model: nn.Module

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> list[Instances]:
        """Detect objects in images."""
        if not images:
            return []
        some = next(itertools.chain(self.model.parameters(), self.model.buffers()), torch.empty(0))
        with _switch_to_eval(self.model):
            outputs = self.model([to_float(image).to(some.device) for image in images])
        return [_to_instances(each, image) for each, image in zip(outputs, images, strict=True)]


@contextmanager
def _switch_to_eval(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode; afterwards restore the mode of every submodule, as modes may differ."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _to_instances(outputs: Mapping[str, Tensor], image: Tensor) -> Instances:
    size = (int(image.shape[-2]), int(image.shape[-1]))
    masks = None
    if "masks" in outputs:  # in chunks: pixel indices take several times the memory of a mask
        parts = [CroppedMasks.from_dense(part[:, 0]) for part in outputs["masks"].split(MASK_CHUNK_SIZE)]
        masks = CroppedMasks.cat(parts).fill_empty(outputs["boxes"])
    return Instances(size, outputs["boxes"].float(), outputs["labels"].long(), outputs["scores"], masks).to(
        image.device
    )


class TorchVisionModel(nn.Module):
    """A detector in the interface of torchvision's detection models, see `as_torchvision`."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.training = detector.training  # not of its parts, some of which may be frozen

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute losses in training mode, and detections in evaluation mode.

        Args:
            images: `[C, H, W]` each, as for `Detector`.
            targets: `boxes`, `labels`, and for a mask head `masks`, of each image; only used in training mode.

        Returns:
            Losses by name; or `boxes`, `labels`, `scores`, and for a mask head `masks` (float32 `[N, 1, H, W]`), of
            each image in descending order of score.

        Raises:
            UserError: If there are no targets in training mode, or images or targets are invalid.
        """
        if not self.training:
            return [_to_torchvision(found) for found in self.detector.detect(images)]
        if targets is None:
            raise UserError("targets must be given in training mode; model.eval() detects")
        return self.detector.losses(images, targets)


def as_torchvision(detector: Detector | Predictor) -> TorchVisionModel:
    """Wrap a detector for clients of torchvision's detection models, such as training loops, metrics and plots.

    The parameters are those of the detector, whose mode the wrapper takes.

    Args:
        detector: a detector, or that of a `Predictor`.
    """
    return TorchVisionModel(detector.detector if isinstance(detector, Predictor) else detector)


def _to_torchvision(found: Instances) -> dict[str, Tensor]:
    """Convert detections to torchvision's dict, which has no `iscrowd`."""
    return {name: value for name, value in found.to_torchvision().items() if name != "iscrowd"}
