"""Splits: which images are for training, which for validation and which for the test."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from unicodedata import normalize

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.tables import quoted, read_table, read_text
from maskrcnn.config import UserError

SPLITS = ("train", "val", "test")
TEST_FRACTION = 0.25  # of the images, where no file gives the split
SPLIT_FILE, CLASS_FILE = "split.json", "classes.csv"
_CLASS_COLUMNS = ("filename", "foreground", "background")


class MissingSplit(UserError):  # noqa: N818  # callers ask for what is missing, too
    """The data has no such split: it is drawn, or another one serves instead."""


class EmptySplit(MissingSplit):
    """A split file gives no image to this split."""


def check_split(split: str, splits: tuple[str, ...] = SPLITS) -> None:
    if split not in splits:
        raise UserError(f"split '{split}' is unknown: use one of {', '.join(splits)}")


def split_images(
    known: Collection[str],
    folder: Path,
    beside: Path,
    split_file: str | Path | None,
    seed: int,
    test_fraction: float = TEST_FRACTION,
) -> dict[str, list[str]]:
    """Names for "train", "val" and "test", of the images ``known`` in ``folder``.

    From ``split_file``, else the first of `split.json` and `classes.csv` in the folder ``beside``, else drawn from all.
    A JSON file lists the names ("val" may be missing); a CSV file has columns filename, foreground, background, and
    each kind of image gives ``test_fraction`` of its images to the test split.

    Raises:
        UserError: a file that is broken, names an image that is not there (JSON) or leaves one out (CSV).
    """
    given = [Path(split_file)] if split_file is not None else []
    found = given or [path for path in (beside / SPLIT_FILE, beside / CLASS_FILE) if path.is_file()]
    if not found:
        return draw_split(known, seed, test_fraction)
    if found[0].suffix.lower() == ".csv":
        return draw_by_class(_read_classes(found[0], known, folder), seed, test_fraction)
    split = _read_split(found[0], known)
    check_lists(split, known, found[0], folder)
    return split


def check_lists(split: dict[str, list[str]], known: Collection[str], file: Path, where: str | Path) -> None:
    """UserError for a name in a split that is not ``known`` in ``where``, or is in two lists."""
    seen: dict[str, str] = {}
    for part, names in split.items():
        for name in names:
            if name not in known:
                raise UserError(f"{file}: names image {quoted(name)}, which is not in {where}")
            if seen.setdefault(name, part) != part:
                raise UserError(f"{file}: image {quoted(name)} is in both {seen[name]} and {part}")


def draw_split(names: Collection[str], seed: int, test_fraction: float = TEST_FRACTION) -> dict[str, list[str]]:
    """``test_fraction`` of ``names`` (at least one of two or more) for the test split, by a hash of seed and name.

    The order of the names does not matter, and adding some hardly moves others.
    """
    ordered = sorted(names)
    test = set(draw_places(ordered, test_fraction, seed))
    drawn: dict[str, list[str]] = {split: [] for split in SPLITS}
    for place, name in enumerate(ordered):
        drawn["test" if place in test else "train"].append(name)
    return drawn


def draw_places(
    names: Sequence[str], fraction: float, seed: int, groups: Sequence[int] | None = None, key: str = ""
) -> list[int]:
    """Places of ``fraction`` of the images, by a hash of seed, key and name; at least one where there are two or more.

    Args:
        names: the images' names.
        fraction: share of the images to draw.
        seed: another seed draws other images.
        groups: a number per image; images of one group are drawn together or not at all. Default: each is its own.
        key: another key draws independently.

    Returns:
        Rising places; never those of all groups, and none where there is one group.
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(range(len(names)) if groups is None else groups):
        members.setdefault(group, []).append(place)
    ordered = sorted(members.values(), key=lambda places: _digest(seed, key + min(names[place] for place in places)))
    wanted, drawn = max(1, round(len(names) * fraction)), list[int]()
    for places in ordered[:-1]:
        if len(drawn) >= wanted:
            break
        drawn += places
    return sorted(drawn)


def draw_by_class(
    classes: dict[str, tuple[str, ...]], seed: int, test_fraction: float = TEST_FRACTION
) -> dict[str, list[str]]:
    """`draw_split` within each class of image; the names by image."""
    members: dict[tuple[str, ...], list[str]] = {}
    for name, kind in classes.items():
        members.setdefault(kind, []).append(name)
    parts = [draw_split(names, seed, test_fraction) for names in members.values()]
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
        names = data.get(key, [] if key == "val" else None) if isinstance(data, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: has no list '{key}' of image names")
        split[key] = sorted(set(map(_spelling(known), names)))
    return split
