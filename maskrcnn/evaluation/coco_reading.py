"""Ground truth and detections from COCO's files."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class AnnotatedImages(NamedTuple):
    """Objects by image id, with the names and ids of their classes."""

    targets: Mapping[int, Instances]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        UserError: If it cannot be read or is not valid.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error


def read_coco_targets(path: str | os.PathLike[str]) -> AnnotatedImages:
    """Read a COCO annotation file; images need `height` and `width`. Crowds are ignored objects.

    Raises:
        UserError: If it is another kind of file, or an entry is invalid.
    """
    contents = read_json(path)
    keys = ("images", "annotations", "categories")
    if not isinstance(contents, dict) or not all(isinstance(contents.get(key), list) for key in keys):
        raise UserError(f"{path}: is no COCO annotation file, which has {', '.join(keys)}")
    try:
        sizes = {int(each["id"]): (int(each["height"]), int(each["width"])) for each in contents["images"]}
        categories = sorted(contents["categories"], key=lambda each: int(each["id"]))
        ids = tuple(int(each["id"]) for each in categories)
        names = tuple(str(each["name"]) for each in categories)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: an image or category has no valid {error}; images need id, height and width"
        ) from error
    return AnnotatedImages(_read_entries(path, contents["annotations"], sizes, ids, scored=False), names, ids)


def read_coco_results(
    path: str | os.PathLike[str], sizes: Mapping[int, tuple[int, int]], category_ids: Sequence[int]
) -> dict[int, Instances]:
    """Read a COCO results file: detections by image id, for all images.

    Args:
        path: the file.
        sizes: size (H, W) of each image of the ground truth.
        category_ids: ids of labels 1, 2, ...

    Raises:
        UserError: If it is another kind of file, has unknown images or categories, or scores that are not finite.
    """
    contents = read_json(path)
    if not isinstance(contents, list):
        raise UserError(f"{path}: is no COCO results file, which is a list of detections")
    return _read_entries(path, contents, sizes, tuple(category_ids), scored=True)


def _read_entries(
    path: str | os.PathLike[str],
    entries: Sequence[Any],
    sizes: Mapping[int, tuple[int, int]],
    category_ids: tuple[int, ...],
    scored: bool,
) -> dict[int, Instances]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or "image_id" not in entry or "category_id" not in entry:
            raise UserError(f"{where} has no image_id or category_id")
        if entry["image_id"] not in sizes:
            raise UserError(f"{where} is of image {entry['image_id']}, which the ground truth does not have")
        if entry["category_id"] not in category_ids:
            raise UserError(
                f"{where} has category_id {entry['category_id']}, which the ground truth does not have; it has "
                + ", ".join(map(str, category_ids[:8]))
            )
        score = entry.get("score")
        if scored and (not isinstance(score, int | float) or not math.isfinite(score)):
            raise UserError(f"{where} has the score {score}; detections need finite scores")
        if not entry.get("bbox") and not entry.get("segmentation"):
            raise UserError(f"{where} has neither bbox nor segmentation")
        by_image[entry["image_id"]].append(entry)
    with_masks = bool(entries) and any(entry.get("segmentation") for entry in entries)
    labels = {each: number for number, each in enumerate(category_ids, start=1)}
    found = {}
    for image_id, size in sizes.items():
        try:
            found[image_id] = _to_instances(by_image[image_id], size, labels, with_masks, scored)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: image {image_id}: {error}") from error
    return found


def _to_instances(
    entries: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    labels: Mapping[int, int],
    with_masks: bool,
    scored: bool,
) -> Instances:
    masks = _read_masks([entry.get("segmentation") or [] for entry in entries], size) if with_masks else None
    boxes = torch.zeros(len(entries), 4)
    if masks is not None:
        boxes = masks.boxes().float()
    for number, entry in enumerate(entries):
        if entry.get("bbox"):
            x, y, width, height = map(float, entry["bbox"])
            boxes[number] = torch.tensor([x, y, x + width, y + height])
    return Instances(
        size,
        boxes,
        torch.tensor([labels[entry["category_id"]] for entry in entries], dtype=torch.int64),
        torch.tensor([entry["score"] for entry in entries], dtype=torch.float64) if scored else None,
        masks,
        torch.tensor([not scored and bool(entry.get("iscrowd")) for entry in entries], dtype=torch.bool),
    )


def _read_masks(codes: Sequence[Any], size: tuple[int, int]) -> CroppedMasks:
    """Read polygons and run-length codes, in any mixture."""
    is_rle = [isinstance(code, dict) for code in codes]
    parts = [
        CroppedMasks.from_rle([code for code, rle in zip(codes, is_rle, strict=True) if rle], size),
        CroppedMasks.from_polygons([code for code, rle in zip(codes, is_rle, strict=True) if not rle], size),
    ]
    order = torch.argsort(torch.tensor([not rle for rle in is_rle]).int(), stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return CroppedMasks.cat(parts)[place]
