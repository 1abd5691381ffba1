"""Adapters of other libraries' detectors for `maskrcnn.inference.prediction.predict`."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        masks = CroppedMasks.cat(parts)
    return Instances(size, outputs["boxes"].float(), outputs["labels"].long(), outputs["scores"], masks).to(
        image.device
    )
