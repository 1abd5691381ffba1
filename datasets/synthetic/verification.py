"""Verification of synthetic data sets: files against the manifest, annotations against label images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.readers.json_stream import JsonStream
from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.writer import hash_file, hash_pixels
from maskrcnn.config import UserError
from maskrcnn.images.large import open_pixels
from maskrcnn.images.reading import open_image_file


def read_manifest(folder: Path) -> dict[str, dict[str, str]]:
    """Read the hashes of all files, by path.

    Raises:
        UserError: If there is no valid manifest.
    """
    path = folder / "manifest.json"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): {str(kind): str(value) for kind, value in hashes.items()} for name, hashes in files.items()}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}), so files cannot be verified; for other data use --dataset=NAME"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: invalid manifest; create the data again") from error


def compare_file(folder: Path, name: str, hashes: dict[str, str]) -> str | None:
    """Compare one file with the manifest and return the problem, or None.

    An image that was saved again with the same pixels is reported as such.
    """
    path = folder / name
    try:
        if hash_file(path) == hashes.get("sha256"):
            return None
    except OSError as error:
        return f"{path}: is missing or cannot be read ({error.strerror})"
    if "pixels" not in hashes:
        return f"{path}: was modified (SHA-256 differs)"
    try:
        same = hash_pixels(_read_pixels(path)) == hashes["pixels"]
    except UserError as error:
        return str(error)
    return f"{path}: {'was saved again with the same pixels' if same else 'was modified (pixels differ)'}"


def find_unlisted_files(folder: Path, listed: dict[str, Any]) -> list[str]:
    """List the files in the folder that are not in the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    names = [path.relative_to(folder).as_posix() for path in files]
    return [f"{folder / name}: is not in the manifest" for name in names if name not in listed]


def check_annotations(folder: Path, split: str) -> Iterator[str | None]:
    """Check the annotations of a split; yield the problem or None for each image."""
    path = folder / split / "annotations.json"
    by_image: dict[int, dict[int, dict[str, Any]]] = {}
    images: dict[int, str] = {}
    with JsonStream(path) as stream:
        for entry in stream.entries(("images", "annotations")):
            try:
                if entry.key == "images":
                    images[int(entry.value["id"])] = str(entry.value["file_name"])
                    continue
                kept = {name: entry.value[name] for name in ("bbox", "area", "segmentation")}
                by_image.setdefault(int(entry.value["image_id"]), {})[int(entry.value["instance"])] = kept
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: invalid entry of '{entry.key}' ({error!r})") from error
    if unknown := by_image.keys() - images.keys():
        yield f"{path}: annotates image {min(unknown)}, which it does not list"
    for image, name in images.items():
        yield _check_image(folder / split / "labels" / f"{Path(name).stem}.png", by_image.get(image, {}))


def _check_image(path: Path, annotations: dict[int, dict[str, Any]]) -> str | None:
    try:
        labels = _read_pixels(path).astype(np.uint16)
    except UserError as error:
        return str(error)
    numbers, boxes, counts = native(reference.describe_labels)(labels)
    found = dict(zip(numbers.tolist(), zip(counts, boxes.tolist(), strict=True), strict=True))
    if found.keys() != annotations.keys():
        number = min(found.keys() ^ annotations.keys())
        where = "the label image but not in the annotations" if number in found else "the annotations but not here"
        return f"{path}: object {number} is in {where}"
    area = np.bincount(labels.ravel())
    for number, (code, (x1, y1, x2, y2)) in found.items():
        annotation = annotations[number]
        if annotation["segmentation"] != {"size": list(labels.shape), "counts": code}:
            return f"{path}: the mask of object {number} differs from the annotations"
        if annotation["bbox"] != [x1, y1, x2 - x1, y2 - y1]:
            return f"{path}: the box of object {number}, {annotation['bbox']}, is not that of its mask"
        if annotation["area"] != int(area[number]):
            return f"{path}: the area of object {number}, {annotation['area']}, is not that of its mask"
    return None


def _read_pixels(path: Path) -> NDArray[Any]:
    """Read the stored values of an image or label image, [H, W] or [H, W, C]."""
    if path.suffix == ".tif":
        with open_pixels(path) as image:
            stored = image.read(0, 0, *image.size).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(stored)
    with open_image_file(path) as file:
        return np.asarray(file).astype(np.uint16) if file.mode.startswith("I") else np.asarray(file)
