"""Arguments of every operation, drawn at random, for tests that hold kernels equal to their definitions."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
from masks_toy import random_masks
from torch import Tensor

from maskrcnn.ops import matching, reference, reference_images, reference_masks, reference_rle
from maskrcnn.ops.masks import clip_windows
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.ops.windows import window_offsets

NAN, INF = float("nan"), float("inf")
Arguments = tuple[Any, ...]


def random_boxes(random: Random, count: int, side: float = 64, whole: bool | None = None) -> Tensor:
    """Boxes of 0 to 12 px, half of the draws on whole pixels with ties, some broken, empty, inverted or doubled."""
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    corner = torch.rand(count, 2, generator=generator) * side
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 12], dim=1)
    boxes = boxes.round() if (random.random() < 0.5 if whole is None else whole) else boxes
    return boxes


def broken(boxes: Tensor) -> Tensor:
    """With doubled, empty, inverted and non-finite boxes among them."""
    if len(boxes) >= 8:
        boxes[1], boxes[3] = boxes[0], boxes[2].flip(0)
        boxes[4, 2:] = boxes[4, :2]
        boxes[5, 0], boxes[6, 3] = NAN, INF
        boxes[7] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    return boxes


def nms(random: Random) -> Arguments:
    count = random.choice([0, 1, 2, 30, 300])
    groups = torch.tensor([random.randrange(random.choice([1, 50])) - 5 for _ in range(count)], dtype=torch.int64)
    # IoUs of whole boxes hit these thresholds: .7 is rounded down to float32, .2, .3 and .6 are rounded up.
    return broken(random_boxes(random, count, 30)), groups, random.choice([0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 1.0])


def pairs_of_whole_boxes(origin: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pairs of boxes float32 `[2 * N, 4]` with every IoU of sides up to 20 px, and groups that keep the pairs apart."""
    pairs = []
    for one in range(1, 21):
        for other in range(1, one + 1):
            pairs.append([(0, 0, one, 3), (0, 0, other, 3)])  # IoU other / one
            pairs.append([(0, 0, 3, one), (0, one - other, 3, 2 * one - other)])  # IoU other / (2 one - other)
    boxes = torch.tensor(pairs, dtype=torch.float32).view(-1, 4) + origin
    return boxes, torch.arange(len(boxes)) // 2


def match_boxes(random: Random) -> Arguments:
    priors, truths = (broken(random_boxes(random, random.choice([0, 1, 9, 80]))) for _ in range(2))
    return priors, truths, random.choice([0.0, 0.1, 0.3, 0.5, 1.0]), random.randrange(3)


def match_anchors(random: Random) -> Arguments:
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    whole, finest = random.random() < 0.5, random.choice([2, 4, 8])
    levels = []
    for stride in [finest, finest * 2, finest * 4][: random.randint(1, 3)]:
        sizes = torch.rand(random.randint(1, 3), 2, generator=generator) * 40 + 0.5
        offset = random.choice([0.0, 0.5]) * stride
        steps = (float(stride), float(stride + random.choice([0, 0, 1])))
        cells = (random.randint(0, 64) // stride + 1, random.randint(0, 64) // stride + random.choice([0, 1, 1]))
        levels.append(AnchorLevel(steps, (offset, offset), sizes.ceil() if whole else sizes, *cells))
    truths = broken(random_boxes(random, random.choice([0, 1, 9, 60]), whole=whole))
    return *matching._grids(levels), truths, random.choice([0.0, 0.1, 0.3, 0.5, 1.0]), random.randrange(3)


def _features(random: Random, count: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    batch, channels = random.choice([1, 2]), random.choice([1, 3, 16, 20, 48])
    sides = [(random.randint(1, 24), random.randint(1, 24)) for _ in range(count)]
    return [torch.randn(batch, *side, channels, generator=generator).to(dtype) for side in sides]


def roi_align(random: Random, dtype: torch.dtype = torch.float32) -> Arguments:
    features = _features(random, random.choice([1, 2, 3]), dtype)
    count = random.choice([0, 1, 7, 40])
    boxes = random_boxes(random, count, 40) - random.choice([0, 8])
    if count > 6:
        boxes[1, 2:] = boxes[1, :2]
        boxes[2], boxes[3] = boxes[2].flip(0), boxes[3] * 30
    images, levels = (
        torch.tensor([random.randrange(n) for _ in range(count)], dtype=torch.int64)
        for n in (len(features[0]), len(features))
    )
    strides = [float(2**i) for i in range(1, len(features) + 1)]
    return (
        features,
        boxes,
        images,
        levels,
        strides,
        [random.choice([1, 2, 7]), random.choice([1, 3, 7])],
        random.choice([0, 1, 2]),
        random.random() < 0.5,
    )


def crop_and_resize(random: Random, dtype: torch.dtype = torch.float32) -> Arguments:
    (features,) = _features(random, 1, dtype)
    count = random.choice([0, 1, 7, 40])
    boxes = random_boxes(random, count, 40, whole=False) / 45 - random.choice([0.0, 0.2])
    if count > 6:
        boxes[0], boxes[1] = torch.tensor([0.0, 0, 1, 1]), boxes[1].flip(0)
    images = torch.tensor([random.randrange(len(features)) for _ in range(count)], dtype=torch.int64)
    return features, boxes, images, random.choice([1, 2, 7]), random.choice([0.0, -3.0])


def sample_masks(random: Random) -> Arguments:
    masks = random_masks(random.choice([1, 8, 40]), seed=random.randrange(1000), soft=random.random() < 0.5)
    count = random.choice([0, 1, 30])
    boxes = random_boxes(random, count, 30) - 3
    index = torch.tensor([random.randrange(len(masks)) for _ in range(count)], dtype=torch.int64)
    settings = (random.choice([1, 7, 14]), random.choice([0, 1, 2]), random.random() < 0.5, random.random() < 0.5)
    return *masks.parts, *masks.size, boxes, index, *settings


def paste_masks(random: Random) -> Arguments:
    count, side = random.choice([0, 1, 25]), random.choice([1, 2, 7, 28])
    boxes = random_boxes(random, count, 30) - 3
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    windows = clip_windows(torch.cat([(boxes[:, :2] - 0.5).ceil(), (boxes[:, 2:] - 0.5).ceil()], dim=1).int(), (23, 31))
    return torch.rand(count, side, side, generator=generator), boxes, windows, window_offsets(windows)


def warp_masks(random: Random) -> Arguments:
    masks = random_masks(random.choice([0, 1, 30]), seed=random.randrange(1000), soft=True)
    windows = clip_windows((random_boxes(random, len(masks), 30) - 3).int(), (23, 31))
    return *masks.parts, way_back(random), windows, window_offsets(windows), random.choice([1, 1, 2, 3])


def way_back(random: Random) -> Tensor:
    """float64 `[2, 3]`: a shear, a turn by a quarter, a mirror, a shift by whole pixels, or far from all of these."""
    kind = random.randrange(4)
    matrix = torch.tensor([[random.gauss(kind == 0, 0.5) for _ in range(3)] for _ in range(2)], dtype=torch.float64)
    matrix[1, 1] += kind == 0
    if kind == 1:
        matrix = torch.tensor([[random.choice([-1.0, 1]), 0, 0], [0, random.choice([-1.0, 1]), 0]]).double()
        matrix[:, :2] = matrix[:, :2].flip(random.sample([0], random.randrange(2)))
        matrix[:, 2] = torch.tensor([random.randrange(-9, 30), random.randrange(-9, 30)])
    elif kind == 2:
        matrix *= 10 ** random.uniform(-3, 3)
    matrix[:, 2] += random.gauss(8, 5) if kind != 1 else 0
    return matrix


def warp_image(random: Random, dtype: torch.dtype | None = None) -> Arguments:
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    channels, *size = random.choice([0, 1, 3, 5]), *(random.choice([1, 2, 3, 24, 40]) for _ in range(2))
    dtype = dtype or random.choice([torch.uint8, torch.float32])
    image = torch.randint(0, 256, (channels, *size), generator=generator, dtype=torch.uint8)
    image = image if dtype == torch.uint8 else torch.randn(image.shape, generator=generator)
    new_size = (random.choice([0, 1, 9, 70]), random.choice([0, 1, 11, 33, 300]))
    return image, way_back(random), *new_size, random.randrange(3), random.choice([1, 1, 2, 3, 5])


def measure_masks(random: Random) -> Arguments:
    windows, offsets, data = _with_a_large_one(random, _masks(random))
    if random.random() < 0.3:
        data = 127 + (data >= 128).to(torch.uint8)
    return windows - random.choice([0, 0, 40]), offsets, data


def pick_masks(random: Random) -> Arguments:
    masks = _with_a_large_one(random, _masks(random))
    count = random.choice([0, 1, 30]) if len(masks[0]) else 0
    return *masks, torch.tensor([random.randrange(len(masks[0])) for _ in range(count)], dtype=torch.int64)


def mask_iou(random: Random) -> Arguments:
    return *_masks(random), *_masks(random)


def label_image(random: Random) -> Arguments:
    return *_masks(random), 23, 31, random.choice([0.0, 0.5, 0.9, 1.0])


def masks_from_label_image(random: Random) -> Arguments:
    masks = random_masks(random.choice([0, 1, 40]), seed=random.randrange(1000))
    ids = list(range(-1, 45))
    random.shuffle(ids)
    return masks.to_label_image()[0], torch.tensor(ids[: random.randint(0, 46)], dtype=torch.int64)


def encode_rle(random: Random) -> Arguments:
    return *_masks(random), 23, 31


def decode_rle(random: Random) -> Arguments:
    text, offsets = reference_rle.encode_rle(*_masks(random), 23, 31)
    if len(text) and random.random() < 0.3:
        text[random.randrange(len(text))] = random.randrange(256)
    return text, offsets, 23, 31


def _masks(random: Random) -> tuple[Tensor, Tensor, Tensor]:
    return random_masks(random.choice([0, 1, 8, 40]), seed=random.randrange(1000), soft=random.random() < 0.5).parts


def _with_a_large_one(random: Random, masks: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One time in five: a few pixels in many."""
    if random.random() < 0.8:
        return masks
    windows = torch.cat([masks[0], torch.tensor([[5, 7, 205, 307]], dtype=torch.int32)])
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    levels = torch.randint(0, 128, (200 * 300,), generator=generator, dtype=torch.uint8)
    levels[[random.randrange(len(levels)) for _ in range(random.randrange(4))]] = 128
    return windows, window_offsets(windows), torch.cat([masks[2], levels])


DEFINITIONS: dict[str, Callable[..., Any]] = {
    name: getattr(module, name)
    for module, names in (
        (reference, ("nms", "match_boxes", "match_anchors", "roi_align", "crop_and_resize")),
        (
            reference_masks,
            (
                "sample_masks",
                "paste_masks",
                "warp_masks",
                "measure_masks",
                "pick_masks",
                "mask_iou",
                "label_image",
                "masks_from_label_image",
            ),
        ),
        (reference_images, ("warp_image",)),
        (reference_rle, ("encode_rle", "decode_rle")),
    )
    for name in names
}


def draws(name: str, count: int) -> Iterator[Arguments]:
    for seed in range(count):
        yield globals()[name](Random(f"{name} {seed}"))
