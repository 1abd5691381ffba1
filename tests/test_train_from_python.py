"""Training from Python: the same weights as the command's, from a folder, a name, an object or pairs."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from programs_toy import fail, settle, succeed

import workbench
from datasets.registry import open_dataset
from examples.train import main
from maskrcnn import Instances, Predictor
from maskrcnn.config import UserError
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.loop import Training
from maskrcnn.training.progress import ProgressDisplay
from workbench.training import convert_options

ELLIPSES = "data/ellipses"
OPTIONS = {"num_epochs": 1, "seed": 3, "hflip": False, "fixed_size": [48, 64], "learning_rate": 0.002}
FLAGS = ("--num_epochs=1", "--seed=3", "--no-hflip", "--fixed_size=48,64", "--learning_rate=2e-3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Iterator[Path]:
    """A working directory with a run of the command."""
    folder = settle(tmp_path_factory.mktemp("python"), tiny_ellipses)
    with chdir(folder):
        succeed(main, *FLAGS)
        yield folder


def weights_of_command() -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_checkpoint("runs/ellipses-mask_rcnn-1/weights/best.pt")["model"]
    return weights


def assert_same_weights(predictor: Predictor) -> None:
    expected, found = weights_of_command(), predictor.detector.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def read_pairs(split: str) -> list[tuple[torch.Tensor, Instances]]:
    dataset = open_dataset("ellipses", ELLIPSES, split)
    return [dataset[index] for index in range(len(dataset))]


def list_runs() -> list[str]:
    return sorted(path.name for path in Path("runs").iterdir())


@pytest.mark.parametrize("data", [ELLIPSES, Path(ELLIPSES), "ellipses"])
def test_a_folder_or_name_gives_the_weights_of_the_command(place: Path, data: str | Path) -> None:
    before = list_runs()
    predictor = workbench.train(data, **OPTIONS)
    assert_same_weights(predictor)
    assert len(list_runs()) == len(before) + 1
    assert predictor.operating_threshold is not None and not predictor.detector.training


def test_data_set_objects_give_the_weights_of_the_command(place: Path) -> None:
    splits = {split: open_dataset("ellipses", ELLIPSES, split) for split in ("train", "val", "test")}
    assert_same_weights(workbench.train(splits, **OPTIONS))


def test_pairs_give_the_weights_of_the_command_and_their_class_names(place: Path) -> None:
    pairs = {split: read_pairs(split) for split in ("train", "val", "test")}
    predictor = workbench.train(pairs, class_names=["thing"], **OPTIONS)
    assert_same_weights(predictor)
    assert predictor.class_names == ("thing",)
    (found,) = predictor.predict([pairs["test"][0][0]])
    assert isinstance(found, Instances)


def test_one_list_is_split_and_arrays_are_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(image.permute(1, 2, 0).numpy(), target) for image, target in read_pairs("train")]
    assert isinstance(pairs[0][0], np.ndarray)
    predictor = workbench.train(pairs, "rpn", test_fraction=0.34, num_epochs=1)
    assert predictor.head == "rpn"
    printed = capsys.readouterr().out
    assert "the data has no test set: 2 of 6 images are drawn for it" in printed
    assert "Pairs-rpn-" in printed


def test_the_file_of_the_working_directory_counts_and_an_option_wins_over_it(place: Path) -> None:
    predictor = workbench.train("ellipses", "rpn", num_steps=1, crop_border=2)
    assert predictor.config["training"]["num_steps"] == 1 and predictor.config["training"]["num_epochs"] is None
    assert predictor.config["augment"]["crop_border"] == 2
    assert tuple(predictor.config["augment"]["crop_size"]) == (64,)  # of smallobjects.toml


class NoDataSet:
    """Lacks what a data set needs."""


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("elipses", {}, "elipses: no such folder; check the path"),
        (ELLIPSES, {"lr": 1}, "unknown option 'lr'; did you mean 'learning_rate'"),
        (ELLIPSES, {"rotation_degrees": 1}, "unknown option 'rotation_degrees'; did you mean 'rot_range_mag'"),
        (ELLIPSES, {"seed": -1}, "seed = -1: must be at least 0"),
        (ELLIPSES, {"head": "yolo"}, "head = 'yolo': must be one of"),
        ([], {}, "no images"),
        ([1, 2], {}, r"data\['train'\]: element 0 must be a pair"),
        ({"training": []}, {}, "has no 'train', only training"),
        ({"train": [], "dev": []}, {}, "has 'dev'; give train, val, test"),
        (NoDataSet(), {}, r"data\['train'\]: has no class_names"),
    ],
)
def test_mistakes_are_one_clear_error_and_leave_no_run(
    place: Path, data: Any, options: dict[str, Any], message: str
) -> None:
    before = list_runs()
    with pytest.raises(UserError, match=message) as caught:
        workbench.train(data, **options)
    assert "\n" not in str(caught.value)
    assert list_runs() == before


def test_ctrl_c_saves_a_checkpoint_and_raises(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_step(self: ProgressDisplay, training: Training) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressDisplay, "on_step", on_step)
    with pytest.raises(KeyboardInterrupt):
        workbench.train("ellipses", "rpn", num_epochs=3)
    folder = capsys.readouterr().out.splitlines()[-1].partition("--resume=")[2]
    assert load_checkpoint(Path(folder) / "weights/last.pt")["state"]["step"] == 1
    monkeypatch.undo()
    before = list_runs()
    resumed = workbench.train("ellipses", resume=folder)
    whole = workbench.train("ellipses", "rpn", num_epochs=3)
    weights = whole.detector.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.detector.state_dict().items())
    assert len(list_runs()) == len(before) + 1


def test_a_run_on_pairs_is_resumed_in_python_and_the_command_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {split: read_pairs(split) for split in ("train", "val", "test")}
    monkeypatch.setattr(ProgressDisplay, "on_step", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        workbench.train(pairs, **OPTIONS)
    monkeypatch.undo()
    assert "resume it in Python: train(pairs, resume=RUN)" in fail(main, "--resume", "--trust")
    assert_same_weights(workbench.train(pairs, resume="newest"))


def test_options_become_the_text_of_the_command_line() -> None:
    given = {"seed": 1, "hflip": False, "amp": True, "fixed_size": [1, 2], "learning_rate": 1e-05, "device": None}
    expected = {"seed": "1", "hflip": "off", "amp": "on", "fixed_size": "1,2", "learning_rate": "1e-05"}
    assert convert_options(given) == expected


def test_the_example_of_the_documentation_runs(place: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/training.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names["found"], Instances) and names["predictor"].head == "rpn"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "mask_rcn"}, "head = 'mask_rcn'"),
        ({"learning_rate": -1}, "learning_rate = -1.0"),
        ({"num_epochs": "many"}, "num_epochs = 'many'"),
    ],
)
def test_errors_name_arguments_of_python(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        workbench.train([], **options)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("data", [[], {"train": []}, ()])
def test_empty_data_has_no_advice_about_flags(data: Any) -> None:
    with pytest.raises(UserError, match=r"^data\['train'\]: has no images; give at least one$"):
        workbench.train(data)
