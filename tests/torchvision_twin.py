"""torchvision's models and the detector with one set of weights, and what each makes of the same images."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.config import merge
from maskrcnn.model.detector import Detector
from maskrcnn.model.presets import torchvision
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.weights.torchvision import load_torchvision

NUM_CLASSES = 3
SIZES = ((150, 211), (110, 190))
# The same on both sides: images smaller than 800 / 1333, samplers that take everything.
OURS = {
    "image.min_size": 224,
    "image.max_size": 352,
    "rpn.anchors_per_image": 10**6,
    "rpn.post_nms_top_n_training": 200,
    "rpn.post_nms_top_n_inference": 400,
    "box.rois_per_image": 10**6,
}
THEIRS = {
    "min_size": 224,
    "max_size": 352,
    "rpn_batch_size_per_image": 10**6,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 400,
    "box_batch_size_per_image": 10**6,
}
# Masks cost most of the time. Without a mask head only score and overlap limit the detections.
LIMITS = {True: 60, False: 2000}
# How far each layer's outputs are spread, so that scores are distinct and boxes move.
SPREAD = {
    "rpn.head.cls_logits": 1.5,
    "rpn.head.bbox_pred": 0.4,
    "roi_heads.box_predictor.cls_score": 1.5,
    "roi_heads.box_predictor.bbox_pred": 2.0,
    "roi_heads.mask_predictor.mask_fcn_logits": 2.0,
}
Detections = list[dict[str, Tensor]]


def torchvision_model(norm: str, mask: bool, **options: Any) -> Any:
    """torchvision's own model: ordinary batch normalisation, or frozen with eps 0 as for its published weights."""
    if norm == "batch":
        build = detection.maskrcnn_resnet50_fpn if mask else detection.fasterrcnn_resnet50_fpn
        return build(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, **options).eval()
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return (detection.MaskRCNN if mask else detection.FasterRCNN)(backbone, NUM_CLASSES + 1, **options).eval()


def unfilled_detector(norm: str, mask: bool, **changes: Any) -> Detector:
    """A detector without weights: loading brings them all."""
    changes = OURS | {"box.max_detections": LIMITS[mask]} | changes
    with torch.device("meta"):
        detector = Detector(merge(torchvision(norm), changes), NUM_CLASSES, "mask_rcnn" if mask else "faster_rcnn")
    return detector.to_empty(device="cpu").eval()


def random_images(sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Noise of several scales: each level of the pyramid sees something."""
    images = []
    for height, width in sizes:
        noise = [torch.rand(1, 3, height // step + 2, width // step + 2) for step in (1, 4, 16, 64)]
        images.append(torch.stack([F.interpolate(n, (height, width), mode="bilinear")[0] for n in noise]).mean(dim=0))
    return images


def random_truths() -> list[Instances]:
    """Ellipses of all sizes and classes."""
    truths = []
    for height, width in SIZES:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        masks = []
        for radius in (6.0, 9.0, 14.0, 22.0, 30.0, 43.0):
            cx, cy = torch.rand(2) * torch.tensor([width, height])
            ratio = float(torch.rand(()) + 0.5)
            masks.append(((x - cx) / radius) ** 2 + ((y - cy) / radius / ratio) ** 2 < 1)
        labels = torch.randint(1, NUM_CLASSES + 1, (len(masks),))
        truths.append(Instances.from_masks(CroppedMasks.from_dense(torch.stack(masks)), labels))
    return truths


@torch.no_grad()
def make_lively(model: Any, images: list[Tensor]) -> None:
    """Random weights as if trained: statistics of the images, uneven affine parts, outputs of a wanted spread."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
            low = 0.1 if name.endswith("bn3") else 0.5  # tame residual branches, or rounding grows from block to block
            nn.init.uniform_(module.weight, low, 3 * low)
            nn.init.normal_(module.bias, std=0.2)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.1)
        if name in SPREAD:
            module.register_forward_hook(_scale_to(SPREAD[name]))
    model(images)
    model.backbone.body.conv1.weight *= 1.1  # so that the statistics are not quite the images' own
    model.rpn.head.bbox_pred.bias.view(-1, 4)[:, 2:] += 0.7  # RoIs large enough for several levels


def _scale_to(std: float) -> Callable[..., Tensor]:
    def hook(module: Any, _: Any, output: Tensor) -> Tensor:
        scale = std / output.std()
        module.weight *= scale
        module.bias *= scale
        return output * scale

    return hook


class Scene:
    """Images, truths, one set of weights, and what torchvision makes of them."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.images, self.truths = random_images(SIZES), random_truths()
        model = torchvision_model("batch", mask=True, **THEIRS, box_detections_per_img=10)
        make_lively(model, self.images)
        self.state = model.state_dict()
        self.detections = cache(self.detections)  # type: ignore[method-assign]
        self.losses = cache(self.losses)  # type: ignore[method-assign]

    def state_for(self, norm: str, mask: bool) -> dict[str, Tensor]:
        """As the model would save it: ordinary batch normalisation alone counts batches."""
        return {
            name: value
            for name, value in self.state.items()
            if (mask or "mask" not in name) and (norm == "batch" or not name.endswith("num_batches_tracked"))
        }

    def torchvision(self, norm: str, mask: bool, **options: Any) -> Any:
        with torch.device("meta"):
            model = torchvision_model(norm, mask, box_detections_per_img=LIMITS[mask], **options)
        model.load_state_dict({k: v.clone() for k, v in self.state_for(norm, mask).items()}, assign=True)
        # The detector's memory format, so that convolutions round alike: what differs then differs in meaning.
        model.backbone.register_forward_pre_hook(lambda _, args: args[0].contiguous(memory_format=torch.channels_last))
        return model

    def detector(self, norm: str, mask: bool, **changes: Any) -> Detector:
        detector = unfilled_detector(norm, mask, **changes)
        load_torchvision(detector, self.state_for(norm, mask))
        return detector

    def detections(self, norm: str, mask: bool) -> Detections:
        return their_detections(self.torchvision(norm, mask, **THEIRS), self.images)

    @torch.no_grad()
    def losses(self, norm: str, mask: bool) -> dict[str, float]:
        model = self.torchvision(norm, mask, **THEIRS).train()
        targets = [truths.to_torchvision() for truths in self.truths]
        return {name: float(loss) for name, loss in model(self.images, targets).items()}

    @torch.no_grad()
    def our_losses(self, detector: Detector) -> dict[str, float]:
        return {name: float(loss) for name, loss in detector.train()(self.images, self.truths).items()}


@torch.no_grad()
def their_detections(model: Any, images: list[Tensor]) -> Detections:
    """Boxes, labels, scores, and mask probabilities at 28² as they are before torchvision pastes them."""
    unpasted: list[Tensor] = []
    model.roi_heads.register_forward_hook(lambda *args: unpasted.extend(each.get("masks") for each in args[2][0]))
    found = model(images)
    if unpasted[0] is None:
        return found
    return [{**each, "masks": masks[:, 0]} for each, masks in zip(found, unpasted, strict=True)]


@torch.no_grad()
def our_detections(detector: Detector, images: list[Tensor]) -> Detections:
    parts: list[Tensor] = []
    if detector.mask_head is not None:
        predict = detector.mask_head.predict
        detector.mask_head.predict = lambda *args: parts.append(predict(*args)) or parts[-1]  # type: ignore
    found = [{"boxes": f.boxes, "labels": f.labels, "scores": f.scores} for f in detector(images)]
    if not parts:
        return found
    masks = torch.cat(parts).split([len(f["boxes"]) for f in found])
    return [{**f, "masks": m} for f, m in zip(found, masks, strict=True)]


def differences(ours: Detections, theirs: Detections) -> dict[str, float]:
    """Largest difference of boxes, scores and masks over all detections; infinite where their sets differ."""
    worst: dict[str, float] = {name: 0.0 for name in ("boxes", "scores", "masks") if name in theirs[0]}
    for a, b in zip(ours, theirs, strict=True):
        # Near ties may come in another order: each detection is compared with the nearest of its class.
        rows = [torch.cat([each["boxes"], each["labels"][:, None] * 1e4], dim=1) for each in (a, b)]
        match = torch.cdist(rows[0], rows[1], compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        same = len(a["boxes"]) == len(b["boxes"]) == len(match.unique()) and bool(
            (a["labels"] == b["labels"][match]).all()
        )
        for name in worst:
            worst[name] = max(worst[name], float((a[name] - b[name][match]).abs().max()) if same else torch.inf)
    return worst
