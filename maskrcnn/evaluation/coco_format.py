"""COCO's formats for datasets and results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.files import write_text
from maskrcnn.structures.categories import to_category_ids
from maskrcnn.structures.instances import Instances

BOXES_FILE, MASKS_FILE = "coco_boxes.json", "coco_masks.json"


def to_coco_dataset(
    targets: Mapping[int, Instances],
    class_names: Sequence[str],
    image_names: Mapping[int, str] | None = None,
    with_masks: bool = True,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Convert ground truth to a COCO dataset, a dict ready for JSON.

    Ignored objects get `iscrowd: 1`, the only flag that pycocotools respects. `area` is the number of mask pixels, or
    the area of the box if there is no mask.

    Args:
        targets: ground truth by image id.
        class_names: names of labels 1, 2, ...
        image_names: file names by image id.
        with_masks: whether to write masks; `area` is the same without them.
        category_ids: id of label 1, 2, ... (default: the labels).

    Raises:
        ValueError: If there is a label without an id, or the numbers of names and ids differ.
    """
    names = image_names or {}
    images = [
        {"id": int(i), "file_name": names.get(i, ""), "height": int(t.size[0]), "width": int(t.size[1])}
        for i, t in targets.items()
    ]
    ids = range(1, len(class_names) + 1) if category_ids is None else category_ids
    if len(ids) != len(class_names):
        raise ValueError(f"there are {len(class_names)} class names, but {len(ids)} category_ids")
    annotations = [entry for i, target in targets.items() for entry in _target_entries(int(i), target, with_masks, ids)]
    for number, entry in enumerate(annotations, start=1):  # pycocotools takes a matched id of 0 as "not matched"
        entry["id"] = number
    categories = [{"id": number, "name": name} for number, name in zip(ids, class_names, strict=True)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def to_coco_results(
    predictions: Mapping[int, Instances], with_masks: bool = True, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Convert predictions by image id to COCO's results format: bbox (x, y, w, h), score, category, and mask as RLE.

    Args:
        predictions: predictions by image id.
        with_masks: whether to write masks.
        category_ids: id of label 1, 2, ... (default: the labels).

    Raises:
        ValueError: If a prediction has no scores, or there is a label without an id.
    """
    return [
        entry
        for i, prediction in predictions.items()
        for entry in _result_entries(int(i), prediction, with_masks, category_ids)
    ]


def write_coco_results(
    folder: str | os.PathLike[str],
    predictions: Mapping[int, Instances],
    category_ids: Sequence[int] | None = None,
) -> list[Path]:
    """Write `BOXES_FILE` and, if predictions have masks, `MASKS_FILE` to a folder.

    Each file is written atomically. Entries with masks have no `bbox`, because pycocotools would compute the areas of
    masks from it.

    Args:
        folder: output folder.
        predictions: predictions by image id.
        category_ids: see `to_coco_results`.

    Returns:
        The paths of the files.
    """
    entries = to_coco_results(predictions, category_ids=category_ids)
    return write_coco_entries(folder, entries, any(each.masks is not None for each in predictions.values()))


def write_coco_entries(
    folder: str | os.PathLike[str], entries: Sequence[Mapping[str, Any]], with_masks: bool
) -> list[Path]:
    """Write entries of `to_coco_results` in the files that `write_coco_results` writes; return their paths."""
    paths = [Path(folder) / BOXES_FILE]
    without_masks = [{key: value for key, value in each.items() if key != "segmentation"} for each in entries]
    write_text(paths[0], json.dumps(without_masks))
    if with_masks:
        paths.append(Path(folder) / MASKS_FILE)
        without_boxes = [{key: value for key, value in each.items() if key != "bbox"} for each in entries]
        write_text(paths[1], json.dumps(without_boxes))
    return paths


def _target_entries(
    image_id: int, target: Instances, with_masks: bool, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    entries = _entries(image_id, target, with_masks, category_ids)
    for entry, ignore, area in zip(entries, target.ignore.tolist(), target.areas().tolist(), strict=True):
        entry["iscrowd"] = int(ignore)
        entry["area"] = area
    return entries


def get_scores(image_id: int, prediction: Instances) -> Tensor:
    """Return the scores of a prediction; raise a UserError if there are none."""
    if prediction.scores is None:
        raise UserError(f"prediction of image {image_id} has no scores; only detections can be evaluated")
    return prediction.scores


def _result_entries(
    image_id: int, prediction: Instances, with_masks: bool, category_ids: Sequence[int] | None
) -> list[dict[str, Any]]:
    scores = get_scores(image_id, prediction)
    entries = _entries(image_id, prediction, with_masks, category_ids)
    for entry, score in zip(entries, scores.tolist(), strict=True):
        entry["score"] = score
    return entries


def _entries(
    image_id: int, instances: Instances, with_masks: bool, category_ids: Sequence[int] | None
) -> list[dict[str, Any]]:
    boxes = instances.boxes.detach().to("cpu", torch.float64)
    corners_and_sizes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    entries: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category, "bbox": box}
        for category, box in zip(to_category_ids(instances.labels, category_ids), corners_and_sizes, strict=True)
    ]
    if with_masks and instances.masks is not None:
        for entry, rle in zip(entries, instances.masks.to_rle(), strict=True):
            entry["segmentation"] = rle
    return entries
