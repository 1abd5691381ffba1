"""Samples whose objects have colours of their own, to see what becomes of each when samples are mixed."""

from dataclasses import replace

import torch
from ellipses_toy import scene
from masks_toy import check_sound
from torch import Tensor

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.warping import Sample

SIZE = (96, 112)
BACKGROUND = 0.1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colour_of(number: int) -> Tensor:
    """Of the object with this id: .3 to .7 in each channel, in steps of .1."""
    return 0.3 + 0.1 * (torch.tensor([1, 3, 11]) * number % 5)


def painted(instances: Instances) -> Sample:
    """The objects, each in its own colour, on a dark background."""
    image = torch.full((3, *instances.size), BACKGROUND)
    for mask, number in zip(instances.masks.to_dense(), instances.ids.tolist(), strict=True):
        image[:, mask] = colour_of(number)[:, None]
    return image, instances


def coloured(index: int, size: tuple[int, int] = SIZE) -> Sample:
    """A dozen ellipses apart from each other, with ids of which no two samples share one; masks of 0 and 255 alone."""
    truth = scene(12, size, (12, 24), apart=True, seed=index)
    masks = replace(truth.masks, data=(truth.masks.data >= 128).to(torch.uint8) * 255)
    return painted(replace(truth, masks=masks, ids=truth.ids + 100 * index, labels=1 + truth.ids % 3))


def blocks(*windows: tuple[int, int, int, int], size: tuple[int, int] = (8, 8), first: int = 0) -> Sample:
    """Filled windows x1 y1 x2 y2 as objects with ids from `first`."""
    corners = torch.tensor(windows, dtype=torch.int32).reshape(-1, 4)
    levels = [torch.full((y2 - y1, x2 - x1), 255, dtype=torch.uint8) for x1, y1, x2, y2 in windows]
    ids = torch.arange(first, first + len(windows))
    return painted(
        Instances.from_masks(CroppedMasks.from_windows(corners, levels, size), torch.ones_like(ids), ids=ids)
    )


def bare(sample: Sample) -> Sample:
    """Without masks."""
    return sample[0], replace(sample[1], masks=None)


def assert_same(first: Sample, second: Sample) -> None:
    (image, one), (other_image, other) = first, second
    assert image.dtype == other_image.dtype and torch.equal(image, other_image)
    for name in ("boxes", "labels", "ignore", "ids"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.masks.windows, other.masks.windows) and torch.equal(one.masks.data, other.masks.data)


def assert_sound(sample: Sample) -> None:
    image, instances = sample
    check_sound(instances.masks)
    assert tuple(image.shape[1:]) == instances.size == instances.masks.size
    assert (instances.masks.areas() > 0).all()
    assert torch.equal(instances.boxes, instances.masks.boxes())
    assert instances.boxes.dtype == torch.float32


def orientations(values: Tensor) -> list[Tensor]:
    """`[..., H, W]` in all eight orientations."""
    return [torch.rot90(each, turns, (-2, -1)) for each in (values, values.mT) for turns in range(4)]


def cut(values: Tensor, instances: Instances, index: int) -> Tensor:
    x1, y1, x2, y2 = instances.boxes[index].int().tolist()
    return values[..., y1:y2, x1:x2]
