"""Files and folders that appear complete or not at all, also when the program is killed or the power fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from maskrcnn.config import UserError

_MAX_STEM = 40  # characters of a name that its temporary name repeats: a name that fits must fit with more in it, too
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux' fcntl.h and fs.h


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new path beside `path` to write to; rename it onto `path` when the block ends well.

    A reader sees the old file or the new one, never a half, also after a power cut. When the block raises, `path` is
    untouched and what was written is removed. The folder must exist. Where `path` is a symbolic link, the file that it
    points to is replaced. The temporary name keeps the suffix, because many writers choose the format by it, and starts
    with a dot, so that a `*.png` listing leaves out what a killed program left behind.

    Raises:
        UserError: there is a device, a pipe or the like at `path`.
        OSError: the folder is missing or cannot be written.
    """
    check_replaceable(path)
    final = Path(os.path.realpath(path))
    beside = final.with_name(f".{final.stem[:_MAX_STEM]}.{secrets.token_hex(4)}{final.suffix}")
    try:
        yield beside
        sync_file(beside)
        os.replace(beside, final)
        sync_folder(final.parent)
    finally:
        beside.unlink(missing_ok=True)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` where something other than a regular file, a folder or nothing is at `path`.

    A file renamed onto `/dev/null` would replace the device.
    """
    with contextlib.suppress(OSError):  # there is nothing, or nothing that may be looked at: writing says so
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: is a device or a pipe, not a regular file; choose another file")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends to `path`, complete or not at all."""
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


# ---- what a power cut must not take


def sync_file(path: str | os.PathLike[str]) -> None:
    """Wait until the contents of a file are on the disk.

    Without this, a power cut soon after a rename can leave an empty file under the final name.
    """
    _sync(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Wait until the names in a folder are on the disk. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    try:
        _sync(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # file systems that cannot do it for folders
            raise


def _sync(path: str | os.PathLike[str], flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Wait until a folder and all that is in it is on the disk."""
    folders, files = [], []
    for folder, _, names in os.walk(root):
        folders.append(folder)
        files += [os.path.join(folder, name) for name in names]
    with ThreadPoolExecutor(16) as pool:  # a disk writes what several threads wait for at once
        list(pool.map(sync_file, files))
        list(pool.map(sync_folder, reversed(folders)))


# ---- archives


def check_archive(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` for a ZIP file that is damaged, or that takes more memory than it is long.

    PyTorch stores weights in uncompressed ZIP files, but reads compressed ones, too, and compares no checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            compressed = next((each.filename for each in members if each.compress_type != zipfile.ZIP_STORED), None)
            if compressed is None and sum(each.file_size for each in members) <= os.path.getsize(path):
                bad = archive.testzip()
            else:
                bad = ""
    except Exception as error:  # a damaged file can raise anything in there
        raise UserError(f"{path}: is damaged ({error}); take another copy of the file") from error
    if compressed is not None:
        raise UserError(f"{path}: {compressed} in it is compressed; weights are stored as torch.save writes them")
    if bad is not None:
        raise UserError(f"{path}: is damaged (wrong checksum or size of {bad or 'its parts'}); take another copy of it")


# ---- folders


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], overwrite: bool, find_stranger: Callable[[Path], str | None], flag: str = "--output"
) -> Iterator[Path]:
    """Give a new folder beside ``path``; rename it onto ``path`` when the block ends well, else remove it.

    With ``overwrite``, a folder in which ``find_stranger`` finds nothing to object to is replaced. What appears at
    ``path`` while the block runs is not replaced without it.

    Raises:
        UserError: there is something at ``path`` that may not be replaced; the folder cannot be written.
    """
    final = Path(path).resolve()
    building = final.with_name(f".{final.name[:_MAX_STEM]}.{secrets.token_hex(4)}")
    finish_exchange(final)
    try:
        _check_target(final, overwrite, find_stranger, flag)
        building.mkdir(parents=True)
        yield building
        sync_tree(building)
        _move_into_place(building, final, lambda: _check_target(final, overwrite, find_stranger, flag))
        sync_folder(final.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another {flag}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_target(path: Path, overwrite: bool, find_stranger: Callable[[Path], str | None], flag: str) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder; choose another {flag}")
    if not overwrite:
        raise UserError(f"{path}: already exists; --overwrite replaces it, {flag} chooses another place")
    if stranger := find_stranger(path):
        raise UserError(f"{path}: is not replaced, because {stranger}; choose another {flag}")


def _move_into_place(building: Path, final: Path, check: Callable[[], None]) -> None:
    """Rename a folder. One that is there already changes places with it, so that there is one at any time.

    Raises:
        UserError: something has appeared or changed there; the new folder is kept under another name.
    """
    try:
        check()
        if final.is_dir() and any(final.iterdir()):
            if not _exchange(building, final):
                _exchange_in_two_steps(building, final)
            return
        with contextlib.suppress(FileNotFoundError):  # Windows renames onto no folder, not even an empty one
            final.rmdir()
        building.rename(final)  # fails where something has appeared since the check
    except (UserError, OSError) as error:
        if not os.path.lexists(final):
            raise
        kept = final.with_name(f"{final.name[:_MAX_STEM]}-{building.name.rpartition('.')[2]}")
        building.rename(kept)
        sync_folder(kept.parent)
        reason = str(error).partition(";")[0] if isinstance(error, UserError) else f"{final}: already exists"
        raise UserError(f"{reason}; that is new since the start, so what was written is kept in {kept}") from error


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _exchange_in_two_steps(building: Path, final: Path) -> None:
    """Rename twice; `finish_exchange` repairs what a program that was killed in between has left."""
    old = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
    try:
        building.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_exchange(path: str | os.PathLike[str]) -> None:
    """Bring back the folder that a program was replacing when it was killed between the two renames.

    Only needed where folders cannot be exchanged in one step. Does nothing where there is something at `path`.
    """
    final = Path(os.path.abspath(path))
    if not final.name:  # the root of a disk
        return
    old = final.with_name(f".{final.name}.replaced")
    if old.is_dir() and not final.exists():
        with contextlib.suppress(OSError):
            old.rename(final)
