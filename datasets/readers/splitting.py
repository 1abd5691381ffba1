"""Assignment of images to the training, validation and test splits."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from unicodedata import normalize

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.tables import quote, read_table, read_text
from maskrcnn.config import UserError
from maskrcnn.text import format_count

SPLITS = ("train", "val", "test")
TEST_FRACTION = 0.25  # of the images, if no file defines the split
SPLIT_FILE, CLASS_FILE = "split.json", "classes.csv"
_CLASS_COLUMNS = ("filename", "foreground", "background")


class MissingSplit(UserError):  # noqa: N818  # callers catch it and draw the split
    """The data set does not have this split; callers may draw it or use another one."""


class EmptySplit(MissingSplit):
    """The split file lists no image for this split."""


def check_split(split: str, splits: tuple[str, ...] = SPLITS) -> None:
    """Raise a UserError if the name of a split is unknown."""
    if split not in splits:
        raise UserError(f"split '{split}' is unknown: use one of {', '.join(splits)}")


def is_drawn(beside: Path, split_file: str | Path | None) -> bool:
    """Whether `split_images` draws the test split with these arguments, instead of reading it from a JSON file."""
    file = _find_split_file(beside, split_file)
    return file is None or file.suffix.lower() == ".csv"


def _find_split_file(beside: Path, split_file: str | Path | None) -> Path | None:
    if split_file is not None:
        return Path(split_file)
    return next((path for path in (beside / SPLIT_FILE, beside / CLASS_FILE) if path.is_file()), None)


def split_images(
    known: Collection[str],
    folder: Path,
    beside: Path,
    split_file: str | Path | None,
    seed: int,
    test_fraction: float = TEST_FRACTION,
) -> dict[str, list[str]]:
    """Split images according to a file, or at random.

    A JSON file lists the names of each split; "val" and "test" are optional. A CSV file (columns filename, foreground,
    background) stratifies the random split by class.

    Args:
        known: names of the images.
        folder: their folder, for error messages.
        beside: folder in which `split.json` or `classes.csv` is searched for.
        split_file: file to use instead of these.
        seed: random seed.
        test_fraction: fraction of the images drawn for the test split; 0: none is drawn.

    Returns:
        Image names for "train", "val" and "test"; only the splits that a JSON file has, if it defines them.

    Raises:
        UserError: If the file is invalid, a JSON file lists an unknown image, or a CSV file lacks an image.
    """
    if not test_fraction and is_drawn(beside, split_file):
        return {"train": sorted(known)}
    file = _find_split_file(beside, split_file)
    if file is None:
        return draw_split(known, seed, test_fraction)
    if file.suffix.lower() == ".csv":
        return draw_by_class(_read_classes(file, known, folder), seed, test_fraction)
    split = _read_split(file, known)
    check_lists(split, known, file, folder)
    return split


def choose_split(listed: dict[str, list[str]], split: str, where: str | Path) -> list[str]:
    """Return the image names of a split.

    Raises:
        MissingSplit: If the split is not listed.
        EmptySplit: If it is listed without images.
    """
    if split not in listed:
        raise MissingSplit(f"{where}: its split file has no list '{split}'")
    if not listed[split]:
        raise EmptySplit(f"{where}: the split has no image for '{split}'")
    return listed[split]


def check_lists(split: dict[str, list[str]], known: Collection[str], file: Path, where: str | Path) -> None:
    """Check the lists of a split file.

    Args:
        split: image names by split.
        known: names of the images.
        file: the split file, for error messages.
        where: folder of the images, for error messages.

    Raises:
        UserError: If a name is unknown or in two splits.
    """
    seen: dict[str, str] = {}
    for part, names in split.items():
        for name in names:
            if name not in known:
                raise UserError(f"{file}: lists image {quote(name)}, which is not in {where}")
            if seen.setdefault(name, part) != part:
                raise UserError(f"{file}: image {quote(name)} is in both {seen[name]} and {part}")


def draw_split(names: Collection[str], seed: int, test_fraction: float = TEST_FRACTION) -> dict[str, list[str]]:
    """Draw the test split by a hash of seed and name; it has at least one of two or more images.

    The order of the names does not matter, and adding images hardly changes the split of the others.

    Args:
        names: image names.
        seed: random seed.
        test_fraction: fraction of the images drawn for the test split.

    Returns:
        Image names for "train", "val" (empty) and "test".
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
    """Draw a fraction of the images by a hash of seed, key and name; at least one of two or more.

    Args:
        names: image names.
        fraction: fraction of the images to draw.
        seed: random seed.
        groups: group number per image; images of one group are drawn together or not at all. Default: one group each.
        key: another key draws independently.

    Returns:
        Indices in ascending order; never those of all groups, so none if there is one group.
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
    """Draw the test split within each class of images.

    Args:
        classes: class of each image, by name.
        seed: random seed.
        test_fraction: fraction of the images drawn for the test split.

    Returns:
        Image names for "train", "val" (empty) and "test".
    """
    members: dict[tuple[str, ...], list[str]] = {}
    for name, kind in classes.items():
        members.setdefault(kind, []).append(name)
    parts = [draw_split(names, seed, test_fraction) for names in members.values()]
    return {key: sorted(name for part in parts for name in part[key]) for key in SPLITS}


def _digest(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _read_classes(path: Path, known: Collection[str], folder: Path) -> dict[str, tuple[str, ...]]:
    """Read the class of each known image. Rows of other images are skipped: such files may cover several data sets."""
    classes: dict[str, tuple[str, ...]] = {}
    spell = _make_speller(known)
    for line, (file_name, *kind) in read_table(path, _CLASS_COLUMNS):
        stem, dot, suffix = file_name.rpartition(".")
        name = stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else file_name
        name = spell(name)
        if name in classes:
            raise UserError(f"{path}:{line}: lists image {quote(name)} a second time; remove one of the rows")
        if name in known:
            classes[name] = tuple(kind)
    if missing := sorted(set(known) - classes.keys()):
        raise UserError(
            f"{path}: has no row for {format_count(len(missing), 'images')} of {folder}, such as {quote(missing[0])}"
        )
    return classes


def _make_speller(known: Collection[str]) -> Callable[[str], str]:
    """Return a function that maps a name in any Unicode normalization form to the known name."""
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
        if isinstance(data, dict) and key not in data and key != "train":
            continue
        names = data.get(key) if isinstance(data, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: has no list '{key}' of image names")
        split[key] = sorted(set(map(_make_speller(known), names)))
    return split
