"""Validation images choose the weights, test images only measure them, once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from programs_toy import N_TEST, N_VAL, call, settle, succeed

from examples.train import main as train
from maskrcnn.model.detector import Detector
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.runlog import RunLog, read_metrics
from workbench.config import load_config
from workbench.data import open_data
from workbench.evaluation import predict
from workbench.experiment import Experiment, evaluate

FLAGS = ("--head=faster_rcnn", "--num_epochs=3", "--eval_every_n_epochs=1")
RUN = Path("runs/ellipses-faster_rcnn-1")


def weights_of(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return load_checkpoint(run / f"weights/{name}.pt")["model"]


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def records(run: Path, split: str) -> list[dict[str, Any]]:
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "evaluation"]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines if line["split"] == split]


@pytest.mark.parametrize("val_part", [True, False])
def test_test_images_choose_no_weights(
    tmp_path: Path, tiny_ellipses: Path, monkeypatch: pytest.MonkeyPatch, val_part: bool
) -> None:
    places = [settle(tmp_path / name, tiny_ellipses) for name in ("a", "b") if not (tmp_path / name).mkdir()]
    for place in places:
        if not val_part:
            shutil.rmtree(place / "data/ellipses/val")
    for path in (places[1] / "data/ellipses/test").glob("*/*.png"):  # other images with other objects
        Image.fromarray(np.flip(np.array(Image.open(path)), axis=0).copy()).save(path)
        if "labels" in path.parts:
            Image.fromarray(np.flip(np.array(Image.open(path)), axis=1).copy()).save(path)
    for place in places:
        monkeypatch.chdir(place)
        succeed(train, *FLAGS)
    runs = [place / RUN for place in places]
    for name in ("best", "last"):
        assert_same_weights(weights_of(runs[0], name), weights_of(runs[1], name))
    assert records(runs[0], "validation") == records(runs[1], "validation")
    assert records(runs[0], "test") != records(runs[1], "test")
    assert [len(records(run, "test")) for run in runs] == [1, 1]


def test_the_test_figures_are_those_of_the_best_weights(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Experiment.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(
            Experiment,
            "evaluate",
            lambda self, detector, epoch: original(self, detector, epoch) | {"mask_ap": 1 / epoch},
        )
        lines = succeed(train, *FLAGS)
    (found,) = records(workplace / RUN, "test")
    assert (found["epoch"], found["step"]) == (1, 3)
    line = next(line for line in lines if line.startswith("Test images: "))
    assert line.endswith("(weights of epoch 1, the best of 3 evaluated epochs on the validation images)")
    config = load_config(RUN / "config.toml")
    experiment = Experiment(config, RunLog("unused", tensorboard=False), open_data(config, lambda line: None), print)
    experiment.detector.load_state_dict(weights_of(workplace / RUN))
    truths = experiment.test.targets
    by_hand = predict(experiment.detector, experiment.test.samples, experiment.machine, 1)
    threshold = found["operating_threshold"]  # of the validation images
    names = experiment.data.class_names
    metrics = evaluate(truths, by_hand, names, "faster_rcnn", score_threshold=threshold).metrics
    assert metrics == pytest.approx({name: found[name] for name in metrics}, abs=1e-6)
    assert f"box_ap {metrics['box_ap']:.3f}" in line
    assert len(list((workplace / RUN / "plots/test").iterdir())) == N_TEST
    assert len(list((workplace / RUN / "plots/epoch-0003").iterdir())) == N_VAL


def test_without_validation_images_the_test_images_serve_and_it_is_said(workplace: Path) -> None:
    with_val = succeed(train, *FLAGS)
    assert not any("held out" in line or "serve as validation" in line for line in with_val)
    shutil.rmtree(workplace / "data/ellipses/val")
    lines = succeed(train, *FLAGS, "--val_fraction=0")
    words = "the test images serve as validation, too (--val_fraction=0): their own figures choose the best weights"
    assert lines[0] == words
    assert any("6 training and 3 test images" in line for line in lines)
    assert any(line.endswith("the best of 3 evaluated epochs on these same images)") for line in lines)
    other = RUN.with_name("ellipses-faster_rcnn-2")
    assert_same_weights(weights_of(RUN, "last"), weights_of(other, "last"))  # evaluation moves nothing
    best = next(line for line in records(other, "validation") if line["epoch"] == records(other, "test")[0]["epoch"])
    assert best | {"split": "test"} == records(other, "test")[0]


def test_held_out_images_are_not_trained_on(workplace: Path) -> None:
    shutil.rmtree(workplace / "data/ellipses/val")
    said: list[str] = []
    for fraction, count in ((0.15, 1), (0.5, 3)):
        data = open_data(load_config(flags={"val_fraction": str(fraction)}), said.append)
        assert (len(data.train), len(data.validation), len(data.test)) == (6 - count, count, N_TEST)
        assert not set(data.train.image_names) & set(data.validation.image_names)
        are = "is" if count == 1 else "are"
        assert said[-1].startswith(f"{count} of 6 training images {are} held out for validation (--val_fraction=")
    subset = load_config(flags={"val_fraction": "0.5", "subset": "index % 2 == 0"})
    data = open_data(subset, said.append)
    assert set(data.train.image_names) | set(data.validation.image_names) == {"000000", "000002", "000004"}


def test_a_run_that_ended_before_its_test_is_tested_when_it_goes_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Experiment) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "test_best", crash)
        assert call(train, *FLAGS).exit_code == 130
    assert not records(workplace / RUN, "test")
    succeed(train, "--resume")
    (found,) = records(workplace / RUN, "test")
    before = (workplace / RUN / "metrics.jsonl").read_bytes()
    again = succeed(train, "--resume")
    assert (workplace / RUN / "metrics.jsonl").read_bytes() == before
    assert any(f"box_ap {found['box_ap']:.3f}" in line for line in again)


def test_evaluation_uses_the_detector_it_is_given(workplace: Path) -> None:
    config = load_config(flags={"head": "rpn"})
    experiment = Experiment(config, RunLog(workplace, tensorboard=False), open_data(config, print), print)
    own = experiment.evaluate(experiment.detector, 1)
    torch.manual_seed(9)
    other = Detector(config.detector, 1, "rpn")
    for parameter in other.rpn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert experiment.evaluate(other, 1) != own
    assert experiment.evaluate(experiment.detector, 1) == own
