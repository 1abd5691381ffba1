"""A run that was stopped in any way goes on as if it had not been."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import CONFIG, ToyDetector, assert_same_runs, toy_training

from maskrcnn.config import UserError
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.checkpoint import find_nonfinite_tensor, load_checkpoint
from maskrcnn.training.interrupt import MAX_DUPLICATE_DELAY
from maskrcnn.training.loop import Training, TrainingError
from maskrcnn.training.runlog import read_metrics
from maskrcnn.weights.torchvision import load_torchvision

ROOT = Path(__file__).resolve().parents[1]


def interrupt_at(step: int) -> Any:
    def on_step(training: Training) -> None:
        if training.state.step == step:
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder: Path = tmp_path_factory.mktemp("whole")
    assert toy_training(folder).run().finished
    return folder


@pytest.mark.parametrize("step", [1, 4, 6, 8, 15, 16])
def test_interrupted_run_resumes_bit_for_bit(step: int, whole: Path, tmp_path: Path) -> None:
    state = toy_training(tmp_path, on_step=interrupt_at(step)).run()
    assert (state.step, state.finished) == (step, False)
    training = toy_training(tmp_path, model=ToyDetector())
    training.resume()
    assert training.run().finished
    assert_same_runs(whole, tmp_path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_knows_which_signal_stopped_it_and_is_saved(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    original = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # `nohup` starts the tests with SIGHUP ignored
    try:
        training = toy_training(tmp_path, on_step=lambda training: signal.raise_signal(number))
        assert not training.run().finished
        assert training.stopped_by == number and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, original)
    assert load_checkpoint(tmp_path / "weights" / "last.pt")["state"]["step"] == 1


def test_sgd_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = replace(CONFIG, optimizer="sgd", schedule="constant")
    toy_training(tmp_path / "a", config).run()
    toy_training(tmp_path / "b", config, on_step=interrupt_at(5)).run()
    training = toy_training(tmp_path / "b", config)
    training.resume()
    training.run()
    assert_same_runs(tmp_path / "a", tmp_path / "b")


def test_interrupt_during_evaluation_closes_the_epoch_first(whole: Path, tmp_path: Path) -> None:
    def evaluate(model: torch.nn.Module, epoch: int) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {"box_ap": float(sum(parameter.detach().sum() for parameter in model.parameters()))}

    state = toy_training(tmp_path, evaluate=evaluate).run()
    assert (state.epoch, state.finished) == (2, False)
    training = toy_training(tmp_path)
    training.resume()
    training.run()
    assert_same_runs(whole, tmp_path)


def test_second_interrupt_aborts_and_the_handler_comes_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    aborted: list[bool] = []

    def twice(training: Training) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # at once: sent by one program to the process and to its group
        time.sleep(2 * MAX_DUPLICATE_DELAY)
        signal.raise_signal(signal.SIGTERM)  # is no second Ctrl-C
        aborted.append(False)
        signal.raise_signal(signal.SIGINT)
        aborted.append(True)

    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path, on_step=twice).run()
    assert aborted == [False]
    assert signal.getsignal(signal.SIGINT) is before


def run_program(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tests" / "training_toy.py"), str(folder), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_program_repeats_the_lost_steps(whole: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    assert run_program(killed, "--kill-at", "7").returncode == -signal.SIGKILL
    saved = load_checkpoint(killed / "weights" / "last.pt")["state"]["step"]
    assert saved == 6, "the checkpoint should lie in the middle of an epoch, before the kill"
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epo')  # killed while writing
    (killed / "weights" / ".last.0123abcd.pt").write_bytes(b"half a file")
    assert run_program(killed, "--resume").stdout.split() == ["finished", "16"]
    assert_same_runs(whole, killed)
    assert sorted(path.name for path in (killed / "weights").iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted_program_saves_and_says_so(tmp_path: Path) -> None:
    result = run_program(tmp_path, "--interrupt-at", "6")
    assert result.stdout.split() == ["interrupted", "6"]
    assert "Ctrl-C again" in result.stderr
    assert load_checkpoint(tmp_path / "weights" / "last.pt")["state"]["step"] == 6


def test_another_architecture_is_named_by_its_first_layer(whole: Path) -> None:
    with pytest.raises(UserError, match=r"layer body.weight is \[4, 3, 3, 3\] there and \[5, 3, 3, 3\]"):
        toy_training(whole, model=ToyDetector(width=5)).resume()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.01}, "learning_rate: 0.05 -> 0.01"),
        ({"num_epochs": 8}, "num_epochs: 4 -> 8.*learning-rate schedule depends"),
        ({"seed": 3, "batch_size": 3}, "batch_size: 2 -> 3; seed: 0 -> 3"),
    ],
)
def test_another_configuration_is_refused_by_name(whole: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy_training(whole, replace(CONFIG, **change)).resume()


def test_settings_of_the_machine_may_change(whole: Path, tmp_path: Path) -> None:
    training = toy_training(whole, replace(CONFIG, device="auto", checkpoint_every_n_seconds=5.0))
    training.resume()
    assert training.run().step == 16  # finished before: nothing is done again


@pytest.mark.parametrize("content", [None, b"", b"no weights", json.dumps({}).encode()])
def test_missing_or_damaged_weights_give_one_line(tmp_path: Path, content: bytes | None) -> None:
    training = toy_training(tmp_path)
    if content is not None:
        (tmp_path / "weights" / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt") as caught:
        training.resume()
    assert "\n" not in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="contains no model"):
        load_checkpoint(tmp_path / "list.pt")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "object.pt")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "object.pt")


def archive(path: Path, compression: int, size: int = 1) -> None:
    """A file of weights whose members are compressed in some way."""
    torch.save({"model": {"weight": torch.zeros(size * 2**18)}}, path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_stored_archives_are_read_and_compressed_ones_are_not(tmp_path: Path) -> None:
    archive(tmp_path / "stored.pt", zipfile.ZIP_STORED)
    assert load_checkpoint(tmp_path / "stored.pt")["model"]["weight"].shape == (2**18,)
    archive(tmp_path / "small.pt", zipfile.ZIP_DEFLATED, size=64)
    assert (tmp_path / "small.pt").stat().st_size < 2**18  # 64 MiB of zeros
    with pytest.raises(UserError, match="small.pt: .* in it is compressed"):
        load_checkpoint(tmp_path / "small.pt")


def test_members_that_share_their_bytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "overlap.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", bytes(1000))
        for number in range(50):
            again = copy.copy(file.infolist()[0])
            again.filename = f"a/data/{number}"
            file.filelist.append(again)
        file._didModify = True
    with pytest.raises(UserError, match="overlap.pt: is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "data/3"])
def test_a_flipped_byte_is_found(whole: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((whole / "weights" / "last.pt").read_bytes())
    with zipfile.ZipFile(whole / "weights" / "last.pt") as file:
        member = next(each for each in file.infolist() if each.filename.endswith(f"/{name}"))
        content = file.read(member)
    data[data.index(content) + len(content) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(UserError, match=f"flipped.pt: is damaged .*{name}"):
        load_checkpoint(tmp_path / "flipped.pt")
    (tmp_path / "flipped.pth").write_bytes(data)
    with pytest.raises(UserError, match=f"flipped.pth: is damaged .*{name}"):
        load_torchvision(Detector(DetectorConfig(), 1, "rpn"), tmp_path / "flipped.pth")


@pytest.mark.parametrize("how", ["last step", "save in an epoch", "buffer"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, how: str) -> None:
    at = {"last step": 16, "save in an epoch": 7, "buffer": 8}[how]
    training = toy_training(tmp_path, replace(CONFIG, checkpoint_every_n_seconds=0.0))
    step = training.optimizer.step

    def spoil() -> None:
        step()
        if training.state.step + 1 == at:
            tensors = training.model.buffers() if how == "buffer" else training.model.parameters()
            with torch.no_grad():
                next(each for each in tensors if each.is_floating_point())[0] = float("inf")

    training.optimizer.step = spoil  # type: ignore[method-assign, assignment]
    with pytest.raises(TrainingError, match=f"layer .* is not finite in epoch .*, after step {at}"):
        training.run()
    assert not training.state.finished
    for path in (tmp_path / "weights").iterdir():
        saved = load_checkpoint(path)
        assert saved["state"]["step"] < at and find_nonfinite_tensor(saved["model"]) is None


def test_figures_are_on_the_disk_before_the_weights_and_copies_before_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    inodes = lambda: {path.stat().st_ino: path.name for path in tmp_path.rglob("*")}  # noqa: E731
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        name = inodes().get(os.fstat(descriptor).st_ino, "")
        events.append("sync temporary" if name.startswith(".") else f"sync {name}")
        sync(descriptor)

    def replacing(old: Path, new: Path) -> None:
        if Path(new).name == "last.pt":
            with_steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
            assert max(with_steps, default=0) == training.state.step
        events.append(f"rename {Path(new).name}")
        rename(old, new)

    training = toy_training(tmp_path, replace(CONFIG, num_epochs=2, save_model_every_n_epochs=1))
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replacing)
    training.run()
    saved = [
        *("sync metrics.jsonl", "sync train.log", "sync "),  # the run's folder
        *("sync temporary", "rename NAME", "sync weights"),
    ]
    assert events[-12:] == [each.replace("NAME", name) for name in ("epoch-0002.pt", "last.pt") for each in saved]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_copy_of_an_epoch_survives_a_kill_just_after_any_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, save_model_every_n_epochs=1)
    toy_training(tmp_path / "whole", config).run()
    for number in range(2, 9):
        folder = tmp_path / str(number)
        training = toy_training(folder, config)
        write, count = training.write, 0

        def stop_after(name: str, contents: Any, write: Any = write, number: int = number) -> None:
            nonlocal count
            write(name, contents)
            count += 1
            if count == number:
                raise KeyboardInterrupt

        training.write = stop_after  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            training.run()
        again = toy_training(folder, config)
        again.resume()
        again.run()
        assert_same_runs(tmp_path / "whole", folder)
        names = [sorted(path.name for path in (each / "weights").iterdir()) for each in (tmp_path / "whole", folder)]
        assert names[0] == names[1] and "epoch-0001.pt" in names[0]
