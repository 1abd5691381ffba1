"""Weights of torchvision's models load under their present and their old names, or say which layer differs."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision_twin import torchvision_model, unfilled_detector

from maskrcnn.config import UserError
from maskrcnn.weights.torchvision import load_torchvision


@cache
def numbered_state(norm: str, mask: bool) -> dict[str, Tensor]:
    """A state dict of torchvision's model whose tensor number i holds i, stored once: quick to make and to save."""
    with torch.device("meta"):
        state = torchvision_model(norm, mask).state_dict()
    return {name: torch.tensor(float(i)).expand(value.shape) for i, (name, value) in enumerate(state.items())}


def old_name(name: str) -> str:
    """As in the files that torchvision publishes, which are older than its nested modules."""
    name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)


def test_published_files_load_by_their_old_names(tmp_path: Path) -> None:
    old = {old_name(name): value for name, value in numbered_state("frozen", True).items()}
    assert "roi_heads.mask_head.mask_fcn4.weight" in old and "backbone.fpn.layer_blocks.3.bias" in old
    with torch.device("meta"):
        torchvision_model("frozen", True).load_state_dict(old, assign=True)  # torchvision reads these names too
    torch.save(old, tmp_path / "weights.pth")
    detector = unfilled_detector("frozen", True)
    load_torchvision(detector, tmp_path / "weights.pth")
    assert sorted(float(value.mean()) for value in detector.state_dict().values()) == list(range(len(old)))


@pytest.mark.parametrize(("saved", "norm"), [("batch", "frozen"), ("frozen", "batch"), ("batch", "batch")])
def test_frozen_and_ordinary_batch_norm_load_into_each_other(saved: str, norm: str) -> None:
    state, name = numbered_state(saved, False), "backbone.body.layer4.2.bn3.running_var"
    detector = unfilled_detector(norm, False)
    load_torchvision(detector, state)
    assert torch.equal(detector.state_dict()[name], state[name])


@pytest.mark.parametrize(
    ("mask", "changes", "message"),
    [
        (True, {"backbone.name": "resnet34"}, r"layer1\.0\.conv1\.weight is \[64, 64, 1, 1\] .* and \[64, 64, 3, 3\]"),
        (True, {"backbone.stem": "conv3"}, r"conv1\.weight is \[64, 3, 7, 7\] in the state dict and \[64, 3, 3, 3\]"),
        (True, {"box.class_agnostic": True}, r"box_predictor\.bbox_pred\.weight is \[16, 1024\] .* and \[4, 1024\]"),
        (True, {"rpn.depth": 2}, r"rpn\.convs\.1\.weight is missing in the state dict"),
        (
            False,
            {},
            r"mask_head\.0\.0\.weight is .* missing in the detector.*mask_rcnn, 3 classes without the background",
        ),
    ],
)
def test_another_architecture_names_the_first_layer_that_differs(
    mask: bool, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_torchvision(unfilled_detector("frozen", mask, **changes), numbered_state("frozen", True))


@pytest.mark.parametrize("content", [None, b"", b"not weights at all", b"PK\x03\x04 cut off"])
def test_file_that_holds_no_weights_gives_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth: [^\n]+$"):
        load_torchvision(unfilled_detector("frozen", False), path)


def test_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="not a state dict"):
        load_torchvision(unfilled_detector("frozen", False), tmp_path / "checkpoint.pth")
