"""A run that was stopped in any way goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import CONFIG, ToyDetector, toy_training

from maskrcnn.config import UserError
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.interrupt import SAME_KEY_PRESS
from maskrcnn.training.loop import Training
from maskrcnn.training.runlog import read_metrics

ROOT = Path(__file__).resolve().parents[1]


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, through dicts and lists; times aside."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_runs(a: Path, b: Path) -> None:
    for name in ("last.pt", "best.pt"):
        saved, other = load_checkpoint(a / "weights" / name), load_checkpoint(b / "weights" / name)
        saved.pop("config"), other.pop("config")
        assert_equal(saved, other, name)
    assert_equal(read_metrics(a / "metrics.jsonl"), read_metrics(b / "metrics.jsonl"), "metrics")


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
    before = signal.getsignal(number)
    training = toy_training(tmp_path, on_step=lambda training: signal.raise_signal(number))
    assert not training.run().finished
    assert training.stopped_by == number and signal.getsignal(number) is before
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
        time.sleep(2 * SAME_KEY_PRESS)
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
        ({"num_epochs": 8}, "num_epochs: 4 -> 8.*learning rate follows a curve"),
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
    with pytest.raises(UserError, match="holds no model"):
        load_checkpoint(tmp_path / "list.pt")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "object.pt")
    with pytest.raises(UserError, match="damaged or no file of weights"):
        load_checkpoint(tmp_path / "object.pt")
