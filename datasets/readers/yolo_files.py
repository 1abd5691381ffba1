"""Files of a YOLO data set: its configuration (data.yaml, obj.data), class names, and the images of each part.

Paths in these files are often of another computer, or from a folder above. So a path is looked for inside the data
set's own folder alone: by its last components, as many as possible.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.plain_yaml import read_yaml
from datasets.readers.tables import quote, read_lines
from maskrcnn.config import UserError

PARTS = ("train", "val", "test")
_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_DARKNET = "obj.data"
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt", "train/classes.txt")
_WHOLE = ("images", "obj_train_data", ".")
_MAX_CLASSES = 100_000
_NOT_LABELS = {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"}
_README = re.compile(r"(readme|licen[sc]e|requirements|notes)\b.*", re.IGNORECASE)


@dataclass(frozen=True)
class YoloFiles:
    """Files of a YOLO data set in a folder.

    Attributes:
        root: the folder.
        config_file: data.yaml or obj.data, if there is one.
        config: its contents.
    """

    root: Path
    config_file: Path | None
    config: Mapping[str, Any]

    @staticmethod
    def find(root: Path) -> YoloFiles:
        """Find the configuration in a folder; raise a UserError if it is invalid."""
        for file in sorted(_list(root, (".yaml", ".yml")), key=lambda name: (name not in _YAML, name)):
            config = read_yaml(root / file)
            if _is_config(config):
                return YoloFiles(root, root / file, config)
        darknet = root / _DARKNET
        if darknet.is_file():
            pairs = (line.partition("=") for _, line in read_lines(darknet))
            config = {key.strip(): value.strip() for key, _, value in pairs}
            return YoloFiles(root, darknet, {key: value for key, value in config.items() if key != "names"})
        return YoloFiles(root, None, {})

    @property
    def has_key_points(self) -> bool:
        """Whether lines have key points after the box."""
        return self.config.get("kpt_shape") is not None

    @cached_property
    def classes(self) -> dict[int, str] | None:
        """Class names by number; None if no file has them."""
        names = self.config.get("names")
        if isinstance(names, Mapping | list) and names:
            found = dict(self._number_names(names))
            self._check_count(len(found))
            return found
        file = next((self.root / name for name in _CLASS_FILES if (self.root / name).is_file()), None)
        if file is not None:
            return dict(enumerate(name for _, name in read_lines(file)))
        count = self.config.get("nc")
        return None if count is None else {k: str(k) for k in range(self._parse(count, "'nc'"))}

    def _number_names(self, names: Mapping[str, Any] | list[Any]) -> Iterator[tuple[int, str]]:
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        for key, name in pairs:
            if not isinstance(name, str) or "\n" in name:
                raise UserError(f"{self.config_file}: name of class {key} is {quote(str(name))}; it must be text")
            yield self._parse(key, "class number"), name

    def _check_count(self, count: int) -> None:
        expected = self.config.get("nc")
        if expected is not None and self._parse(expected, "'nc'") != count:
            raise UserError(f"{self.config_file}: 'nc' is {expected}, but there are {count} names; correct one of them")

    def _parse(self, value: Any, what: str) -> int:
        if not re.fullmatch(r"\d{1,6}", str(value)) or int(value) > _MAX_CLASSES:
            raise UserError(f"{self.config_file}: {what} is {quote(str(value))}; it must be an integer from 0")
        return int(value)

    @cached_property
    def parts(self) -> dict[str, list[Path]]:
        """Folders and lists of images of each part, by "train", "val" and "test", of those that there are.

        Raises:
            UserError: If the configuration names training images that do not exist.
        """
        found = {part: list(self._find_configured(part)) for part in PARTS}
        found = {part: paths for part, paths in found.items() if paths}
        if found:
            if "train" in found and found.get("val") == found["train"]:
                del found["val"]  # as in the smallest examples of Ultralytics
            return found
        by_part = {part: _find_part(self.root, part) for part in PARTS}
        found = {part: [path] for part, path in by_part.items() if path is not None}
        if found:
            return found
        whole = (self.root / name for name in _WHOLE)
        return {"train": [next(path for path in whole if path.is_dir())]}

    def _find_configured(self, part: str) -> Iterator[Path]:
        """Yield the folders and lists that the configuration names for a part."""
        key = next((key for key in _SPELLINGS[part] if self.config.get(key)), None)
        entry = None if key is None else self.config[key]
        base = self.config.get("path")
        for each in entry if isinstance(entry, list) else [entry] * (entry is not None):
            if not isinstance(each, str):
                raise UserError(f"{self.config_file}: '{key}' must be a path or a list of paths")
            path = self._find_inside(each, base if isinstance(base, str) else "")
            if path is not None:
                yield path
            elif part == "train":  # Roboflow names a test set, too, where it exports none
                raise UserError(
                    f"{self.config_file}: '{key}' is {quote(each)}, which is not in {self.root}; correct the path"
                )

    def _find_inside(self, name: str, base: str = "") -> Path | None:
        """Find a file or folder by as many of the last components of its path as possible."""
        path = PurePosixPath(f"{base}/{name}".replace("\\", "/"))
        components = [each for each in path.parts if each not in ("/", "//", "..") and not each.endswith(":")]
        own = [each for each in PurePosixPath(name.replace("\\", "/")).parts if each not in ("/", "//", "..")]
        for start in range(len(components)):
            last = components[start:]
            if last == ["images"] and own != last:  # could be the images of any part
                return None
            if os.path.exists(found := self.root.joinpath(*last)):
                return found
        return None if components else self.root

    def list_images(self, part: str) -> list[Path]:
        """List the images of a part, sorted within each folder.

        Raises:
            UserError: If a list names an image that does not exist.
        """
        found: list[Path] = []
        for path in self.parts[part]:
            found += self._read_list(path) if path.suffix.lower() == ".txt" and path.is_file() else _walk(path)
        return list(dict.fromkeys(found))

    def _read_list(self, path: Path) -> list[Path]:
        images = []
        for line, text in read_lines(path):
            beside = path.parent / text.removeprefix("./")
            is_inside = not os.path.isabs(text) and ".." not in PurePosixPath(text).parts
            found = beside if is_inside and os.path.isfile(beside) else self._find_inside(text)
            if found is None or not found.is_file():
                raise UserError(f"{path}:{line}: image {quote(text)} is not in {self.root}; add it or remove the line")
            images.append(found)
        return images


def find_label_folder(root: Path, folder: Path) -> Path:
    """Return the folder of the labels of the images in a folder: `labels` in place of the last `images`, or itself."""
    components = list(folder.relative_to(root).parts)
    if "images" in components:
        at = len(components) - 1 - components[::-1].index("images")
        beside = root.joinpath(*components[:at], "labels", *components[at + 1 :])
        if beside.is_dir():
            return beside
    return folder


def list_label_names(folder: Path) -> set[str]:
    """List the names, without suffix, of the label files in a folder."""
    return {name[:-4] for name in _list(folder, (".txt",)) if name.lower() not in _NOT_LABELS}


def recognize(root: Path) -> str | None:
    """Return the file that shows that a folder is a YOLO data set; None if it is none."""
    try:
        files = YoloFiles.find(root)
        if files.config_file is not None:
            return files.config_file.name
        folders = [folder for paths in files.parts.values() for folder in paths]
    except UserError:
        return next((name for name in _YAML if (root / name).is_file()), None)
    for folder in folders:
        labels = find_label_folder(root, folder)
        for name in sorted(list_label_names(labels))[:20]:
            path = labels / f"{name}.txt"
            if not _README.fullmatch(name) and _starts_like_labels(path):
                return path.relative_to(root).as_posix()
    return None


def _is_config(config: Mapping[str, Any]) -> bool:
    return ("train" in config or "val" in config) and ("names" in config or "nc" in config)


def _find_part(root: Path, part: str) -> Path | None:
    for name in _SPELLINGS[part]:
        for folder in (root / "images" / name, root / name / "images", root / name):
            if folder.is_dir() and next(_iterate_images(folder), None) is not None:
                return folder
    return None


def _walk(folder: Path) -> list[Path]:
    """List the images in a folder and its subfolders."""
    found = []
    for inner, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        place = Path(inner)
        found += [place / name for name in sorted(names) if _is_image(name)]
    return found


def _iterate_images(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if _is_image(entry.name))
    except OSError:
        return


def _is_image(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _list(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name[0] != "." and name.lower().endswith(suffixes)]
    except OSError:
        return []


def _starts_like_labels(path: Path) -> bool:
    """Whether the first line is a class and at least four numbers."""
    try:
        with path.open("rb") as file:
            words = file.readline(1 << 16).split()
        values = [float(word) for word in words]
    except (OSError, ValueError):
        return False
    return len(values) >= 5 and values[0] >= 0 and values[0].is_integer() and all(abs(v) < 2 for v in values[1:])
