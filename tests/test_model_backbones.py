"""Backbones: shapes, norms, weights."""

from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.config import UserError
from maskrcnn.model import backbones
from maskrcnn.model.backbones import Backbone, ResNet, make_norm_layer
from maskrcnn.model.config import BackboneConfig


def small(**changes: object) -> BackboneConfig:
    settings: dict[str, object] = {"width": 16, "fpn_channels": 16, "num_levels": 3, "pool_level": False}
    return BackboneConfig(**{**settings, **changes})  # type: ignore[arg-type]


def check_shapes(config: BackboneConfig) -> None:
    backbone = Backbone(config).eval()
    levels = config.num_levels + config.pool_level
    assert backbone.strides == [config.finest_stride * 2**i for i in range(levels)]
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 64, 96))
    wanted = [(1, config.fpn_channels, 64 // stride, -(-96 // stride)) for stride in backbone.strides]
    assert [tuple(x.shape) for x in maps] == wanted


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("finest_stride", [2, 4])
@pytest.mark.parametrize("stem", ["conv3", "conv7"])
def test_every_stem_stride_and_number_of_levels_builds(num_levels: int, finest_stride: int, stem: str) -> None:
    check_shapes(small(num_levels=num_levels, finest_stride=finest_stride, stem=stem))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_body_builds(name: str) -> None:
    check_shapes(small(name=name, num_levels=4, pool_level=True))


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
@pytest.mark.parametrize("width", [16, 24, 56])
def test_every_norm_builds_at_odd_widths(norm: str, width: int) -> None:
    check_shapes(small(norm=norm, width=width, fpn_channels=20, fpn_norm=True, num_levels=2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_standard_body_is_torchvisions(name: str) -> None:
    config = BackboneConfig(name=name, stem="conv7", finest_stride=4, width=64, num_levels=4)
    theirs = models.get_model(name, weights=None).eval()
    ours = ResNet(config).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc")}
    ours.load_state_dict(state, strict=True)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(pixels))))
        for found, layer in zip(
            ours(pixels), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True
        ):
            x = layer(x)
            torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_kinds_of_normalisation() -> None:
    batch, frozen, group = (make_norm_layer(kind, 1e-3)(32) for kind in ("batch", "frozen", "group"))
    assert (
        isinstance(batch, nn.BatchNorm2d) and isinstance(frozen, FrozenBatchNorm2d) and isinstance(group, nn.GroupNorm)
    )
    assert batch.eps == frozen.eps == group.eps == 1e-3 and group.num_groups == 2


def test_only_batch_norm_looks_at_the_batch() -> None:
    pixels = torch.rand(2, 3, 32, 32)
    for norm, changes in (("batch", True), ("frozen", False), ("group", False)):
        torch.manual_seed(0)
        body = ResNet(small(norm=norm)).train()
        before = {name: value.clone() for name, value in body.named_buffers()}
        together, alone = body(pixels)[-1][:1], body(pixels[:1])[-1]
        assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4) != changes, norm
        assert any(not torch.equal(value, before[name]) for name, value in body.named_buffers()) == changes


def test_frozen_norm_has_nothing_to_learn() -> None:
    names = {name for name, _ in ResNet(small(norm="frozen")).named_parameters()}
    assert not any("bn" in name for name in names) and "conv1.weight" in names


# weights


class Weights:
    """Stands for torchvision's enumeration of weights."""

    def __init__(self, outcome: object) -> None:
        self.DEFAULT, self.outcome = self, outcome

    def get_state_dict(self, **_: object) -> object:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


STANDARD = BackboneConfig(
    name="resnet18", stem="conv7", width=64, finest_stride=4, num_levels=3, fpn_channels=16, weights="imagenet"
)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("finest_stride", [2, 4])
def test_imagenet_weights_fit_the_body(monkeypatch: pytest.MonkeyPatch, norm: str, finest_stride: int) -> None:
    state = models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(backbones.models, "get_model_weights", lambda name: Weights(state))
    backbone = Backbone(BackboneConfig(**{**vars(STANDARD), "norm": norm, "finest_stride": finest_stride}))
    for name in ("conv1.weight", "bn1.running_var", "layer3.1.conv2.weight"):
        assert torch.equal(backbone.body.state_dict()[name], state[name])


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), RuntimeError("invalid hash value"), PermissionError("read-only"), TimeoutError()],
)
def test_weights_that_cannot_be_fetched_are_a_clear_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(backbones.models, "get_model_weights", lambda name: Weights(error))
    with pytest.raises(UserError, match=r"cannot download ImageNet weights of resnet18 .*--pretrained=none") as raised:
        Backbone(STANDARD)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("changes", [{"width": 32}, {"stem": "conv3"}, {"norm": "group"}])
def test_imagenet_weights_need_the_standard_body(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="stem = conv7"):
        Backbone(BackboneConfig(**{**vars(STANDARD), **changes}))


@pytest.mark.parametrize("name", ["unet5_wn", "resnet"])
def test_a_backbone_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"backbone '{name}' is not available.*resnet18"):
        Backbone(small(name=name))
