"""Indexes of large annotation files, stored in the user's cache folder, so that the files open faster the next time.

An index is a NumPy archive of arrays without pickled objects. It is used only if nothing that it depends on has
changed: path, size, modification time, head and tail of the file, options, and the source code of the reader.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maskrcnn.files import atomic_write

MIN_SIZE = 8 << 20  # bytes; smaller files are read in about a second
MAX_TOTAL = 2 << 30  # bytes of all stored indexes; those that were not used for the longest time are removed
SETTLED_NS = 2_000_000_000  # files changed within this time may change again without another time stamp
_END = 1 << 16  # bytes of head and tail
_FACTS = "facts"  # name of the array that holds JSON
_log = logging.getLogger("datasets")
Array = NDArray[Any]


class IndexKey(NamedTuple):
    """Everything that an index depends on.

    Attributes:
        path: absolute path of the annotation file.
        size: its size in bytes.
        modified: its modification time in nanoseconds.
        ends: hash of its head and tail.
        options: options of the reader.
        code: hash of the source code of the reader.
    """

    path: str
    size: int
    modified: int
    ends: str
    options: str
    code: str

    @property
    def file(self) -> Path:
        """Return the path of the index: the same for all states of the annotation file."""
        name = hashlib.sha256(json.dumps([self.path, self.options]).encode()).hexdigest()[:32]
        return find_cache_folder() / f"{name}.npz"


class StoredIndex(NamedTuple):
    """Contents of an index: arrays by name, and facts that JSON can hold."""

    arrays: dict[str, Array]
    facts: dict[str, Any]


def find_cache_folder() -> Path:
    """Return the folder of the indexes: in `XDG_CACHE_HOME`, or else the user's cache folder of the platform.

    Raises:
        RuntimeError: If the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # a relative path is invalid by the XDG specification
        base = os.environ.get("LOCALAPPDATA", "") if sys.platform == "win32" else ""
    default = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(base or Path.home() / default, "smallobjects", "indexes")


def make_key(path: Path, options: Mapping[str, Any], sources: Sequence[str]) -> IndexKey | None:
    """Describe the state of an annotation file; None if its index is not worth storing, or cannot be trusted.

    That is, if the file is small, unreadable, or so new that it may change within the same time stamp.

    Args:
        path: the annotation file.
        options: options of the reader.
        sources: files with the source code of the reader.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size < MIN_SIZE or status.st_mtime_ns > time.time_ns() - SETTLED_NS:
                return None
            ends = hashlib.sha256(file.read(_END))
            file.seek(max(0, status.st_size - _END))
            ends.update(file.read(_END))
        code = hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources))
    except (OSError, ValueError):
        return None
    chosen = json.dumps(options, sort_keys=True)
    where = os.path.abspath(path)
    return IndexKey(where, status.st_size, status.st_mtime_ns, ends.hexdigest(), chosen, code.hexdigest())


def load_index(key: IndexKey, names: Sequence[str]) -> StoredIndex | None:
    """Load the index of a file; None if there is none, or it is damaged or of another state of the file.

    Args:
        key: state of the annotation file.
        names: names of the arrays.
    """
    try:
        with open(key.file, "rb") as file, np.load(file, allow_pickle=False) as archive:
            facts = json.loads(archive[_FACTS].tobytes())
            if facts.pop("key") != list(key):
                return None
            arrays = {name: archive[name] for name in names}
        os.utime(key.file)
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged files can raise any error
        _log.info("%s: its stored index is not used (%s); it is built again", key.path, " ".join(str(error).split()))
        return None
    return StoredIndex(arrays, facts)


def save_index(key: IndexKey, index: StoredIndex) -> None:
    """Save the index of a file. If the cache folder is not writable, this is logged, and nothing is saved."""
    try:
        facts = json.dumps({**index.facts, "key": list(key)}).encode()
        key.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(key.file) as temporary:
            np.savez(temporary, **index.arrays, **{_FACTS: np.frombuffer(facts, np.uint8)})  # type: ignore[arg-type]
        _remove_oldest(key.file.parent)
    except (OSError, RuntimeError) as error:
        _log.info("%s: its index cannot be stored (%s); set XDG_CACHE_HOME to a writable folder", key.path, error)


def _remove_oldest(folder: Path) -> None:
    """Remove the indexes that exceed `MAX_TOTAL`, except for the one used last."""
    states = sorted(((path.stat(), path) for path in folder.glob("*.npz")), key=lambda each: -each[0].st_mtime_ns)
    total = 0
    for place, (state, path) in enumerate(states):
        total += state.st_size
        if place and total > MAX_TOTAL:
            path.unlink(missing_ok=True)
