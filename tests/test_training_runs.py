"""Runs are found by name, and the newest one, from any working directory."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

from maskrcnn.config import UserError
from maskrcnn.inference.config import InferenceConfig
from maskrcnn.inference.loading import find_weights
from maskrcnn.inference.options import get_runs_folder
from maskrcnn.structures.instances import Instances
from maskrcnn.training.runs import MAX_REMEMBERED, find_run, recall_folders, remember_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, and a working directory `tmp_path/work`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def make_run(folder: Path, name: str, time: int, weights: str | None = "best.pt") -> Path:
    """A run as training in the working directory leaves it."""
    run = folder / name
    (run / "weights").mkdir(parents=True)
    (run / "config.toml").write_text("")
    os.utime(run / "config.toml", (time, time))
    if weights is not None:
        (run / "weights" / weights).write_text("")
    remember_folder(folder)
    return run.absolute()


def test_the_newest_run_is_found_where_training_wrote_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_run(Path("runs"), "a-1", 1)
    assert find_run("newest", "runs", "--run").absolute() == old
    new = make_run(home / "elsewhere", "b-1", 2)
    assert find_run("newest", "runs", "--run") == new, "another --output_dir in this working directory"
    assert find_run("b-1", "runs", "--run") == new and find_run("a-1", "runs", "--run") == Path("runs/a-1")
    (home / "other").mkdir()
    monkeypatch.chdir(home / "other")
    assert find_run("newest", "runs", "--run") == new, "no run here: where the last training wrote to"
    assert find_run("a-1", "runs", "--run").absolute() == old
    here = make_run(Path("runs"), "c-1", 0)
    assert find_run("newest", "runs", "--run").absolute() == here, "runs of this working directory come first"


def test_a_run_of_another_working_directory_is_not_resumed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(Path("runs"), "a-1", 1, weights="last.pt")
    (home / "other").mkdir()
    monkeypatch.chdir(home / "other")
    for name in ("newest", "a-1"):
        with pytest.raises(UserError, match=r"--resume.*no run"):
            find_run(name, "runs")
    assert find_run("a-1", "runs", "--run").name == "a-1"


def test_folders_that_are_gone_and_damaged_lists_do_no_harm(home: Path) -> None:
    run = make_run(home / "there", "a-1", 1)
    remember_folder(home / "gone")
    assert find_run("newest", "runs", "--run") == run
    for text in ("no json\n", '{"a": 1}\n[1, 2]\n["only one"]\n', "\udcff"):
        (home / "home/smallobjects/runs").write_text(text, encoding="utf-8", errors="surrogateescape")
        assert recall_folders() == ([], [])
        with pytest.raises(UserError, match="no run with weights in runs"):
            find_run("newest", "runs", "--run")
    remember_folder(home / "there")
    assert find_run("newest", "runs", "--run") == run


def test_a_home_folder_that_is_not_writable_does_no_harm(home: Path) -> None:
    (home / "home").write_text("a file")
    remember_folder("runs")
    assert recall_folders() == ([], [])


def test_only_the_last_folders_are_remembered_and_each_once(home: Path) -> None:
    for number in range(MAX_REMEMBERED + 5):
        remember_folder(home / str(number))
    remember_folder(home / "10")
    here, elsewhere = recall_folders()
    assert len(here) == MAX_REMEMBERED and here[:2] == [home / "10", home / str(MAX_REMEMBERED + 4)] and not elsewhere
    assert len(set(here)) == len(here)


def test_python_finds_runs_as_the_command_does(home: Path) -> None:
    run = make_run(home / "there", "a-1", 1)
    for name in ("newest", "a-1", str(run)):
        assert find_weights(name) == run / "weights/best.pt"


def test_the_folder_of_runs_comes_from_environment_or_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_runs_folder() == "runs"
    Path("smallobjects.toml").write_text('[output]\noutput_dir = "mine"\n[augment]\nunknown = 1\n')
    assert get_runs_folder() == "mine"
    monkeypatch.setenv("SMALLOBJECTS_OUTPUT_DIR", "other")
    assert get_runs_folder() == "other"
    monkeypatch.delenv("SMALLOBJECTS_OUTPUT_DIR")
    Path("smallobjects.toml").write_text("[output]\noutput_dir = 5\n")
    with pytest.raises(UserError, match=r"smallobjects.toml: output.output_dir = 5: expected a text"):
        get_runs_folder()


def test_label_images_of_python_and_of_the_command_have_one_default() -> None:
    default = inspect.signature(Instances.to_label_image).parameters["min_visible_fraction"].default
    assert default == InferenceConfig().output.min_visible_fraction == 0.9
