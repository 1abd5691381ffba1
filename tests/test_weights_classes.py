"""Weights of detectors with other classes: matched by name, or without the layers that depend on the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from programs_toy import succeed
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from examples.train import main as train
from maskrcnn.config import UserError
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from maskrcnn.weights.classes import CLASS_LAYERS, match_classes
from maskrcnn.weights.torchvision import load_torchvision

SMALL = DetectorConfig()
SMALL = replace(
    SMALL,
    backbone=replace(SMALL.backbone, width=16, fpn_channels=16),
    box=replace(SMALL.box, widths=(8,)),
    mask=replace(SMALL.mask, channels=8, depth=1),
)
KNOWN = ("cell", "debris", "nucleus")


def detector_of(classes: Sequence[str], seed: int, head: str = "mask_rcnn", config: DetectorConfig = SMALL) -> Detector:
    torch.manual_seed(seed)
    return Detector(config, len(classes), head)


def rows_of(state: dict[str, Tensor], layer: str, label: int) -> list[Tensor]:
    rows = CLASS_LAYERS[layer]
    return [state[f"{layer}.{kind}"][label * rows : (label + 1) * rows] for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("nucleus", "cell", "debris"), "are matched by name"),
        (("debris",), "are matched by name"),
        (("nucleus", "ring"), "are matched by name for nucleus; they are left out for ring"),
        (
            ("a", "b", "c"),
            "all layers are loaded except those that depend on the classes (box_head.classes, box",
        ),
        (("a", "b", "c", "d"), "all layers are loaded except"),
    ],
)
def test_layers_of_the_classes_are_matched_by_name(classes: tuple[str, ...], words: str) -> None:
    saved, own = detector_of(KNOWN, 1).state_dict(), detector_of(classes, 2)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    weights, note = match_classes(own.state_dict(), saved, KNOWN, classes)
    assert note is not None and words in note
    load_weights(own, weights, "saved.pt")
    after = own.state_dict()
    for name, value in after.items():
        if name.rpartition(".")[0] not in CLASS_LAYERS:
            assert torch.equal(value, saved[name]), name
    some = bool(set(classes) & set(KNOWN))
    for layer in CLASS_LAYERS:
        for label, name in enumerate(("background", *classes)):
            source = ("background", *KNOWN).index(name) if name in KNOWN or (some and not label) else None
            right = rows_of(before, layer, label) if source is None else rows_of(saved, layer, source)
            assert all(map(torch.equal, rows_of(after, layer, label), right)), (layer, name)


def test_the_same_classes_are_taken_whole_and_scores_follow_their_names() -> None:
    saved = detector_of(KNOWN, 1)
    weights, note = match_classes(detector_of(KNOWN, 2).state_dict(), saved.state_dict(), list(KNOWN), KNOWN)
    assert note is None and weights.keys() == saved.state_dict().keys()
    other = detector_of(KNOWN, 2)
    load_weights(other, match_classes(other.state_dict(), saved.state_dict(), KNOWN, KNOWN[::-1])[0], "saved.pt")
    features = torch.rand(5, 8)
    scores = [each.box_head.classes(features) for each in (saved, other)]
    assert torch.allclose(scores[0][:, [0, 3, 2, 1]], scores[1])


def test_agnostic_layers_are_taken_and_another_architecture_is_named() -> None:
    agnostic = replace(SMALL, box=replace(SMALL.box, class_agnostic=True))
    saved, own = detector_of(KNOWN, 1, config=agnostic).state_dict(), detector_of(("x",), 2, config=agnostic)
    weights, note = match_classes(own.state_dict(), saved, KNOWN, ("x",))
    load_weights(own, weights, "saved.pt")
    assert note is not None and "box_head.deltas" not in note
    assert torch.equal(own.state_dict()["box_head.deltas.weight"], saved["box_head.deltas.weight"])
    other = detector_of(("x",), 2)
    with pytest.raises(UserError, match=r"box_head\.deltas\.weight is \[4, 8\] there and \[8, 8\]"):
        load_weights(other, match_classes(other.state_dict(), saved, KNOWN, ("x",))[0], "saved.pt")


def test_torchvisions_91_classes_are_matched_by_coco_names() -> None:
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    own = detector_of(("person", "thing", "toothbrush"), 2)
    saved = detector_of(names[1:], 1).state_dict()
    assert len(saved["box_head.classes.bias"]) == 91
    note = load_torchvision(own, saved, ("person", "thing", "toothbrush"))
    assert note is not None and "matched by name for person, toothbrush; they are left out for thing" in note
    assert own.state_dict()["box_head.classes.bias"][3] == saved["box_head.classes.bias"][names.index("toothbrush")]
    assert torch.equal(own.state_dict()["mask_head.logits.weight"][1], saved["mask_head.logits.weight"][1])
    with pytest.raises(UserError, match="layer .*classes"):
        load_torchvision(detector_of(("person",), 2), saved)


def test_training_starts_from_a_run_with_other_classes_and_says_so(workplace: Path) -> None:
    succeed(train, "--num_epochs=1")
    path = workplace / "runs/ellipses-mask_rcnn-1/weights/best.pt"
    contents = load_checkpoint(path)
    for names, words in (
        (["ellipse"], None),
        (["star"], "all layers are loaded except those that depend on the classes"),
    ):
        save_checkpoint(workplace / "start.pt", contents | {"class_names": names})
        lines = succeed(train, "--num_epochs=1", "--start_from=start.pt", "--learning_rate=0", "--weight_decay=0")
        said = [line for line in lines if line.startswith("--start_from=start.pt: ")]
        assert len(said) == (words is not None) and all(words in line for line in said)
        assert not any("are few for training from scratch" in line for line in lines)
    succeed(train, "--dry_run", "--start_from=start.pt")
