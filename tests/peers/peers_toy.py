"""Scenes that judges and ours are asked about: ground truth, and detections that are good, bad, doubled and missing."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

CLASSES = ("cell", "nucleus", "debris")


def draw_disks(centers: Tensor, radii: Tensor, size: tuple[int, int]) -> CroppedMasks:
    """Masks of disks; of those outside the canvas, empty ones."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    apart = (x - centers[:, 0, None, None]) ** 2 + (y - centers[:, 1, None, None]) ** 2
    return CroppedMasks.from_dense(apart <= radii[:, None, None] ** 2)


def make_scene(seed: int, count: int = 25, size: tuple[int, int] = (150, 200)) -> tuple[Instances, Instances]:
    """Ground truth of one image, some of it ignored, and detections, with masks; radii of 1 to 65 px."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    centers, radii = rand(count, 2) * torch.tensor([size[1], size[0]]), 1 + 50 * rand(count) ** 3
    centers[0], radii[0] = centers.new_tensor([size[1] / 2, size[0] / 2]), 65.0  # COCO's "large"
    labels = torch.randint(1, len(CLASSES) + 1, (count,), generator=generator)
    targets = Instances.from_masks(draw_disks(centers, radii, size), labels, ignore=rand(count) < 0.15)
    again = torch.randint(count, (2 * count,), generator=generator)
    moved = centers[again] + radii[again, None] * 0.4 * (rand(2 * count, 2) - 0.5)
    masks = draw_disks(moved, radii[again] * (0.8 + 0.4 * rand(2 * count)), size)
    wrong = rand(2 * count) < 0.1
    found = Instances.from_masks(masks, torch.where(wrong, 1 + labels[again] % len(CLASSES), labels[again]))
    found = replace(found, scores=(rand(2 * count) * 20).round() / 20)  # with ties
    return targets[targets.has_mask()], found[found.has_mask()]


def make_scenes(num_images: int = 4, count: int = 25) -> tuple[Mapping[int, Instances], Mapping[int, Instances]]:
    """Ground truth and detections by image id; the last image has no detections, the one before it no objects."""
    scenes = [make_scene(seed, count) for seed in range(num_images)]
    targets = {10 * i + 3: scene[0] for i, scene in enumerate(scenes)}
    found = {10 * i + 3: scene[1] for i, scene in enumerate(scenes)}
    last, before = 10 * num_images + 3, 10 * num_images + 13
    targets[last], targets[before] = scenes[0][0], scenes[0][0][:0]
    found[last], found[before] = scenes[0][1][:0], scenes[0][1]
    return targets, found
