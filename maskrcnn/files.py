"""Atomic writing of files and folders, which is safe if the program is killed or the power fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
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

_MAX_STEM = 40  # characters of a name used in its temporary name, which must not be too long for the file system
_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.unfinished")  # temporary folders of `atomic_folder`
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # from fcntl.h and fs.h of Linux


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and rename it to `path` when the context ends without an error.

    Readers see the old file or the new one, never a part of it, even after a power failure. If the context raises an
    error, `path` is unchanged, and the temporary file is removed. If `path` is a symbolic link, the file that it points
    to is replaced. The temporary name has the same suffix, because many writers choose the format by it, and starts
    with a dot, so that `*.png` does not match files that a killed program left.

    Raises:
        UserError: If `path` is a device, a pipe, or the like.
        OSError: If the folder does not exist or is not writable.
    """
    check_replaceable(path)
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".{final.stem[:_MAX_STEM]}.{secrets.token_hex(4)}{final.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, final)
        sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` if `path` exists and is neither a regular file nor a folder.

    For example, renaming a file to `/dev/null` would replace the device.
    """
    with contextlib.suppress(OSError):  # missing or not accessible, which is reported when writing
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: is a device or a pipe, not a regular file; choose another file")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text to a file atomically, as UTF-8 with Unix line endings."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


# ---- syncing to the disk


def sync_file(path: str | os.PathLike[str]) -> None:
    """Wait until the contents of a file are on the disk.

    Without this, a power failure soon after renaming can leave an empty file with the final name.
    """
    _sync(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Wait until the entries of a folder are on the disk. Not supported and not needed on Windows."""
    if sys.platform == "win32":
        return
    try:
        _sync(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
            errno.EBADF,
        ):  # not supported for folders by this file system
            raise


def _sync(path: str | os.PathLike[str], flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Wait until a folder and all its contents are on the disk."""
    folders, files = [], []
    for folder, _, names in os.walk(root):
        folders.append(folder)
        files += [os.path.join(folder, name) for name in names]
    with ThreadPoolExecutor(16) as pool:  # a disk can serve the requests of several threads together
        list(pool.map(sync_file, files))
        list(pool.map(sync_folder, reversed(folders)))


# ---- archives


def check_archive(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` if a ZIP file is damaged or compressed.

    PyTorch saves weights in uncompressed ZIP files. It also reads compressed ones, which may need much more memory than
    their size, and does not check checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            compressed = next((each.filename for each in members if each.compress_type != zipfile.ZIP_STORED), None)
            if compressed is None and sum(each.file_size for each in members) <= os.path.getsize(path):
                bad = archive.testzip()
            else:
                bad = ""
    except Exception as error:  # damaged files can raise any error
        raise UserError(f"{path}: is damaged ({error}); use another copy of the file") from error
    if compressed is not None:
        raise UserError(f"{path}: {compressed} in it is compressed; use the file that torch.save writes")
    if bad is not None:
        raise UserError(f"{path}: is damaged (wrong checksum or size of {bad or 'its parts'}); use another copy of it")


# ---- folders


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], overwrite: bool, find_obstacle: Callable[[Path], str | None], flag: str = "--output"
) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `path` when the context ends without an error, otherwise remove it.

    First removes temporary folders in the same place that killed programs left. Running programs keep theirs locked.

    Args:
        path: path of the folder.
        overwrite: whether to replace an existing folder, also one that appears in the meantime.
        find_obstacle: returns the reason why an existing folder must not be replaced, or None.
        flag: option that errors name.

    Raises:
        UserError: If `path` exists and must not be replaced, or is not writable.
    """
    final = Path(path).resolve()
    temporary = final.with_name(f".{final.name[:_MAX_STEM]}.{secrets.token_hex(4)}.unfinished")
    finish_exchange(final)
    lock = None
    try:
        _check_target(final, overwrite, find_obstacle, flag)
        _remove_unfinished(final.parent)
        lock = _make_locked_folder(temporary)
        yield temporary
        sync_tree(temporary)
        _move_into_place(temporary, final, lambda: _check_target(final, overwrite, find_obstacle, flag))
        sync_folder(final.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another {flag}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_locked_folder(path: Path) -> int | None:
    """Make a folder that is locked until the returned file descriptor is closed or the process ends in any way.

    Returns:
        The file descriptor; None where folders cannot be locked, so that they are never removed.
    """
    while True:
        path.mkdir(parents=True)
        descriptor = _lock_folder(path, wait=True)
        if descriptor is None or path.exists():
            return descriptor
        os.close(descriptor)  # another program removed the folder before it was locked


def _lock_folder(path: Path, wait: bool) -> int | None:
    """Lock a folder; return the file descriptor, or None if it is locked by a program or cannot be locked."""
    if sys.platform == "win32":  # which cannot lock folders
        return None
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_unfinished(parent: Path) -> None:
    """Remove temporary folders of `atomic_folder` that no running program has locked."""
    try:
        found = [path for path in parent.iterdir() if _UNFINISHED.fullmatch(path.name) and not path.is_symlink()]
    except OSError:  # missing, or not readable
        return
    for path in found:
        descriptor = _lock_folder(path, wait=False)
        if descriptor is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def _check_target(path: Path, overwrite: bool, find_obstacle: Callable[[Path], str | None], flag: str) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder; choose another {flag}")
    if not overwrite:
        raise UserError(f"{path}: already exists; --overwrite replaces it, or choose another {flag}")
    if obstacle := find_obstacle(path):
        raise UserError(f"{path}: is not replaced, because {obstacle}; choose another {flag}")


def _move_into_place(temporary: Path, final: Path, check: Callable[[], None]) -> None:
    """Rename a folder. An existing folder is exchanged with it, so that the final path exists at any time.

    Raises:
        UserError: If the final path has appeared or changed; the new folder is kept under another name.
    """
    try:
        check()
        if final.is_dir() and any(final.iterdir()):
            if not _exchange(temporary, final):
                _exchange_in_two_steps(temporary, final)
            return
        with contextlib.suppress(
            FileNotFoundError
        ):  # on Windows, renaming to an existing folder fails even if it is empty
            final.rmdir()
        temporary.rename(final)  # fails if something has appeared since the check
    except (UserError, OSError) as error:
        if not os.path.lexists(final):
            raise
        kept = final.with_name(f"{final.name[:_MAX_STEM]}-{temporary.suffixes[-2][1:]}")
        temporary.rename(kept)
        sync_folder(kept.parent)
        reason = str(error).partition(";")[0] if isinstance(error, UserError) else f"{final}: already exists"
        raise UserError(f"{reason}; this changed after the start, so the output is kept in {kept}") from error


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; returns False if it is not supported."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _exchange_in_two_steps(temporary: Path, final: Path) -> None:
    """Exchange two folders by renaming twice; `finish_exchange` recovers from a kill in between."""
    old = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_exchange(path: str | os.PathLike[str]) -> None:
    """Restore the folder that a program was replacing when it was killed between renaming twice.

    This is only needed if folders cannot be exchanged atomically. Does nothing if `path` exists.
    """
    final = Path(os.path.abspath(path))
    if not final.name:  # the root of a disk
        return
    old = final.with_name(f".{final.name}.replaced")
    if old.is_dir() and not final.exists():
        with contextlib.suppress(OSError):
            old.rename(final)
