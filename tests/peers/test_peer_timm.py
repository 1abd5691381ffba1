"""Networks of timm as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest

timm = pytest.importorskip("timm")

import torch  # noqa: E402
from detector_toy import disks, one_class, toy_config  # noqa: E402
from programs_toy import fail, succeed  # noqa: E402

import maskrcnn  # noqa: E402
from examples.train import main as train  # noqa: E402
from maskrcnn.config import UserError  # noqa: E402
from maskrcnn.model.detector import Detector  # noqa: E402

SIZE = (64, 96)


def build(name: str, head: str = "faster_rcnn", finest_stride: int = 4, **changes: object) -> Detector:
    torch.manual_seed(0)
    options = {"backbone__name": f"timm:{name}", "backbone__finest_stride": finest_stride, **changes}
    return Detector(toy_config(**options), 1, head)


@pytest.mark.parametrize(
    ("name", "finest_stride"),
    [
        ("resnet18", 2),
        ("mobilenetv3_small_050", 4),
        ("convnext_atto", 4),
        ("efficientnet_b0", 2),
        ("resnet18.a1_in1k", 4),
    ],
)
def test_a_network_learns_and_detects(name: str, finest_stride: int) -> None:
    detector = build(name, finest_stride=finest_stride)
    assert detector.strides == [finest_stride, 2 * finest_stride, 4 * finest_stride]
    image, targets = disks(SIZE)
    sum(detector([image], [one_class(targets)]).values()).backward()
    body = dict(detector.backbone.body.named_parameters())
    assert [key for key, parameter in body.items() if parameter.grad is None] == []  # no layer behind the last map
    assert len(detector([image])) == 1


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_reach_the_network(channels: int) -> None:
    detector = build("resnet18", image__channels=channels)
    assert detector.backbone.body.network.model.conv1.in_channels == channels
    assert len(detector([torch.rand(channels, *SIZE)])) == 1


def test_the_maps_are_those_of_timm() -> None:
    detector = build("resnet18").eval()
    theirs = timm.create_model("resnet18", features_only=True, out_indices=[1, 2, 3]).eval()
    state = detector.backbone.body.network.state_dict()
    theirs.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    pixels = torch.rand(2, 3, *SIZE)
    for got, wanted in zip(detector.backbone.body(pixels), theirs(pixels), strict=True):
        assert torch.equal(got, wanted)


def test_pretrained_weights_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        asked.append(pretrained)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    detector = build("resnet18", backbone__weights="imagenet")
    assert asked[-1] and "backbone.body.network.model.conv1.weight" in detector.pretrained_parameters()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet1"}, "timm .* has no network resnet1; some names: .*resnet"),
        ({"name": "hf-hub:timm/resnet18"}, "has no network hf-hub"),
        ({"name": "convnext_atto", "finest_stride": 2}, r"has maps of strides \[4, 8, 16, 32\], not \[2, 4, 8\]"),
        ({"name": "vit_tiny_patch16_224"}, r"has maps of strides \[16, 16, 16\]"),
        ({"name": "resnet18", "backbone__norm": "group"}, "norm = group is for ResNets"),
    ],
)
def test_a_network_that_does_not_fit_is_an_error(options: dict[str, object], message: str) -> None:
    from maskrcnn.model.config import BackboneConfig
    from maskrcnn.model.timm_body import TimmBody

    settings = {"name": f"timm:{options['name']}", "finest_stride": options.get("finest_stride", 4), "num_levels": 3}
    if "backbone__norm" in options:
        settings["norm"] = options["backbone__norm"]
    with pytest.raises(UserError, match=message):
        TimmBody(BackboneConfig(**settings), 3)


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        if pretrained:
            raise FileNotFoundError("no route\nto host")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(UserError, match=r"cannot download the weights of timm:resnet18 \(no route to host\)"):
        build("resnet18", backbone__weights="imagenet")


def test_a_run_with_a_network_of_timm_is_restored(workplace: Path) -> None:
    succeed(
        train, "--dataset=ellipses", "--head=faster_rcnn", "--backbone=timm:mobilenetv3_small_050", "--num_epochs=1"
    )
    predictor = maskrcnn.load(next((workplace / "runs").iterdir()))
    assert predictor.detector.config.backbone.name == "timm:mobilenetv3_small_050"
    assert predictor.predict(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)).scores is not None
    assert "has no network resnet1" in fail(train, "--dataset=ellipses", "--backbone=timm:resnet1")
