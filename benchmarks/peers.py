"""torchvision's Mask R-CNN with our calling convention, configured for small objects as well as we can."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from maskrcnn.structures.instances import Instances


class TorchvisionMaskRCNN(nn.Module):
    """ResNet-50-FPN from scratch with ordinary batch norm, anchors of 8 to 128 px, no resizing."""

    def __init__(self, num_classes: int, max_instances: int, min_confidence: float) -> None:
        super().__init__()
        self.model = maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=num_classes + 1,
            rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5),
            box_detections_per_img=max_instances,
            box_score_thresh=min_confidence,
            box_batch_size_per_image=100,  # as ours; with the default of 512 a step on a CPU takes four times as long
        )
        # torchvision's switch for this, _skip_resize, works in training only.
        self.model.transform.resize = lambda image, target=None: (image, target)

    def forward(
        self, images: Sequence[Tensor], instances: Sequence[Instances] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """Return losses if there are instances, otherwise detections."""
        if instances is None:
            return self.detect(images)
        targets = [t[~t.ignore].to_torchvision() for t in instances]
        return self.model([to_float(image) for image in images], targets)

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Instances]:
        """Detect objects in images."""
        outputs = self.model([to_float(image) for image in images])
        return [
            Instances.from_torchvision(result, (image.shape[-2], image.shape[-1]))
            for result, image in zip(outputs, images, strict=True)
        ]


def to_float(image: Tensor) -> Tensor:
    """Convert uint8 to float in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image
