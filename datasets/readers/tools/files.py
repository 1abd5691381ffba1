"""Files of annotation tools: searched for in a folder, matched with images, parsed as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from datasets.readers.folders import IMAGE_SUFFIXES
from maskrcnn.config import UserError
from maskrcnn.text import describe_error

MAX_DEPTH = 6  # of folders
MAX_SNIFFED = 1 << 26  # bytes of a file that is read to recognize its format
_MAX_FILES_SNIFFED = 20


def walk(root: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the files with one of the suffixes (in lower case) in a folder and its subfolders, sorted by folder."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --dataset_root to the folder of the images and annotations")
    depth, seen = len(root.parts), set[str]()
    for folder, inner, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        is_end = real in seen or len(Path(folder).parts) - depth >= MAX_DEPTH  # links may lead in circles
        inner[:] = [] if is_end else sorted(name for name in inner if name[0] != ".")
        for name in [] if real in seen else sorted(files):
            if name[0] != "." and name.lower().endswith(tuple(suffixes)):
                yield Path(folder, name)
        seen.add(real)


def find_containing(root: Path, suffixes: Sequence[str], *markers: bytes) -> list[Path]:
    """Return the files with one of the suffixes that contain all of the markers."""
    return [path for path in walk(root, suffixes) if contains(path, *markers)]


def recognize_content(root: Path, suffixes: Sequence[str], *markers: bytes) -> str | None:
    """Return the first file that contains all of the markers, of the first few files with one of the suffixes."""
    for number, path in enumerate(walk(root, suffixes)):
        if contains(path, *markers):
            return path.relative_to(root).as_posix()
        if number + 1 >= _MAX_FILES_SNIFFED:
            break
    return None


def contains(path: Path, *markers: bytes) -> bool:
    """Whether a file contains all of the markers; false if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SNIFFED)
    except OSError:
        return False
    return all(marker in content for marker in markers)


class ImageFiles:
    """The image files in a folder, found by relative path or by the last component of their path."""

    def __init__(self, root: Path, without: Iterable[Path] = ()) -> None:
        self.root = root
        self.used: set[Path] = set()
        left = set(without)
        self.paths = [path for path in walk(root, (*IMAGE_SUFFIXES, ".webp", ".npy", ".jp2")) if path not in left]
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.paths:
            self._by_name.setdefault(normalize("NFC", path.name), []).append(path)
            for stem in dict.fromkeys((path.stem, path.name.partition(".")[0])):
                self._by_stem.setdefault(normalize("NFC", stem), []).append(path)

    def find(self, name: str, beside: Path) -> Path | None:
        """Return the image of a name in an annotation file; None if there is none, or several and none is nearest.

        Folders of the name are those of another machine where they lead nowhere; then its last component counts.

        Args:
            name: path, in the notation of any operating system.
            beside: folder of the annotation file.
        """
        plain = name.replace("\\", "/")
        for folder in (beside, self.root):
            path = Path(os.path.normpath(folder / plain)) if plain and "\0" not in plain else folder
            if path.is_relative_to(self.root) and os.path.isfile(path):  # Path.is_file raises for long names
                return self._use(path)
        last = normalize("NFC", PurePosixPath(plain).name)
        return self._use(_choose_nearest(self._by_name.get(last, []), beside))

    def find_by_stem(self, stem: str, beside: Path) -> Path | None:
        """Return the image whose file name without suffix this is."""
        return self._use(_choose_nearest(self._by_stem.get(normalize("NFC", stem), []), beside))

    def _use(self, path: Path | None) -> Path | None:
        if path is not None:
            self.used.add(path)
        return path

    def count_unused(self) -> int:
        """Number of images that no annotation file names."""
        return sum(path not in self.used for path in self.paths)


def _choose_nearest(paths: Sequence[Path], beside: Path) -> Path | None:
    """Return the path that shares the most folders with `beside`, wherever they are in the path; None if several do."""
    if len(paths) <= 1:
        return next(iter(paths), None)
    near = [os.path.commonpath([path.parent, beside]) for path in paths]
    shared = [
        (len(set(path.parent.parts) & set(beside.parts)), len(each)) for path, each in zip(paths, near, strict=True)
    ]
    best = [path for path, length in zip(paths, shared, strict=True) if length == max(shared)]
    return best[0] if len(best) == 1 else None


def name_images(paths: Sequence[Path], root: Path) -> list[str]:
    """Return unique names of images: their paths relative to the folder, without suffix where that is unique."""
    relative = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name for path in paths]
    short = [re.sub(r"\.[^./]+$", "", name) for name in relative]
    return short if len(set(short)) == len(short) else relative


# ---- JSON


def read_json(path: Path, content: bytes | None = None) -> Any:
    """Read a JSON file; NaN and infinity are read as numbers.

    Args:
        path: the file.
        content: its bytes, if they have been read or unpacked.

    Raises:
        UserError: If it cannot be read or is not JSON.
    """
    content = read_bytes(path) if content is None else content
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text ({error.reason}); check the data set") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not valid JSON ({error.msg}); check the data set") from error
    except (ValueError, RecursionError) as error:  # an integer of too many digits, or nested too deep
        reason = describe_error(error)
        raise UserError(f"{path}: is not valid JSON ({reason}); check the data set") from error


def read_bytes(path: Path) -> bytes:
    """Read a file; raise a UserError if that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check that it exists") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; check the data set") from error


def get_dict(value: Any) -> dict[str, Any]:
    """Return a value that must be an object of JSON.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object {…}")
    return value


def get_list(value: Any, name: str) -> list[Any]:
    """Return a value that must be a list.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, list):
        raise ValueError(f"'{name}' must be a list")
    return value


def get_name(value: Any, name: str) -> str:
    """Return a value that must be the name of a class: text that is not blank, or an integer.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:40]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has no class: '{name}' must be a name")
    return value.strip()


def get_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Return a size (H, W) named in a file; None if it names none."""
    sides = (height, width)
    if all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 31 for side in sides):
        return int(height), int(width)
    return None
