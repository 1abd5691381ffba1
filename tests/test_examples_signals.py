"""What programs in processes of their own do when they are stopped, killed or started twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from programs_toy import SETTINGS, fail, succeed

from examples.train import main
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.runlog import read_metrics

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
ROOT = Path(__file__).resolve().parents[1]
RUN = Path("runs/ellipses-rpn-1")
LONG = ("--head=rpn", "--num_epochs=100000", "--eval_every_n_epochs=-1")


@contextmanager
def training(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """A training program that has taken at least a step."""
    Path("smallobjects.toml").write_text(SETTINGS + "log_every_n_steps = 1\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "example_smallobject_train.py"), *LONG, *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        wait_for(lambda: len(read_metrics(RUN / "metrics.jsonl")) > 1 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    with suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def saved_step() -> int:
    return int(load_checkpoint(RUN / "weights/last.pt")["state"]["step"])


@pytest.mark.parametrize(
    ("number", "whole_group", "flags"),
    [
        (signal.SIGTERM, True, ("--num_threads=2",)),  # schedulers end the workers, too
        (signal.SIGINT, False, ()),
    ],
)
def test_a_signal_saves_and_gives_its_exit_code(
    workplace: Path, number: int, whole_group: bool, flags: tuple[str, ...]
) -> None:
    with training(*flags) as process:
        (os.killpg if whole_group else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    step = saved_step()
    assert step > 0 and f"Stopped after step {step}; checkpoint saved." in out
    assert "Traceback" not in err
    assert max(line["step"] for line in read_metrics(RUN / "metrics.jsonl")) == step


def test_a_second_interrupt_ends_an_operation_of_native_code_at_once(tmp_path: Path) -> None:
    code = """
import hashlib, pathlib
from maskrcnn.training.interrupt import stop_on_signal
from maskrcnn.training.lock import lock_run, remove_locks
with lock_run(pathlib.Path(".")), stop_on_signal(remove_locks) as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # half an hour in one call of native code
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            assert [path.name for path in tmp_path.iterdir()] == [".lock"]
            os.kill(process.pid, signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)  # the first one waits for the step
            os.kill(process.pid, signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
        assert process.returncode == 130
    assert not any(tmp_path.iterdir())


def test_a_second_interrupt_leaves_the_last_checkpoint_and_no_lock(workplace: Path) -> None:
    with training() as process:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.4)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # it was done, and Python was about to end
    assert saved_step() >= 0  # of a file that is complete
    assert not (RUN / ".lock").exists() and not any((RUN / "weights").glob(".*"))


def test_a_second_process_cannot_resume_a_run_that_goes_on_and_can_when_it_was_killed(workplace: Path) -> None:
    with training() as process:
        error = fail(main, "--resume")
        assert str(RUN) in error and f"in use by process {process.pid} on" in error
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        step = saved_step()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("maskrcnn.training.loop.Training.run", lambda self: self.save())
            patch.setattr("workbench.report.finish", lambda experiment: None)
            succeed(main, "--resume")
    assert saved_step() == step


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes by /proc")
def test_a_killed_worker_gives_one_line_and_the_run_is_saved(workplace: Path) -> None:
    with training("--num_threads=2") as process:
        workers = children_of(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert not any(map(is_alive, workers))
    assert process.returncode == 2
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: a data loader worker ended early (process"), err
    assert str(workers[0]) in lines[0]
    assert saved_step() == max(line["step"] for line in read_metrics(RUN / "metrics.jsonl")) > 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes by /proc")
def test_workers_end_with_a_killed_parent(workplace: Path) -> None:
    with training("--num_threads=2") as process:
        workers = children_of(process.pid)
        assert len(workers) == 2 and all(map(is_alive, workers))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(map(is_alive, workers)), 4.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_generator_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    (tmp_path / "set").mkdir()  # empty folders may be replaced
    command = [sys.executable, str(ROOT / "create_ellipses.py"), "--n_train=100000", f"--path={tmp_path / 'set'}"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    ) as process:
        wait_for(lambda: any(tmp_path.glob(".set.*/train/images/*.png")) or process.poll() is not None)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["set"] and not any((tmp_path / "set").iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes by /proc")
def test_processes_that_draw_end_with_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "create_ellipses.py"), "--n_train=100000", f"--path={tmp_path / 'set'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        wait_for(lambda: any(tmp_path.glob(".set.*/train/images/*.png")) or process.poll() is not None)
        children = children_of(process.pid)
        assert children and process.poll() is None
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(map(is_alive, children)), 4.0)
