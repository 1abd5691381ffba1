"""The run folder and its files."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from maskrcnn.config import UserError
from maskrcnn.files import atomic_write, write_text
from maskrcnn.training.checkpoint import save_checkpoint
from maskrcnn.training.runlog import RunLog, create_run, read_metrics


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    assert create_run(tmp_path / "runs", "a").name == "a-1"
    (tmp_path / "runs" / "a-7").mkdir()
    (tmp_path / "runs" / "a-other").mkdir()
    (tmp_path / "runs" / "a-8").write_text("a file in the way")
    assert create_run(tmp_path / "runs", "a").name == "a-9"
    assert create_run(tmp_path / "runs", "b").name == "b-1"


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_run(tmp_path, "a"), range(16)))
    assert len(set(folders)) == 16


def test_output_folder_that_cannot_be_written_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file.*choose another --output_dir"):
        create_run(tmp_path / "file" / "runs", "a")
    with pytest.raises(UserError, match="cannot write to"):
        RunLog(tmp_path / "missing", console=lambda line: None).info("hello")
    with pytest.raises(UserError, match="cannot write to"):
        RunLog(tmp_path / "missing", tensorboard=False).record("train", epoch=1, step=1, loss=1.0)
    with pytest.raises(UserError, match="cannot save"):
        save_checkpoint(tmp_path / "missing" / "last.pt", {"model": {}})


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write anywhere")
def test_read_only_folder_gives_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        create_run(tmp_path, "a")


def test_file_is_complete_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_write(path) as beside:
        beside.write_text("half")
        assert beside.suffix == ".json" and path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_metrics_are_json_whatever_the_values(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.record("evaluation", epoch=1, step=3, mask_ap=float("nan"), box_ap=float("-inf"), recall=0.5)
    text = (tmp_path / "metrics.jsonl").read_text()
    line = {"kind": "evaluation", "epoch": 1, "step": 3, "mask_ap": None, "box_ap": None, "recall": 0.5}
    assert json.loads(text, parse_constant=pytest.fail) == line
    assert read_metrics(tmp_path / "metrics.jsonl") == [line]
    assert read_metrics(tmp_path / "missing.jsonl") == []


def test_cutting_back_keeps_what_the_checkpoint_has_seen(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    for step in range(1, 7):
        log.record("step", epoch=1 + (step > 4), step=step, loss=0.0)
        if step == 4:
            log.record("train", epoch=1, step=4, loss=0.0)
    log.truncate(epoch=0, step=4)  # saved after the last step of an epoch that was not closed yet
    assert [(line["kind"], line["step"]) for line in read_metrics(log.metrics_file)] == [
        ("step", n) for n in range(1, 5)
    ]


def test_files_of_a_run(tmp_path: Path) -> None:
    log = RunLog(create_run(tmp_path, "a"), console=lambda line: None, log_file=tmp_path / "extra.log")
    log.start("[training]\nseed = 0\n", device="cpu")
    log.info("hello")
    log.record("train", epoch=1, step=1, loss=1.0)
    log.add_image("predictions", torch.zeros(3, 4, 4, dtype=torch.uint8), 1)
    log.close()
    environment = json.loads((log.folder / "environment.json").read_text())
    assert environment["device"] == "cpu" and environment["packages"]["torch"] and environment["threads"] >= 1
    assert (log.folder / "config.toml").read_text() == "[training]\nseed = 0\n"
    assert "hello" in (log.folder / "train.log").read_text() and "hello" in (tmp_path / "extra.log").read_text()
    assert any(path.stat().st_size > 100 for path in (log.folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "damage",
    ["\n", '{"kind": "step", "epo\n', "[]\n", '{"kind": "step"}\n', "\0" * 40 + "\n", '{"epoch": 1, "step": 1}'],
)
def test_damaged_lines_of_the_metrics_are_left_out_and_counted(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    log = RunLog(tmp_path, said.append, tensorboard=False)
    log.record("step", epoch=1, step=1, loss=1.0)
    with log.metrics_file.open("a") as file:
        file.write(damage)
    if damage.endswith("\n"):
        log.record("step", epoch=1, step=2, loss=2.0)
    steps = [1, 2] if damage.endswith("\n") else [1]
    assert [line["step"] for line in read_metrics(log.metrics_file)] == steps
    log.truncate(epoch=0, step=9)
    assert log.metrics_file.read_text().count("\n") == len(steps)
    assert said == ([f"{log.metrics_file}: skipped 1 unreadable line"] if damage.strip() and len(steps) == 2 else [])


def events(folder: Path) -> list[tuple[str, int]]:
    """Tags and steps of all values in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = sorted((folder / "tensorboard").iterdir())
    return [
        (value.tag, event.step)
        for file in files
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


@pytest.mark.parametrize("torn", [b"", b"\x18\0\0\0\0\0\0\0half"])
def test_a_resumed_run_has_each_point_once(tmp_path: Path, torn: bytes) -> None:
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)

    def train(log: RunLog, first: int, last: int) -> None:
        for step in range(first, last):
            epoch = (step + 1) // 2
            log.record("step", epoch=epoch, step=step, loss=1.0)
            if step % 2 == 0:
                log.record("train", epoch=epoch, step=step, loss=1.0)
                log.add_image("test/a.png", picture, step)
        log.close()

    whole, log = (RunLog(tmp_path / name, lambda line: None) for name in ("whole", "stopped"))
    for each in (whole, log):
        each.folder.mkdir()
    train(whole, 1, 9)
    train(log, 1, 7)
    (file,) = (log.folder / "tensorboard").iterdir()
    with file.open("ab") as end:
        end.write(torn)
    log.truncate(epoch=1, step=4)  # saved after the last step of an epoch, before the epoch was closed
    log.record("train", epoch=2, step=4, loss=1.0)
    log.add_image("test/a.png", picture, 4)
    train(log, 5, 9)
    assert sorted(events(log.folder)) == sorted(events(whole.folder))
