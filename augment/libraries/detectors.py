"""Other libraries' detectors, as `augment.prediction.predict` takes them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from augment.values import as_float
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

MASKS_AT_A_TIME = 64  # dense ones


@dataclass(frozen=True)
class TorchVisionDetector:
    """A torchvision detection model (Mask R-CNN, Faster R-CNN, RetinaNet, …) as `detector(images) -> list[Instances]`.

    Each image `[3, H, W]`, uint8 or float in [0, 1], of any size; all of a call go through the model at once, on its
    device, in evaluation mode, without gradients. Every detection comes back, on its image's device, with boxes,
    labels, scores and, where the model gives them, masks whose levels are probabilities: round(255 p).
    """

    model: nn.Module

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> list[Instances]:
        if not images:
            return []
        some = next(itertools.chain(self.model.parameters(), self.model.buffers()), torch.empty(0))
        with _evaluating(self.model):
            found = self.model([as_float(image).to(some.device) for image in images])
        return [_detections(each, image) for each, image in zip(found, images, strict=True)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode it was in, which need not be the whole's."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _detections(found: Mapping[str, Tensor], image: Tensor) -> Instances:
    size = (int(image.shape[-2]), int(image.shape[-1]))
    masks = None
    if "masks" in found:  # indices of the pixels inside are several times larger than a mask: some at a time
        parts = [CroppedMasks.from_dense(part[:, 0]) for part in found["masks"].split(MASKS_AT_A_TIME)]
        masks = CroppedMasks.cat(parts)
    return Instances(size, found["boxes"].float(), found["labels"].long(), found["scores"], masks).to(image.device)
