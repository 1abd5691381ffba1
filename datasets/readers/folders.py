"""Which image files lie in a folder, and what they are called."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from datasets.checks import inside_folder
from maskrcnn.config import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_MOST_DIGITS = 18  # of an int64


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted, hidden names left out. UserError if it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a folder ({error.strerror}); check the data set") from error


def files_in(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Paths with one of the suffixes, in capitals too, sorted by name. UserError as `names_in`."""
    return [folder / name for name in names_in(folder) if os.path.splitext(name)[1].lower() in suffixes]


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted. UserError as `names_in`."""
    return [name for name in names_in(folder) if (folder / name).is_dir()]


def by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Files by their names without suffix, in Unicode's form NFC; UserError if two have the same."""
    found: dict[str, Path] = {}
    for path in files:
        stem = unicodedata.normalize("NFC", path.stem)
        if stem in found:
            raise UserError(f"{path}: {found[stem].name} has the same name but for the suffix; keep one of them")
        found[stem] = path
    return found


def in_any_form(path: Path) -> Path:
    """The path, or, where it is not there, the one whose name is the same text in another of Unicode's forms.

    Archives made on a Mac have "é" as two signs, annotation files as one.
    """
    if path.name.isascii() or os.path.exists(path):
        return path
    others = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.exists(other)), path)


def image_named(folder: Path, name: str, named_by: str) -> Path:
    """The image ``name`` (without suffix, from an annotation at ``named_by``) in a folder; .jpg where none is there.

    Suffixes may be in capitals.

    UserError for a name that leads out of the folder.
    """
    stem = inside_folder(folder, name, named_by)
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
    paths = [in_any_form(stem.with_name(stem.name + suffix)) for suffix in suffixes]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def ids_of(names: Sequence[str]) -> list[int]:
    """The digits of each name as its number, as COCO's converters do ("2007_000032" is 2007000032).

    If these are not all different, or there are names without digits, the places from 0.
    """
    digits = [re.sub("[^0-9]", "", name) for name in names]
    if all(0 < len(each) <= _MOST_DIGITS for each in digits):
        numbers = [int(each) for each in digits]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))


def check_pairs(images: dict[str, Path], labels: dict[str, Path], what: str) -> None:
    """UserError that names the first image without ``what`` (such as "labels"), or the first of these without image."""
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        path = images.get(alone[0]) or labels[alone[0]]
        said = f"image has no {what} of that name" if alone[0] in images else f"{what} have no image of that name"
        more = f" ({len(alone)} such files)" if len(alone) > 1 else ""
        raise UserError(f"{path}: {said}{more}; add it or remove this one")
