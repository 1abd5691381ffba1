"""Extensions without a change of the package: a user's backbone by name, as docs/extending.md shows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detector_toy import toy_config
from programs_toy import fail, succeed
from test_documentation import ROOT, blocks
from torch import nn

import maskrcnn
from examples.describe_data import main as describe_data
from examples.train import main as train
from maskrcnn.config import UserError, merge
from maskrcnn.model.backbones import build_backbone
from maskrcnn.model.config import BackboneConfig, DetectorConfig
from maskrcnn.model.detector import Detector
from workbench.config import load_config

NAME = "my_backbone:Tiny"
TINY = next(code for code in blocks(ROOT / "docs/extending.md", "python") if "class Tiny" in code)


@pytest.fixture
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the module of the documentation."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "home"))
    monkeypatch.setattr("workbench.trust.click.get_app_dir", lambda name: str(workplace / "home" / name))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    (workplace / "my_backbone.py").write_text(TINY)
    settings = workplace / "smallobjects.toml"
    settings.write_text(settings.read_text().replace("[detector.rpn]", "[detector.rpn]\nanchor_sizes = [[12], [24]]"))
    yield workplace
    sys.modules.pop("my_backbone", None)


def test_a_run_with_a_backbone_of_the_users_own_is_restored(place: Path) -> None:
    succeed(train, "--dataset=ellipses", "--head=mask_rcnn", f"--backbone={NAME}")
    run = next((place / "runs").iterdir())
    predictor = maskrcnn.load(run, trust=True)
    assert type(predictor.detector.backbone).__name__ == "Tiny" and predictor.detector.strides == [4, 8]
    saved = torch.load(run / "weights" / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in predictor.detector.state_dict().items())
    assert len(predictor.predict(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))) > 0
    succeed(train, f"--resume={run}")


def test_a_file_does_not_run_a_backbone_unless_it_is_trusted(place: Path) -> None:
    succeed(train, "--dataset=ellipses", "--head=rpn", f"--backbone={NAME}", "--num_epochs=1")
    run = next((place / "runs").iterdir())
    sys.modules.pop("my_backbone")
    with pytest.raises(UserError, match=rf"best.pt: names the backbone {NAME}, whose code .* trust=True"):
        maskrcnn.load(run)
    assert "my_backbone" not in sys.modules
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    run.rename(elsewhere / "theirs")
    (place / "home").rename(place / "forgotten")
    assert f"{NAME} is code named by a TOML file or run folder" in fail(train, f"--resume={elsewhere / 'theirs'}")
    assert "my_backbone" not in sys.modules


def test_anchors_are_proposed_for_the_strides_of_the_users_backbone(place: Path) -> None:
    settings = place / "smallobjects.toml"
    settings.write_text(settings.read_text().replace("[detector.backbone]", f'[detector.backbone]\nname = "{NAME}"'))
    assert f"{NAME} is code named by" in fail(describe_data, "--dataset=ellipses")
    succeed(describe_data, "--dataset=ellipses", "--trust", "--write_config=proposed.toml")
    proposed = load_config(flags={"config": "proposed.toml"}).detector
    assert len(proposed.rpn.anchor_sizes) == 2
    assert build_backbone(proposed.backbone, 3).strides == (4, 8)


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("", "my_backbone:Tiny", "my_backbone.py has no class Tiny"),
        ("class Tinyy: pass", "my_backbone:Tiny", "did you mean 'Tinyy'"),
        ("class Tiny: pass", "my_backbone:Tiny", "is no torch.nn.Module"),
        ("def Tiny(channels): pass", "my_backbone:Tiny", "is function, not a class"),
        ("import nothing_here", "my_backbone:Tiny", "importing my_backbone failed: ModuleNotFoundError"),
        ("x = 1 / 0", "my_backbone:Tiny", r"importing my_backbone failed: ZeroDivisionError.*my_backbone.py:1"),
        ("", "my_backbon:Tiny", "there is no my_backbon.py here"),
        (
            "from torch import nn\nclass Tiny(nn.Module):\n    def __init__(self): super().__init__()",
            "my_backbone:Tiny",
            r"Tiny\(3\): TypeError: .*takes 1 positional argument",
        ),
        ("from torch import nn\nclass Tiny(nn.Identity): pass", "my_backbone:Tiny", "must have `channels`"),
    ],
)
def test_a_backbone_that_fails_is_one_line(place: Path, code: str, name: str, message: str) -> None:
    (place / "my_backbone.py").write_text(code)
    config = merge(DetectorConfig(), {"backbone.name": name})
    with pytest.raises(UserError, match=message) as error:
        Detector(config, 1, "rpn")
    assert "\n" not in str(error.value)
    assert fail(train, "--dataset=ellipses", f"--backbone={name}")


def test_pretrained_weights_of_a_users_backbone_are_its_own_matter(place: Path) -> None:
    with pytest.raises(UserError, match=rf"backbone {NAME}: weights = imagenet .* load them in the class"):
        build_backbone(BackboneConfig(name=NAME, weights="imagenet"), 3)


def test_the_class_gets_the_number_of_channels(place: Path) -> None:
    changes = {"backbone__name": NAME, "image__channels": 5, "rpn__anchor_sizes": ((8.0,), (16.0,))}
    detector = Detector(toy_config(**changes), 1, "rpn")
    assert isinstance(detector.backbone, nn.Module) and detector.backbone.stem.in_channels == 5
    assert len(detector([torch.rand(5, 32, 32)])) == 1


@pytest.mark.parametrize("value", ["resnet19", "timm:", "my_backbone", ":Tiny", "a:b:c", "timm:../x", "my-file:Tiny"])
def test_names_that_are_no_backbone_are_rejected_at_once(place: Path, value: str) -> None:
    assert f"--backbone = '{value}'" in fail(train, f"--backbone={value}")


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="backbone timm:resnet18 needs the library timm: pip install timm"):
        Detector(toy_config(backbone__name="timm:resnet18"), 1, "rpn")
