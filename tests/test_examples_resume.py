"""Stopped programs go on where they were, and only with what they had."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from programs_toy import SETTINGS, call, fail, settle, snapshot, succeed, with_old_keys

from examples.train import main
from maskrcnn.config import read_toml
from maskrcnn.evaluation.coco_format import BOXES_FILE, MASKS_FILE
from maskrcnn.training.checkpoint import load_checkpoint, save_checkpoint
from maskrcnn.training.loop import Training
from maskrcnn.training.progress import ProgressDisplay
from maskrcnn.training.runlog import read_metrics
from maskrcnn.training.runs import find_run

NAME = "ellipses-mask_rcnn-1"
FLAGS = ("--num_epochs=3", "--eval_every_n_epochs=1")  # 3 steps an epoch
EVERY_STEP = SETTINGS + "checkpoint_every_n_seconds = 0\nlog_every_n_steps = 1\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Path:
    """The working directory of a run that nothing stopped."""
    place = settle(tmp_path_factory.mktemp("whole"), tiny_ellipses)
    (place / "smallobjects.toml").write_text(EVERY_STEP)
    with chdir(place):
        succeed(main, *FLAGS)
    return place


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def crash() -> None:
    """The end of a program that can no longer save anything."""
    raise KeyboardInterrupt


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[[], None]) -> None:
    original = ProgressDisplay.on_step

    def on_step(self: ProgressDisplay, training: Training) -> None:
        original(self, training)
        if training.state.step == step:
            how()

    monkeypatch.setattr(ProgressDisplay, "on_step", on_step)


def figures(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run / "metrics.jsonl")]


def assert_same_run(a: Path, b: Path) -> None:
    assert figures(a) == figures(b)
    for name in ("best.pt", "last.pt"):
        one, other = (load_checkpoint(run / "weights" / name) for run in (a, b))
        assert one["model"].keys() == other["model"].keys()
        assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    pictures = [{k: v for k, v in snapshot(run).items() if Path(k).name in (BOXES_FILE, MASKS_FILE)} for run in (a, b)]
    assert pictures[0] and pictures[0] == pictures[1]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_an_interrupted_run_says_how_to_go_on_and_ends_as_if_nothing_had_been(
    workplace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    (workplace / "smallobjects.toml").write_text(EVERY_STEP)
    with monkeypatch.context() as patch:
        stop_at(patch, step, interrupt)
        result = call(main, *FLAGS)
    assert result.exit_code == 130
    lines = result.stdout.splitlines()
    assert lines[-2] == f"Stopped after step {step}; checkpoint saved."
    command = shlex.split(lines[-1].removeprefix("Resume with: "))
    assert command == ["python", "example_smallobject_train.py", f"--resume={Path('runs', NAME)}"]
    (workplace / "smallobjects.toml").write_text("")  # the run's own settings count
    succeed(main, *command[2:])
    assert_same_run(whole / "runs" / NAME, workplace / "runs" / NAME)
    assert [path.name for path in (workplace / "runs").iterdir()] == [NAME]


def test_a_crashed_run_goes_on_from_the_middle_of_its_epoch(
    workplace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "smallobjects.toml").write_text(EVERY_STEP)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, crash)
        assert call(main, *FLAGS).exit_code == 130
    run = workplace / "runs" / NAME
    assert load_checkpoint(run / "weights/last.pt")["state"]["step"] == 4
    succeed(main, "--resume")
    assert_same_run(whole / "runs" / NAME, run)


def format_tables(tables: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of nested tables."""
    values = [f"{name} = {json.dumps(value)}" for name, value in tables.items() if not isinstance(value, Mapping)]
    parts = [format_tables(value, f"{prefix}{name}.") for name, value in tables.items() if isinstance(value, Mapping)]
    return "\n".join([f"[{prefix[:-1]}]"] * bool(prefix) + values + parts) + "\n"


def test_a_run_saved_with_the_keys_of_the_previous_version_is_resumed(
    workplace: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "smallobjects.toml").write_text(EVERY_STEP)
    with monkeypatch.context() as patch:
        stop_at(patch, 4, interrupt)
        assert call(main, *FLAGS).exit_code == 130
    run = workplace / "runs" / NAME
    contents = load_checkpoint(run / "weights/last.pt")
    old = with_old_keys(contents["config"])
    assert "fixed_size" in old["augment"] and "crop_size" not in old["augment"]
    save_checkpoint(run / "weights/last.pt", contents | {"config": old})
    tables = with_old_keys(read_toml(run / "config.toml"))
    assert "fixed_size" in tables["augment"]
    (run / "config.toml").write_text(format_tables(tables))
    result = call(main, "--resume")
    assert result.exit_code == 0 and result.stderr == ""
    assert_same_run(whole / "runs" / NAME, run)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--head=rpn", ['head: "mask_rcnn" -> "rpn"']),
        ("--learning_rate=0.5 --no-hflip", ["training.learning_rate: 0.003 -> 0.5", "augment.hflip: true -> false"]),
        ("--num_epochs=30", ["training.num_epochs: 3 -> 30", "length of training"]),
        ("--backbone=resnet34", ['detector.backbone.name: "resnet18" -> "resnet34"']),
        ("--plot_dir=smallobjects.toml", ["smallobjects.toml", "cannot create the folder"]),
    ],
)
def test_another_configuration_is_refused_by_name_and_the_run_stays(whole: Path, flags: str, words: list[str]) -> None:
    before = snapshot(whole)
    with chdir(whole):
        error = fail(main, f"--resume={NAME}", *flags.split())
    assert all(word in error for word in words), error
    assert snapshot(whole) == before


def test_a_finished_run_says_so_and_what_trains_longer(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    with chdir(tmp_path / "copy"):
        lines = succeed(main, f"--resume={NAME}")
        assert sum(line.startswith("This run is finished (3 epochs, 9 steps)") for line in lines) == 1
        (longer,) = [line for line in lines if line.startswith("To train longer")]
        assert any(line.endswith(f"--config={Path('runs', NAME, 'config.toml')}") for line in lines[-1:])
        command = shlex.split(longer.partition("run: ")[2])
        assert command[:2] == ["python", "example_smallobject_train.py"]
        lines = succeed(main, *command[2:])
    assert any(line.startswith("18 steps (6 epochs)") for line in lines)
    assert_same_run(whole / "runs" / NAME, tmp_path / "copy/runs" / NAME)


def test_settings_of_the_output_may_change(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    with chdir(tmp_path / "copy"):
        succeed(main, f"--resume={NAME}", "--plot_dir=elsewhere", "--num_threads=1")
    assert (tmp_path / "copy/elsewhere/losses.png").is_file()


def remove_image(place: Path) -> None:
    for kind in ("images", "labels"):
        (place / "data/ellipses/train" / kind / "000005.png").unlink()


def swap(place: Path, kind: str) -> None:
    """Exchange the contents of two files."""
    one, other = (place / "data/ellipses" / kind / f"00000{number}.png" for number in (0, 1))
    contents = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(contents)


def exchange_classes(place: Path) -> None:
    for part in ("train", "test"):
        path = place / "data/ellipses" / part / "annotations.json"
        data = json.loads(path.read_text())
        data["categories"].append({"id": 9, "name": "disk"})
        path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("spoil", "flag", "words"),
    [
        (lambda place: None, "--resume=nothing", ["--resume=nothing", "no run there"]),
        (lambda place: shutil.rmtree(place / "runs"), "--resume", ["no run with weights in runs"]),
        (
            lambda place: (place / "runs" / NAME / "weights/last.pt").unlink(),
            "--resume",
            ["--resume: no run with weights in runs", "1 stopped before their first checkpoint"],
        ),
        (
            lambda place: (place / "runs" / NAME / "weights/last.pt").unlink(),
            f"--resume={NAME}",
            [f"--resume={NAME}: stopped before its first checkpoint", "last.pt"],
        ),
        (
            lambda place: (place / "runs" / NAME / "weights/last.pt").write_bytes(b"half"),
            "--resume",
            ["last.pt is damaged"],
        ),
        (
            lambda place: (place / "runs" / NAME / "config.toml").write_text("[training\n"),
            f"--resume={NAME}",
            [f"{Path(NAME, 'config.toml')}: not valid TOML", "line 1"],
        ),
        (remove_image, "--resume", ["with other data", "there were 6 and are now 5", "'000005'"]),
        (lambda place: exchange_classes(place), "--resume", ["classes were [ellipse] and are now [ellipse, disk]"]),
        (lambda place: swap(place, "train/labels"), "--resume", ["training images, the annotations have changed"]),
        (lambda place: swap(place, "test/labels"), "--resume", ["test images, the annotations have changed"]),
    ],
)
def test_what_cannot_be_resumed_is_said_and_stays(
    whole: Path, tmp_path: Path, spoil: Callable[[Path], Any], flag: str, words: list[str]
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(whole, place)
    spoil(place)
    before = snapshot(place)
    with chdir(place):
        error = fail(main, flag)
    assert all(word in error for word in words), error
    assert snapshot(place) == before


def test_a_run_that_stopped_before_its_first_checkpoint_blocks_nothing(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    with chdir(tmp_path / "copy"):
        younger = Path("runs/ellipses-mask_rcnn-2")
        (younger / "weights").mkdir(parents=True)
        shutil.copy(f"runs/{NAME}/config.toml", younger)
        os.utime(f"runs/{NAME}/config.toml", (0, 0))
        assert find_run("newest", "runs", "--weights") == Path("runs", NAME)
        lines = succeed(main, "--resume")
    assert lines[0] == f"{younger} stopped before its first checkpoint; using {Path('runs', NAME)}"
    assert any(line.startswith("resumed after epoch 3") for line in lines)


def test_changed_image_files_are_noticed(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    swap(tmp_path / "copy", "train/images")
    with chdir(tmp_path / "copy"):
        lines = succeed(main, "--resume")
    assert "training images: some of the files have changed since the run was saved" in lines
