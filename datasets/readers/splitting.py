"""Which images of one folder are for training and which for the test."""

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from unicodedata import normalize

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.tables import quoted, read_table, read_text
from maskrcnn.config import UserError

SPLITS = ("train", "test")
TEST_SHARE = 0.25  # of the images, where no file gives the split
SPLIT_FILE, CLASS_FILE = "split.json", "classes.csv"
_CLASS_COLUMNS = ("filename", "foreground", "background")


def check_split(split: str, splits: tuple[str, ...] = SPLITS) -> None:
    if split not in splits:
        raise UserError(f"split '{split}' is unknown: use one of {', '.join(splits)}")


def split_images(
    known: Collection[str], folder: Path, beside: Path, split_file: str | Path | None, seed: int
) -> dict[str, list[str]]:
    """Names for "train" and "test", of the images ``known`` in ``folder``.

    From ``split_file``, else the first of `split.json` and `classes.csv` in the folder ``beside``, else drawn from all.
    A JSON file lists the names; a CSV file has columns filename, foreground, background, and each kind of image gives
    a quarter to the test split.

    Raises:
        UserError: a file that is broken, names an image that is not there (JSON) or leaves one out (CSV).
    """
    given = [Path(split_file)] if split_file is not None else []
    found = given or [path for path in (beside / SPLIT_FILE, beside / CLASS_FILE) if path.is_file()]
    if not found:
        return draw_split(known, seed)
    if found[0].suffix.lower() == ".csv":
        return draw_by_class(_read_classes(found[0], known, folder), seed)
    split = _read_split(found[0], known)
    for name in split["train"] + split["test"]:
        if name not in known:
            raise UserError(f"{found[0]}: names image {quoted(name)}, which is not in {folder}")
    if both := set(split["train"]) & set(split["test"]):
        raise UserError(f"{found[0]}: image {quoted(min(both))} is in both train and test")
    return split


def draw_split(names: Collection[str], seed: int) -> dict[str, list[str]]:
    """A quarter of ``names`` (at least one of two or more) for the test split, by a hash of seed and name.

    The order of the names does not matter, and adding some hardly moves others.
    """
    ordered = sorted(names, key=lambda name: _digest(seed, name))
    count = max(1, round(len(names) * TEST_SHARE)) if len(names) > 1 else 0
    return {"train": sorted(ordered[count:]), "test": sorted(ordered[:count])}


def draw_by_class(classes: dict[str, tuple[str, ...]], seed: int) -> dict[str, list[str]]:
    """`draw_split` within each class of image; the names by image."""
    members: dict[tuple[str, ...], list[str]] = {}
    for name, kind in classes.items():
        members.setdefault(kind, []).append(name)
    parts = [draw_split(names, seed) for names in members.values()]
    return {key: sorted(name for part in parts for name in part[key]) for key in SPLITS}


def _digest(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _read_classes(path: Path, known: Collection[str], folder: Path) -> dict[str, tuple[str, ...]]:
    """The class of each known image. Rows of others are passed over: such files describe more than is there."""
    classes: dict[str, tuple[str, ...]] = {}
    known_as = _spelling(known)
    for line, (file_name, *kind) in read_table(path, _CLASS_COLUMNS):
        stem, dot, suffix = file_name.rpartition(".")
        name = stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else file_name
        name = known_as(name)
        if name in classes:
            raise UserError(f"{path}:{line}: names image {quoted(name)} a second time; remove one of the rows")
        if name in known:
            classes[name] = tuple(kind)
    if missing := sorted(set(known) - classes.keys()):
        raise UserError(f"{path}: has no row for {len(missing)} images of {folder}, such as {quoted(missing[0])}")
    return classes


def _spelling(known: Collection[str]) -> Callable[[str], str]:
    """Names as the files have them, whichever of Unicode's forms they are given in."""
    own = {normalize("NFC", name): name for name in known if not name.isascii()}
    return lambda name: own.get(normalize("NFC", name), name)


def _read_split(path: Path, known: Collection[str]) -> dict[str, list[str]]:
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error
    split = {}
    for key in SPLITS:
        names = data.get(key) if isinstance(data, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: has no list '{key}' of image names")
        split[key] = sorted(set(map(_spelling(known), names)))
    return split
