"""One process per run folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskrcnn.config import UserError
from maskrcnn.training.lock import FILE_NAME, lock_run

HOLD = """
import os, sys
from pathlib import Path
from maskrcnn.training.lock import lock_run
with lock_run(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process


def test_a_second_process_is_told_which_one_holds_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for _ in range(2):  # looking at the lock does not release it
            with pytest.raises(UserError, match=f"process {process.pid} on {socket.gethostname()}"), lock_run(tmp_path):
                pass
    with lock_run(tmp_path):
        assert (tmp_path / FILE_NAME).is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("options", [(), ("fork",)])
def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path, options: tuple[str, ...]) -> None:
    with holder(tmp_path, *options) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / FILE_NAME).is_file()
        with lock_run(tmp_path):  # though a process that it forked may live on
            pass


def test_two_runs_of_one_process_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with lock_run(tmp_path), lock_run(tmp_path / "other"):
        with pytest.raises(UserError, match="in use by another run of this process"), lock_run(tmp_path):
            pass
        with holder_is_kept_out(tmp_path):
            pass


@contextmanager
def holder_is_kept_out(folder: Path) -> Iterator[None]:
    result = subprocess.run([sys.executable, "-c", HOLD, str(folder)], capture_output=True, text=True, check=False)
    assert f"process {os.getpid()} on" in result.stderr
    yield


def test_the_lock_is_released_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock_run(tmp_path):
        raise KeyError
    with lock_run(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write to .*missing"), lock_run(tmp_path / "missing"):
        pass
