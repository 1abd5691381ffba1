"""Likely mistakes in data that can be read: the rules of `datasets.judgment`, and objects that match no anchor."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from datasets.interface import DetectionDataset
from datasets.judgment import Concern, find_repeated_images, judge
from datasets.notices import NAMES
from datasets.survey import Survey
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.coverage import compute_best_ious, resize_targets
from maskrcnn.programs import format_command
from maskrcnn.text import format_count

MAX_UNMATCHED = 0.05  # of the objects


def judge_splits(
    splits: Mapping[str, DetectionDataset], surveys: Mapping[str, Survey], dataset: str, folder: str
) -> list[tuple[str, Concern]]:
    """Return what looks wrong in the splits "train", "val" and "test", each with the name of the split in words.

    `dataset` and `folder` are the values of the options that open this data.
    """
    found = []
    for part, survey in surveys.items():
        concerns = judge(survey)
        unmatched = find_unmatched_objects(survey, dataset, folder)
        # Anchors cannot be judged if the boxes are not in pixels.
        if unmatched is not None and "tiny boxes" not in (each.rule for each in concerns):
            concerns.append(unmatched)
        found += [(f"{NAMES[part]} images", each) for each in concerns]
    repeated = find_repeated_images(splits) if splits else None
    return found + ([("images", repeated)] if repeated is not None else [])


def find_unmatched_objects(survey: Survey, dataset: str, folder: str) -> Concern | None:
    """Find objects for which all anchors of the default detector are negatives, with an IoU below `negative_iou`."""
    objects, config = survey.objects.targets(), DetectorConfig()
    sizes = torch.from_numpy(objects.sizes[objects.image])
    ious = compute_best_ious(resize_targets(torch.from_numpy(objects.boxes), sizes, config.image), config)
    unmatched = ious < config.rpn.negative_iou
    if not len(objects) or float(unmatched.float().mean()) <= MAX_UNMATCHED:
        return None
    worst = int(ious.argmin())
    width, height = objects.sides[worst]
    options = ["--write_config=anchors.toml", f"--dataset={dataset}", f"--dataset_root={folder}"]
    return Concern(
        "unmatched objects",
        format_count(int(unmatched.sum()), f"of {len(objects):,} objects match no anchor of the default detector")
        + f" at IoU {config.rpn.negative_iou:g}",
        f"image {survey.image_names[objects.image[worst]]}, {width:.4g} x {height:.4g} px",
        f"{format_command('describe', *options)} proposes anchors for them",
        is_note=True,
    )
