"""Ground truth on a grid, and oracle detections with known errors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIZE = (200, 200)
NAMES = ("round", "square")


def make_grid(rows: int = 5, columns: int = 5, side: int = 10, num_classes: int = 1) -> Instances:
    """Squares with a gap of their own side between them, with masks; labels take turns."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x.flatten(), y.flatten()], dim=1).float() * 2 * side + side / 2
    boxes = torch.cat([corners, corners + side], dim=1)
    labels = torch.arange(len(boxes)) % num_classes + 1
    return with_boxes(Instances(SIZE, boxes, labels), boxes)


def with_boxes(instances: Instances, boxes: Tensor) -> Instances:
    return replace(instances, boxes=boxes, masks=CroppedMasks.from_boxes(boxes, SIZE))


def detect(targets: Instances, scores: Tensor | None = None) -> Instances:
    """Return perfect detections; by default their scores descend from .99."""
    given = 0.99 - 0.001 * torch.arange(len(targets)) if scores is None else scores
    return replace(targets, scores=given.float(), ignore=torch.zeros(len(targets), dtype=torch.bool))


def move(instances: Instances, index: list[int], dx: float, dy: float = 0.0) -> Instances:
    """Move some of the objects."""
    boxes = instances.boxes.clone()
    boxes[index] += torch.tensor([dx, dy, dx, dy])
    return with_boxes(instances, boxes)


def drop(instances: Instances, index: list[int]) -> Instances:
    kept = torch.ones(len(instances), dtype=torch.bool)
    kept[index] = False
    return instances[kept]


def double(instances: Instances, index: list[int], score: float = 0.5) -> Instances:
    """Add second detections of some objects, with lower scores."""
    assert instances.scores is not None
    again = instances[torch.tensor(index)]
    return Instances.cat([instances, replace(again, scores=torch.full((len(index),), score))])


def mislabel(instances: Instances, index: list[int], num_classes: int = 2) -> Instances:
    labels = instances.labels.clone()
    labels[index] = labels[index] % num_classes + 1
    return replace(instances, labels=labels)


def make_random(
    num_images: int = 4, count: int = 40, seed: int = 0
) -> tuple[dict[int, Instances], dict[int, Instances]]:
    """Objects of 2 to 60 px with some that are ignored, and detections with all kinds of errors and tied scores."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    targets, found = {}, {}
    for image in range(num_images):
        sides = (2 + 58 * rand(count, 2) ** 3).round()
        corners = (rand(count, 2) * (torch.tensor(SIZE) - sides)).round()
        boxes = torch.cat([corners, corners + sides], dim=1)
        labels = torch.randint(1, len(NAMES) + 1, (count,), generator=generator)
        target = with_boxes(Instances(SIZE, boxes, labels), boxes)
        again = torch.randint(count, (2 * count,), generator=generator)
        moved = (boxes[again] + 0.3 * sides[again].repeat(1, 2) * (rand(2 * count, 4) - 0.5)).round()
        moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 1)
        moved = moved.clamp(0, SIZE[0])
        wrong = rand(2 * count) < 0.15
        names = torch.where(wrong, 1 + labels[again] % len(NAMES), labels[again])
        detections = Instances(SIZE, moved, names, (rand(2 * count) * 20).round() / 20)
        kept = (moved[:, 2:] > moved[:, :2]).all(dim=1)
        targets[3 * image + 5] = replace(target, ignore=rand(count) < 0.1)
        found[3 * image + 5] = with_boxes(detections, moved)[kept]
    targets[3 * num_images + 5] = targets[5][:0]
    return targets, found
