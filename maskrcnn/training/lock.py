"""Lock of a run folder, so that only one process writes to it; the system releases it when the process ends."""

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

FILE_NAME = ".lock"
_LOCKED_BYTE = 2**30  # far beyond the text, because others cannot read a locked byte on Windows
_held: set[Path] = set()  # locks of this process; system locks do not exclude other threads


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Prevent other processes from writing to a run folder while the context is active.

    The system releases the lock if the process is killed, so a stale lock file has no effect. File systems without
    locks are not protected.

    Raises:
        UserError: If another process is using the folder; names the process and its host.
    """
    path = (folder / FILE_NAME).resolve()
    file = _acquire(path, folder)
    _held.add(path)
    try:
        _write_holder(file)
        yield
    finally:
        _remove(path, file)
        _held.discard(path)


def remove_locks() -> None:
    """Remove the lock files of a process that ends without leaving its contexts; the system releases the locks."""
    for path in list(_held):
        with suppress(OSError):
            path.unlink()


def _acquire(path: Path, folder: Path) -> BinaryIO:
    while True:
        if path in _held:  # do not open the file, because closing it would release all locks of this process on it
            raise UserError(
                f"{folder}: in use by another run of this process; wait until it ends or choose another folder"
            )
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another run") from error
        if not _lock(file):
            file.close()
            raise _in_use(folder, path)
        if _exists(file, path):
            return file
        file.close()  # the previous process removed the file in the meantime


def _remove(path: Path, file: BinaryIO) -> None:
    """Remove the lock file while it is locked, so that no other process locks a file that is then removed."""
    if sys.platform == "win32":  # open files cannot be removed on Windows
        file.close()
    with suppress(OSError):
        path.unlink()
    file.close()


def _exists(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    """Try to lock a file; returns whether it succeeded. Forked processes do not inherit the lock."""
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
    except (OSError, ValueError, KeyError, TypeError):  # the other process has just started or just ended
        who = "another process"
    return UserError(f"{folder}: in use by {who}; wait until it ends, stop it, or choose another run")
