"""Image files of a COCO annotation file, located by name or by the last component of the name."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

from datasets.readers.coco_index import CocoIndex
from maskrcnn.config import UserError

_log = logging.getLogger("datasets")


def find_images(folders: Sequence[Path], index: CocoIndex) -> tuple[Path, dict[int, Path]]:
    """Locate the image files.

    The image folder is the one that contains the first image of the list, or else the first that contains any. Images
    that are not there under their name are searched for by the last component of the name, percent-encoded or not, in
    all folders and their subfolders. Logs how many are missing.

    Args:
        folders: candidate folders.
        index: the annotations; `index.counts` is updated with the number of images found by their last component.

    Returns:
        The image folder, and, by image index, the paths of images that are not in it under their name.

    Raises:
        UserError: If no image is found, or a missing image has a name that points out of the folder.
    """
    names = [(name + suffix).replace("\\", "/") for name, suffix in zip(index.names, index.suffixes, strict=True)]
    plain = ["" if place in index.outside else name for place, name in enumerate(names)]
    there = [folder for folder in folders if os.path.isdir(folder)]
    folder, missing = _choose_folder(there, plain)
    found: dict[int, Path] = {}
    if missing:
        files = _Files(there)
        found = {place: path for place in missing if (path := files.find(names[place])) is not None}
        index.counts[f"of {len(names):,} images are found by the last component of their file name"] = len(found)
        missing = [place for place in missing if place not in found]
        if missing:
            holds_any = len(missing) < len(names)
            _report_missing(index, [folder] if holds_any else there or folders, names, missing, files)
    return folder, found


def _choose_folder(there: Sequence[Path], names: Sequence[str]) -> tuple[Path, list[int]]:
    """Return the folder and the indices of the images missing from it; any folder if none contains an image."""
    ordered = sorted(there, key=lambda folder: not (names[0] and os.path.isfile(folder / names[0])))
    for folder in ordered:
        missing = _missing(folder, names)
        if len(missing) < len(names) or (names[0] and os.path.isfile(folder / names[0])):
            return folder, missing
    return (ordered or [Path()])[0], list(range(len(names)))


def _missing(folder: Path, names: Sequence[str]) -> list[int]:
    """Return the indices of the files missing from the folder, from directory listings: faster than one stat each."""
    present: dict[str, set[str]] = {}
    missing = []
    for place, name in enumerate(names):
        inner, _, last = name.rpartition("/")
        if inner not in present:
            try:
                present[inner] = {normalize("NFC", each) for each in os.listdir(folder / inner)}
            except OSError:
                present[inner] = set()
        if not last or normalize("NFC", last) not in present[inner]:
            missing.append(place)
    return missing


class _Files:
    """Files in some folders and their subfolders, by the last component of their path."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._paths: dict[str, set[str]] = {}
        for folder in folders:
            for inner, _, files in os.walk(folder):
                for name in files:
                    path = os.path.normpath(os.path.join(inner, name))
                    self._paths.setdefault(normalize("NFC", name), set()).add(path)

    def find(self, name: str) -> Path | None:
        """Return the file whose name is the last component of this name, if there is exactly one."""
        for last in _last_parts(name):
            paths = self._paths.get(last, set())
            if len(paths) == 1:
                return Path(next(iter(paths)))
        return None

    def hint(self, name: str) -> str:
        """Return the reason why a file is not found, if it is known."""
        for last in _last_parts(name):
            if len(self._paths.get(last, ())) > 1:
                return f" (several files are named {last}: set --image_folder)"
            other = next((each for each in self._paths if each.lower() == last.lower()), None)
            if other is not None:
                return f" ({other} exists: upper and lower case differ)"
        return ""


def _last_parts(name: str) -> Iterator[str]:
    whole = (name, unquote(name), re.sub(r"[?#].*", "", name), unquote(re.sub(r"[?#].*", "", name)))
    lasts = (normalize("NFC", re.split(r"[/\\]", each)[-1]) for each in whole)
    yield from dict.fromkeys(each for each in lasts if each.strip("."))


def _report_missing(
    index: CocoIndex, folders: Sequence[Path], names: Sequence[str], missing: Sequence[int], files: _Files
) -> None:
    outside = next((place for place in missing if place in index.outside), None)
    if outside is not None:
        raise UserError(index.outside[outside])
    hint, where = files.hint(names[missing[0]]), ", ".join(map(str, folders))
    if len(missing) == len(names):
        raise UserError(
            f"{index.path}: none of its {len(names):,} images ({names[0]}, …) is in {where}{hint}; set --image_folder"
        )
    _log.warning("%s: %d of %d images are missing: %s%s", where, len(missing), len(names), names[missing[0]], hint)
