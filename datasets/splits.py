"""Training, validation and test images of a data set: its own splits, those of a file, and those that are drawn."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.chosen import Chosen
from datasets.config import DataConfig, ReadingConfig
from datasets.interface import DetectionDataset
from datasets.joined import Joined, joined_classes
from datasets.readers.splitting import SPLITS, EmptySplit, MissingSplit, draw_places, split_images
from datasets.registry import SOURCES, Named, open_dataset
from maskrcnn.config import UserError

_SAMPLE = 4096  # bytes at each end that tell most files of one size apart


@dataclass(frozen=True)
class Splits:
    """The splits of one data set, and how they came about where that is not plain, a line each."""

    train: DetectionDataset
    val: DetectionDataset | None
    test: DetectionDataset
    notes: list[str] = field(default_factory=list)


def open_splits(named: Named, root: str | Path, config: DataConfig, reading: ReadingConfig | None = None) -> Splits:
    """The splits of one data set: of `config.split_file`, else its own; a test set that is not there is drawn.

    Raises:
        UserError: as `open_dataset`; a split file that is broken, names unknown images or leaves a split empty.
    """
    if config.split_file is not None and not _reads_split_file(named, root):
        return _split_by_file(named, root, config, reading)
    found = {split: _open(named, root, split, config, reading, config.split_file) for split in SPLITS}
    train, val, test = (found[split] for split in SPLITS)
    if train is None:  # raises the reader's own error
        train = open_dataset(named.text, root, "train")
    notes = []
    if named.is_class and test is not None and _are_same(train, test):
        notes.append(f"{named.text} gives the same images for 'train' and 'test'; say splits = ('train',) in the class")
        val, test = None, None
    if test is not None:
        return Splits(train, val, test)
    places = set(draw_places(train.image_names, config.test_fraction, config.subsetseed, image_groups(train)))
    if not places:
        raise UserError(f"{root}: {named.text} has no test set, and one image cannot be split; add images")
    drawn = [Chosen(train, [i for i in range(len(train)) if (i in places) == is_test]) for is_test in (False, True)]
    note = (
        f"{named.text} has no test set: {len(places)} of its {len(train)} images are drawn for it "
        f"(--test_fraction={config.test_fraction:g}, --subsetseed={config.subsetseed})"
    )
    return Splits(drawn[0], val, drawn[1], [*notes, note])


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
    named: Named,
    root: str | Path,
    split: str,
    config: DataConfig,
    reading: ReadingConfig | None = None,
    split_file: str | None = None,
) -> DetectionDataset | None:
    """One split; None where the data has none. UserError for a split file that leaves it empty, but for "val"."""
    try:
        return open_dataset(
            named.text,
            root,
            split,
            split_file,
            config.subsetseed,
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


def _reads_split_file(named: Named, root: str | Path) -> bool:
    """Whether the reader itself splits by a file: one folder of images, without training and test folders."""
    takes = named.name in SOURCES and SOURCES[named.name].takes_split_file
    return takes and named.rest not in ("stage1", "stage2") and not (named.name == "labels" and _has_folders(root))


def _has_folders(root: str | Path) -> bool:
    return (Path(root) / "train").is_dir()


def _split_by_file(named: Named, root: str | Path, config: DataConfig, reading: ReadingConfig | None) -> Splits:
    """All images of the data, whatever their own split, as `config.split_file` says."""
    file = config.split_file
    assert file is not None
    opened = {split: _open(named, root, split, config, reading) for split in SPLITS}
    parts = {split: part for split, part in opened.items() if part is not None}
    if not parts:
        open_dataset(named.text, root, "train")
    whole: DetectionDataset = next(iter(parts.values()))
    if len(parts) > 1:
        with_masks = all(part.has_masks for part in parts.values())
        whole = Joined(list(parts.values()), list(parts), joined_classes(parts.values()), with_masks)
    names = whole.image_names
    listed = split_images(set(names), Path(root), Path(root), file, config.subsetseed, config.test_fraction)
    place_of = {name: place for place, name in enumerate(names)}
    chosen = {split: Chosen(whole, [place_of[name] for name in each]) for split, each in listed.items() if each}
    for split in ("train", "test"):
        if split not in chosen:
            raise UserError(f"{file}: the split leaves no image for '{split}'")
    return Splits(chosen["train"], chosen.get("val"), chosen["test"])


# ---- validation


def hold_out(
    train: DetectionDataset, fraction: float, seed: int, may_go: Sequence[bool] | None = None
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """The training images without those held out for validation, and these; None where too few are there.

    Which images are held out depends on the seed and their names alone; images that are the same file, or copies, are
    held out together. `may_go` tells which images may be held out (default: all).
    """
    candidates = [place for place in range(len(train)) if may_go is None or may_go[place]]
    pool = Chosen(train, candidates)
    drawn = draw_places(pool.image_names, fraction, seed, image_groups(pool), "validation/") if fraction else []
    if not drawn:
        return train, None
    held = [candidates[place] for place in drawn]
    kept = sorted(set(range(len(train))) - set(held))
    return Chosen(train, kept), Chosen(train, held)


# ---- what readers counted


def readers_of(dataset: DetectionDataset) -> list[DetectionDataset]:
    """What reads the images of a data set that is joined or chosen from others."""
    if isinstance(dataset, Chosen):
        return readers_of(dataset.dataset)
    if isinstance(dataset, Joined):
        return [reader for part in dataset.parts for reader in readers_of(part)]
    return [dataset]


def counts_by_split(splits: Mapping[str, DetectionDataset]) -> dict[str, Counter[str]]:
    """What reading dropped or clipped so far, by split; splits that share a reader share its counts."""
    found: dict[int, tuple[list[str], DetectionDataset]] = {}
    for name, dataset in splits.items():
        for reader in readers_of(dataset):
            names, _ = found.setdefault(id(reader), ([], reader))
            names.append(name)
    counts: dict[str, Counter[str]] = {}
    for names, reader in found.values():
        *others, last = dict.fromkeys(names)
        counts.setdefault(f"{', '.join(others)} and {last}" if others else last, Counter()).update(reader.counts)
    return counts


# ---- images that are one


def find_originals(train: DetectionDataset, others: Sequence[DetectionDataset]) -> list[int]:
    """Places of the training images that are no copies of images in the other data sets.

    Raises:
        UserError: all of them are copies.
    """
    groups = image_groups(train, *others)
    elsewhere = set(groups[len(train) :])
    kept = [place for place in range(len(train)) if groups[place] not in elsewhere]
    if not kept:
        raise UserError("all training images are copies of validation or test images; choose other data")
    return kept


def image_groups(*datasets: DetectionDataset) -> list[int]:
    """A number per image of all data sets, the same for images that are one file or whose files hold the same bytes."""
    images = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    files = {number: file for number, image in enumerate(images) if (file := file_of(*image)) is not None}
    alike = [list(files)]
    for fingerprint in (os.path.getsize, _read_ends, _hash):  # each reads more, of the files that are alike so far
        finer: list[list[int]] = []
        for members in alike:
            by_fingerprint: dict[int | bytes, list[int]] = {}
            for index in members:
                by_fingerprint.setdefault(fingerprint(files[index]), []).append(index)
            finer += [each for each in by_fingerprint.values() if len(each) > 1]
        alike = finer
    groups = list(range(len(images)))
    for members in alike:
        for index in members:
            groups[index] = members[0]
    return groups


def file_of(dataset: DetectionDataset, index: int) -> Path | None:
    """The file of an image; None where it has none of its own, or none that can be read."""
    while (origin := getattr(dataset, "origin", None)) is not None:
        dataset, index = origin(index)
    named = getattr(dataset, "image_file", None)
    if named is None:
        return None
    try:
        path = Path(named(index))
    except UserError:
        return None
    return path if path.is_file() and os.access(path, os.R_OK) else None


def _read_ends(path: Path) -> bytes:
    """The first and the last bytes of a file."""
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        file.seek(max(0, os.path.getsize(path) - _SAMPLE))
        return start + file.read(_SAMPLE)


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
