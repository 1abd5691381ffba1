"""ResNets with a stem for small objects, feature pyramids, and pretrained weights."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from maskrcnn.config import UserError
from maskrcnn.extensions import describe_error, import_class
from maskrcnn.model.config import TIMM, BackboneConfig, is_own_backbone
from maskrcnn.model.timm_body import TimmBody

LAYERS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


def make_norm_layer(kind: str, eps: float) -> Callable[[int], nn.Module]:
    """Return a constructor of normalization layers: "batch", "frozen", or "group".

    Groups have 16 channels (arXiv 1803.08494), or the next larger number that divides the number of channels.
    """
    if kind == "group":
        return lambda channels: nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels, eps=eps)
    return partial({"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}[kind], eps=eps)


class ResNet(nn.Module):
    """ResNet body made of torchvision's blocks with torchvision's names, so that its weights can be loaded.

    `[B, C, H, W]` → a list of `num_levels` maps with strides finest_stride × 1, 2, 4, 8.

    Args:
        config: options.
        channels: number C of channels of the images.
    """

    def __init__(self, config: BackboneConfig, channels: int = 3) -> None:
        super().__init__()
        if config.name not in LAYERS:
            raise UserError(
                f"backbone {config.name!r} is not available yet; known: {', '.join(LAYERS)}, {TIMM}NAME, module:Class"
            )
        block, depths = LAYERS[config.name]
        norm = make_norm_layer(config.norm, config.norm_eps)
        width = config.width
        kernel = 7 if config.stem == "conv7" else 3
        self.conv1 = nn.Conv2d(channels, width, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = _make_downsampling(config, norm)
        self.layers, self.channels, inputs = [], [], width
        for stage, depth in enumerate(depths[: config.num_levels]):
            planes = width << stage
            layer = _make_stage(block, inputs, planes, depth, stride=2 if stage else 1, norm=norm)
            inputs = planes * block.expansion
            self.add_module(f"layer{stage + 1}", layer)
            self.layers.append(f"layer{stage + 1}")
            self.channels.append(inputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of all stages."""
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for name in self.layers:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps


def _make_downsampling(config: BackboneConfig, norm: Callable[[int], nn.Module]) -> nn.Module:
    """Make the layer between stride 2 and the finest stride."""
    if config.finest_stride == 2:
        return nn.Identity()
    if config.stem == "conv7":
        return nn.MaxPool2d(3, stride=2, padding=1)
    conv = nn.Conv2d(config.width, config.width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, norm(config.width), nn.ReLU(inplace=True))


def _make_stage(
    block: type[BasicBlock | Bottleneck],
    inputs: int,
    planes: int,
    depth: int,
    stride: int,
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    outputs = planes * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))
    blocks = [block(inputs, planes, stride, downsample, norm_layer=norm)]
    blocks += [block(outputs, planes, norm_layer=norm) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class Backbone(nn.Module):
    """Body and FPN (Lin et al., arXiv 1612.03144): `[B, C, H, W]` → maps `[B, fpn_channels, H / s, W / s]`.

    The body is a ResNet, or a network of timm if `config.name` is timm:NAME.

    Args:
        config: options.
        channels: number C of channels of the images.

    Attributes:
        strides: stride s of each map, finest first.
        channels: number of channels of every map.
        num_roi_levels: number of maps for RoI heads; with `pool_level` there is another one for the RPN only.
    """

    def __init__(self, config: BackboneConfig, channels: int = 3) -> None:
        super().__init__()
        self.body = _build_body(config, channels)
        self.fpn = FeaturePyramidNetwork(
            self.body.channels,
            config.fpn_channels,
            extra_blocks=LastLevelMaxPool() if config.pool_level else None,
            norm_layer=make_norm_layer("group" if config.norm == "group" else "batch", 1e-5)
            if config.fpn_norm
            else None,
        )
        self.channels = config.fpn_channels
        self.num_roi_levels = config.num_levels
        self.strides = [config.finest_stride << i for i in range(config.num_levels + config.pool_level)]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the maps of the pyramid."""
        maps = OrderedDict((str(i), x) for i, x in enumerate(self.body(pixels)))
        return list(self.fpn(maps).values())


def _build_body(config: BackboneConfig, channels: int) -> ResNet | TimmBody:
    """Build the body, with pretrained weights if the options ask for them."""
    if config.name.startswith(TIMM):
        return TimmBody(config, channels)
    body = ResNet(config, channels)
    if config.weights == "imagenet":
        state = load_imagenet_weights(config)
        state["conv1.weight"] = adapt_first_conv(state["conv1.weight"], channels)
        body.load_state_dict(state, strict=True)
    return body


def build_backbone(config: BackboneConfig, channels: int) -> nn.Module:
    """Build the backbone that the options name: a `Backbone`, or a user's own module.

    A user's class, named as module:Class, is called with the number of channels of the images.

    Raises:
        UserError: If there is no such backbone, or building it fails.
    """
    if not is_own_backbone(config.name):
        return Backbone(config, channels)
    if config.weights != "none":
        raise UserError(
            f"backbone {config.name}: weights = {config.weights} is for known networks; load them in the class"
        )
    found = import_class(config.name, "backbone")
    if not issubclass(found, nn.Module):
        raise UserError(f"backbone {config.name}: is no torch.nn.Module")
    try:
        module: nn.Module = found(channels)
    except Exception as error:
        raise UserError(f"backbone {config.name}({channels}): {describe_error(error)}") from error
    return module


def check_backbone(backbone: nn.Module) -> tuple[int, list[int]]:
    """Return the channels and strides of a backbone.

    Raises:
        UserError: If it does not declare them, or the strides are not ascending.
    """
    channels, strides = getattr(backbone, "channels", None), getattr(backbone, "strides", None)
    if not isinstance(channels, int) or strides is None:
        raise UserError(
            f"backbone {type(backbone).__name__} must have `channels` (of every map, an int) and `strides` (pixels "
            f"per cell of each map, finest first), got {channels!r} and {strides!r}"
        )
    strides = [int(stride) for stride in strides]
    if not strides or strides[0] < 1 or any(fine >= coarse for fine, coarse in itertools.pairwise(strides)):
        raise UserError(f"strides of backbone {type(backbone).__name__} must be positive and ascending, got {strides}")
    return channels, strides


def adapt_first_conv(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weights `[O, 3, h, w]` of a first convolution for RGB to images with another number of channels.

    Each channel gets the average of the RGB weights times 3 / channels, so that the response to a gray image, whose
    channels are all equal, is that of the gray RGB image. Averaging and repeating is the cross-modality initialization
    of Temporal Segment Networks (Wang et al., arXiv 1608.00859, section 3.2), and dividing by the number of copies the
    inflation of I3D (Carreira and Zisserman, arXiv 1705.07750, section 2.4).
    """
    if channels == weight.shape[1]:
        return weight
    return weight.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels


def load_imagenet_weights(config: BackboneConfig) -> dict[str, Tensor]:
    """Load the state dict of a body with the standard stem through torchvision.

    Raises:
        UserError: If torchvision has no weights for the body, or they cannot be downloaded.
    """
    if config.width != 64 or config.stem != "conv7" or config.norm == "group":
        raise UserError("ImageNet weights require detector.backbone stem = conv7, width = 64, norm = batch or frozen")
    try:
        state = models.get_model_weights(config.name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download ImageNet weights of {config.name} ({error}); put the file into "
            f"{torch.hub.get_dir()}/checkpoints or train from scratch with --pretrained=none"
        ) from error
    used = {f"layer{i + 1}" for i in range(config.num_levels)} | {"conv1", "bn1"}
    frozen = config.norm == "frozen"
    return {
        name: value
        for name, value in state.items()
        if name.split(".")[0] in used and not (frozen and name.endswith("num_batches_tracked"))
    }
