"""Checks that a resumed run uses the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.training.loading import ImageDataset

MAX_IMAGE_FILES = 2_000  # image files of which the first bytes are hashed
MAX_ANNOTATION_FILES = 20_000  # annotation files that are hashed
MAX_SAMPLES = 64  # images whose objects are hashed if the data set does not name its files
HEAD_BYTES = 65_536  # hashed per image file
Identity = dict[str, Any]


def identify(dataset: ImageDataset) -> Identity:
    """Return the identity of a data set: classes, image ids and names, hashes of images and annotations.

    Files are compared by their contents, not by their paths, so data may be moved. If there are many files, evenly
    spaced ones are hashed. If a data set does not name its files, the objects of up to `MAX_SAMPLES` images are hashed,
    unless they are different each time they are read.
    """
    places = range(len(dataset))
    images = dict.fromkeys(each for i in places if (each := _image_file(*_origin(dataset, i))) is not None)
    annotations = dict.fromkeys(each for i in places for each in _annotation_files(*_origin(dataset, i)))
    return {
        "class_names": list(getattr(dataset, "class_names", ())),
        "image_ids": torch.tensor(dataset.image_ids, dtype=torch.int64),
        "image_names": list(dataset.image_names),
        "images": _hash_files(_spaced(list(images), MAX_IMAGE_FILES), HEAD_BYTES),
        "annotations": _hash_files(_spaced(list(annotations), MAX_ANNOTATION_FILES), None)
        if annotations
        else _hash_samples(dataset),
    }


def check_same_data(saved: Mapping[str, Identity], current: Mapping[str, Identity], source: str | Path) -> list[str]:
    """Check that a resumed run has the data of the saved run.

    Changed image files are not an error, because a run may have stopped at a file that was then repaired.

    Args:
        saved: identity of each part ("train", "test") when the checkpoint was saved.
        current: current identity of each part.
        source: name of the checkpoint in errors.

    Returns:
        A notice for each part with changed image files.

    Raises:
        UserError: If the data differs; names the first difference.
    """
    notices = []
    for part, before in saved.items():
        now = current.get(part)
        difference = "there are none now" if now is None else _difference(before, now)
        if difference is not None:
            raise UserError(
                f"cannot resume {source} with other data: of its {part} images, {difference}; bring the data back as "
                f"it was, or start a new run (--start_from={source} begins with these weights)"
            )
        if now is not None and now["images"] != before["images"]:
            notices.append(f"{part} images: some of the files have changed since the run was saved")
    return notices


def _difference(before: Identity, now: Identity) -> str | None:
    if before["class_names"] != now["class_names"]:
        return f"the classes were {_listed(before['class_names'])} and are now {_listed(now['class_names'])}"
    names = before["image_names"], now["image_names"]
    if len(names[0]) != len(names[1]):
        changed = sorted(set(names[0]) ^ set(names[1]))
        example = f", such as {changed[0]!r}" if changed else ""
        return f"there were {len(names[0])} and are now {len(names[1])} (changed: {len(changed)}{example})"
    for place, (old, new) in enumerate(zip(*names, strict=True)):
        if old != new:
            return f"number {place + 1} was {old!r} and is now {new!r}"
    ids: tuple[Tensor, Tensor] = before["image_ids"], now["image_ids"]
    if not torch.equal(*ids):
        place = int((ids[0] != ids[1]).nonzero()[0])
        return f"{names[0][place]!r} had the id {int(ids[0][place])} and has now {int(ids[1][place])}"
    if before["annotations"] != now["annotations"]:
        return "the annotations have changed since the run was saved (names and classes are the same)"
    return None


def _listed(class_names: Sequence[str]) -> str:
    return f"[{', '.join(class_names)}]"


def _origin(dataset: Any, index: int) -> tuple[Any, int]:
    """Resolve subsets and joined data sets to the data set that reads an image, and the index there."""
    while hasattr(dataset, "origin"):
        dataset, index = dataset.origin(index)
    return dataset, index


def _image_file(dataset: Any, index: int) -> Path | None:
    return dataset.image_file(index) if hasattr(dataset, "image_file") else None


def _annotation_files(dataset: Any, index: int) -> list[Path]:
    return dataset.annotation_files(index) if hasattr(dataset, "annotation_files") else []


def _spaced(paths: Sequence[Path], count: int) -> list[Path]:
    return [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else list(paths)


def _hash_files(paths: Iterable[Path], size: int | None) -> str:
    """Hash the lengths and contents (or the first `size` bytes) of files; missing files are hashed as such."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            with path.open("rb") as file:
                length = path.stat().st_size
                digest.update(length.to_bytes(8, "little"))
                if size is None:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
                else:
                    digest.update(file.read(size))
        except OSError:
            digest.update(b"missing")
    return digest.hexdigest()


def _hash_samples(dataset: ImageDataset) -> str | None:
    count = min(len(dataset), MAX_SAMPLES)
    places = [i * len(dataset) // count for i in range(count)]
    if _hash_objects(dataset[places[0]][1]) != _hash_objects(dataset[places[0]][1]):
        return None  # the objects are random
    return hashlib.blake2b(b"".join(_hash_objects(dataset[i][1]) for i in places), digest_size=16).hexdigest()


def _hash_objects(instances: Instances) -> bytes:
    digest = hashlib.blake2b(repr(tuple(instances.size)).encode())
    for values in (instances.boxes, instances.labels, instances.ignore):
        digest.update(values.numpy().tobytes())
    return digest.digest()
