"""Training, validation and test sets: a data set's own splits, splits from a file, and random splits."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.config import DataConfig, ReadingConfig
from datasets.interface import DetectionDataset
from datasets.joined import JoinedDataset, join_class_names
from datasets.readers.splitting import SPLITS, EmptySplit, MissingSplit, draw_places, split_images
from datasets.registry import FORMATS, DatasetName, open_dataset
from datasets.selection import Subset
from maskrcnn.config import UserError
from maskrcnn.text import format_count

_SAMPLE = 4096  # bytes at each end of a file, which distinguish most files of the same size


@dataclass(frozen=True)
class Splits:
    """The splits of one data set, with notes on how they were made if that is not obvious."""

    train: DetectionDataset
    val: DetectionDataset | None
    test: DetectionDataset
    notes: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[DetectionDataset]:
        """The splits that there are."""
        return [part for part in (self.train, self.val, self.test) if part is not None]


def open_splits(
    named: DatasetName, root: str | Path, config: DataConfig, reading: ReadingConfig | None = None
) -> Splits:
    """Open the splits of one data set: those of `config.split_file`, or else its own; a missing test set is drawn.

    Raises:
        UserError: If the data set cannot be opened, or the split file is invalid, lists unknown images or leaves a
            split empty.
    """
    if config.split_file is not None and not _reads_split_file(named, root):
        return _split_by_file(named, root, config, reading)
    found = {split: _open(named, root, split, config, reading, config.split_file) for split in SPLITS}
    train, val, test = (found[split] for split in SPLITS)
    if train is None:  # raises the reader's own error
        train = open_dataset(named.text, root, "train")
    notes = []
    if named.is_class and test is not None and _are_same(train, test):
        notes.append(f"{named.text} gives the same images for 'train' and 'test'; set splits = ('train',) in the class")
        val, test = None, None
    if test is not None:
        if getattr(test, "is_drawn", False):  # by the reader
            notes.append(_describe_drawn(named.text, len(test), len(train) + len(test), config))
        return Splits(train, val, test, notes)
    drawn = draw_test_set(named.text, train, val, config)
    return replace(drawn, notes=[*notes, *drawn.notes])


def draw_test_set(name: str, train: DetectionDataset, val: DetectionDataset | None, config: DataConfig) -> Splits:
    """Draw the test set of a data set that has none from its training images.

    Raises:
        UserError: If there is only one image.
    """
    places = set(draw_places(train.image_names, config.test_fraction, config.split_seed, group_identical_images(train)))
    if not places:
        raise UserError(f"{name} has no test set, and one image cannot be split; add images")
    drawn = [Subset(train, [i for i in range(len(train)) if (i in places) == is_test]) for is_test in (False, True)]
    return Splits(drawn[0], val, drawn[1], [_describe_drawn(name, len(places), len(train), config)])


def _describe_drawn(name: str, count: int, total: int, config: DataConfig) -> str:
    return (
        f"{name} has no test set: {format_count(count, f'of {total:,} images are')} drawn for it "
        f"(--test_fraction={config.test_fraction:g}, --subsetseed={config.split_seed})"
    )


def _are_same(train: DetectionDataset, test: DetectionDataset) -> bool:
    """Whether two data sets have the same names and, at both ends, the same pixels: a class that ignores the split."""
    if list(train.image_names) != list(test.image_names):
        return False
    try:
        ends = [[dataset[place][0] for place in (0, -1)] for dataset in (train, test)]
    except UserError:  # raised again where the image is used
        return False
    return all(one.shape == other.shape and bool((one == other).all()) for one, other in zip(*ends, strict=True))


def _open(
    named: DatasetName,
    root: str | Path,
    split: str,
    config: DataConfig,
    reading: ReadingConfig | None = None,
    split_file: str | None = None,
) -> DetectionDataset | None:
    """Open one split; return None if the data set does not have it. An empty "val" is allowed, other splits are not."""
    try:
        return open_dataset(
            named.text,
            root,
            split,
            split_file,
            config.split_seed,
            config.cache_mb,
            reading,
            config.skip_bad,
            config.test_fraction,
        )
    except EmptySplit:
        if split == "val":
            return None
        raise
    except MissingSplit:
        return None


def _reads_split_file(named: DatasetName, root: str | Path) -> bool:
    """Return whether the reader itself uses the split file: for one folder of images without split folders."""
    takes = named.name in FORMATS and FORMATS[named.name].takes_split_file
    return takes and named.rest not in ("stage1", "stage2") and not (named.name == "labels" and _has_folders(root))


def _has_folders(root: str | Path) -> bool:
    return (Path(root) / "train").is_dir()


def _split_by_file(named: DatasetName, root: str | Path, config: DataConfig, reading: ReadingConfig | None) -> Splits:
    """Split all images of the data set, whatever their own split, according to `config.split_file`."""
    file = config.split_file
    assert file is not None
    opened = {split: _open(named, root, split, config, reading) for split in SPLITS}
    parts = {split: part for split, part in opened.items() if part is not None}
    if not parts:
        open_dataset(named.text, root, "train")
    whole: DetectionDataset = next(iter(parts.values()))
    if len(parts) > 1:
        with_masks = all(part.has_masks for part in parts.values())
        whole = JoinedDataset(list(parts.values()), list(parts), join_class_names(parts.values()), with_masks)
    names = whole.image_names
    listed = split_images(set(names), Path(root), Path(root), file, config.split_seed, config.test_fraction)
    place_of = {name: place for place, name in enumerate(names)}
    chosen = {split: Subset(whole, [place_of[name] for name in each]) for split, each in listed.items() if each}
    for split in ("train", "test"):
        if split not in chosen:
            raise UserError(f"{file}: the split has no image for '{split}'")
    return Splits(chosen["train"], chosen.get("val"), chosen["test"])


# ---- validation


def hold_out(
    train: DetectionDataset, fraction: float, seed: int, may_go: Sequence[bool] | None = None
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Hold out training images for validation.

    The choice depends only on the seed and the image names. Identical images are held out together.

    Args:
        train: the training set.
        fraction: fraction of the images to hold out.
        seed: random seed.
        may_go: which images may be held out. Default: all.

    Returns:
        The remaining training set, and the validation set, or None if there are too few images.
    """
    candidates = [place for place in range(len(train)) if may_go is None or may_go[place]]
    pool = Subset(train, candidates)
    drawn = (
        draw_places(pool.image_names, fraction, seed, group_identical_images(pool), "validation/") if fraction else []
    )
    if not drawn:
        return train, None
    held = [candidates[place] for place in drawn]
    kept = sorted(set(range(len(train))) - set(held))
    return Subset(train, kept), Subset(train, held)


# ---- counts of readers


def list_readers(dataset: DetectionDataset) -> list[DetectionDataset]:
    """List the readers behind a data set that is a concatenation or subset."""
    if isinstance(dataset, Subset):
        return list_readers(dataset.dataset)
    if isinstance(dataset, JoinedDataset):
        return [reader for part in dataset.parts for reader in list_readers(part)]
    return [dataset]


def collect_counts(splits: Mapping[str, DetectionDataset]) -> dict[str, Counter[str]]:
    """Collect the counts of the readers by split; splits that share a reader share its counts."""
    found: dict[int, tuple[list[str], Mapping[str, int]]] = {}
    for name, dataset in splits.items():
        for counter, own in _list_counts(dataset):
            names, _ = found.setdefault(id(counter), ([], own))
            names.append(name)
    counts: dict[str, Counter[str]] = {}
    for names, own in found.values():
        *others, last = dict.fromkeys(names)
        counts.setdefault(f"{', '.join(others)} and {last}" if others else last, Counter()).update(own)
    return counts


def _list_counts(dataset: DetectionDataset) -> Iterator[tuple[DetectionDataset, Mapping[str, int]]]:
    """Iterate over the readers and wrappers that count, each with its own counts alone."""
    for reader in list_readers(dataset):
        own = getattr(reader, "own_counts", None)  # of a wrapper such as `DeepImages`
        yield reader, reader.counts if own is None else own
        if own is not None:
            yield from _list_counts(reader.dataset)  # type: ignore[attr-defined]


# ---- identical images


def find_originals(train: DetectionDataset, others: Sequence[DetectionDataset]) -> list[int]:
    """Return the indices of the training images that are not copies of images in the other data sets.

    Raises:
        UserError: If all of them are copies.
    """
    groups = group_identical_images(train, *others)
    elsewhere = set(groups[len(train) :])
    kept = [place for place in range(len(train)) if groups[place] not in elsewhere]
    if not kept:
        raise UserError("all training images are copies of validation or test images; choose other data")
    return kept


def group_identical_images(*datasets: DetectionDataset) -> list[int]:
    """Return a group number per image of all data sets, the same for images with the same or identical files."""
    images = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    files = {number: file for number, image in enumerate(images) if (file := find_image_file(*image)) is not None}
    candidates = [list(files)]
    for fingerprint in (os.path.getsize, _read_ends, _hash):  # each reads more, of the files that may be identical
        finer: list[list[int]] = []
        for members in candidates:
            by_fingerprint: dict[int | bytes, list[int]] = {}
            for index in members:
                by_fingerprint.setdefault(fingerprint(files[index]), []).append(index)
            finer += [each for each in by_fingerprint.values() if len(each) > 1]
        candidates = finer
    groups = list(range(len(images)))
    for members in candidates:
        for index in members:
            groups[index] = members[0]
    return groups


def find_image_file(dataset: DetectionDataset, index: int) -> Path | None:
    """Return the file of an image; None if it has no separate, readable file."""
    while (origin := getattr(dataset, "origin", None)) is not None:
        dataset, index = origin(index)
    image_file = getattr(dataset, "image_file", None)
    if image_file is None:
        return None
    try:
        path = Path(image_file(index))
    except UserError:
        return None
    return path if path.is_file() and os.access(path, os.R_OK) else None


def _read_ends(path: Path) -> bytes:
    """Read the first and last bytes of a file."""
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        file.seek(max(0, os.path.getsize(path) - _SAMPLE))
        return start + file.read(_SAMPLE)


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
