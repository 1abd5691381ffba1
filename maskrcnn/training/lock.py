"""One process per run folder: a lock of the operating system that ends with its process."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from maskrcnn.config import UserError

NAME = ".lock"
_LOCKED_BYTE = 2**30  # far behind the text: on Windows nobody else can read a locked byte
_held: set[Path] = set()  # the system's locks keep other processes out, not other threads


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep all other processes from writing to a run folder while the block runs.

    The system releases the lock of a process that is killed, so a lock file that is left behind locks nothing. On file
    systems without locks, nothing is locked.

    Raises:
        UserError: another process is writing to the folder; names the process and its computer.
    """
    path = (folder / NAME).resolve()
    file = _acquire(path, folder)
    _held.add(path)
    try:
        _write_holder(file)
        yield
    finally:
        _remove(path, file)
        _held.discard(path)


def _acquire(path: Path, folder: Path) -> BinaryIO:
    while True:
        if path in _held:  # do not open it: closing a file releases all locks that its process has on it
            raise UserError(f"{folder}: in use by another run of this process; wait until it ends, or name another")
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another run") from error
        if not _lock(file):
            file.close()
            raise _in_use(folder, path)
        if _is_there(file, path):
            return file
        file.close()  # the process before has removed it in between


def _remove(path: Path, file: BinaryIO) -> None:
    """Remove the lock file while it is locked, so that no other process locks a file that is then removed."""
    if sys.platform == "win32":  # an open file cannot be removed there, nor one that another process has opened
        file.close()
    with suppress(OSError):
        path.unlink()
    file.close()


def _is_there(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    """Whether the lock could be taken. It belongs to this process alone: processes forked from it do not hold it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # this file system has no locks
    return True


def _write_holder(file: BinaryIO) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder).encode())
    file.flush()


def _in_use(folder: Path, path: Path) -> UserError:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']}, running since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just started, or just ended
        who = "another process"
    return UserError(f"{folder}: in use by {who}; wait until it ends or stop it, or name another run")
