"""Listing of image files in folders, and lookup by name."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from datasets.checks import resolve_inside
from maskrcnn.config import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_MAX_DIGITS = 18  # that surely fit into int64


def list_names(folder: Path) -> list[str]:
    """List the names in a folder, sorted, without hidden ones.

    Raises:
        UserError: If the folder cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot list folder ({error.strerror}); check the data set") from error


def list_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the files with one of the suffixes (lower or upper case), sorted by name.

    Raises:
        UserError: If the folder cannot be listed.
    """
    return [folder / name for name in list_names(folder) if os.path.splitext(name)[1].lower() in suffixes]


def list_folders(folder: Path) -> list[str]:
    """List the names of the subfolders, sorted.

    Raises:
        UserError: If the folder cannot be listed.
    """
    return [name for name in list_names(folder) if (folder / name).is_dir()]


def index_by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Index files by their names without suffix, in Unicode normalization form NFC.

    Raises:
        UserError: If two files differ only in suffix.
    """
    found: dict[str, Path] = {}
    for path in files:
        stem = unicodedata.normalize("NFC", path.stem)
        if stem in found:
            raise UserError(f"{path}: differs from {found[stem].name} only in suffix; keep one of them")
        found[stem] = path
    return found


def resolve_unicode_form(path: Path) -> Path:
    """Return the path, or, if it does not exist, the existing path with another Unicode normalization form.

    Archives from macOS have "é" as two code points, annotation files as one.
    """
    if path.name.isascii() or os.path.exists(path):
        return path
    others = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.exists(other)), path)


def find_image(folder: Path, name: str, named_by: str) -> Path:
    """Return the path of an image in a folder, whatever its suffix (lower or upper case).

    Args:
        folder: the folder.
        name: file name without suffix.
        named_by: where the name comes from, for error messages.

    Returns:
        The path, or `name` with suffix .jpg if there is none.

    Raises:
        UserError: If the name points out of the folder.
    """
    stem = resolve_inside(folder, name, named_by)
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
    paths = [resolve_unicode_form(stem.with_name(stem.name + suffix)) for suffix in suffixes]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def derive_image_ids(names: Sequence[str]) -> list[int]:
    """Derive image ids from the digits of the names, as COCO converters do: "2007_000032" is 2007000032.

    If these are not unique, or names have no digits, the ids are 0, 1, …
    """
    digits = [re.sub("[^0-9]", "", name) for name in names]
    if all(0 < len(each) <= _MAX_DIGITS for each in digits):
        numbers = [int(each) for each in digits]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))


def check_pairs(images: dict[str, Path], labels: dict[str, Path], what: str) -> None:
    """Check that each image has labels and vice versa.

    Args:
        images: image files by name.
        labels: label files by name.
        what: what the label files are called in error messages, such as "labels".

    Raises:
        UserError: If an image has no labels, or labels have no image.
    """
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        path = images.get(alone[0]) or labels[alone[0]]
        problem = f"image has no {what} of that name" if alone[0] in images else f"{what} have no image of that name"
        more = f" ({len(alone)} such files)" if len(alone) > 1 else ""
        raise UserError(f"{path}: {problem}{more}; add it or remove this file")
