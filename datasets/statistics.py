"""What the objects of a data set are like: sizes, shapes, crowding. Cost and memory follow the objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree  # scikit-image brings SciPy

from datasets.interface import DetectionDataset

Floats = NDArray[np.float64]

_PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Objects:
    """The N objects of I images that were read, ignored ones among them.

    boxes float32 [N, 4]; mask_areas float64 [N] in pixels, NaN where there is no mask; labels int64 [N] from 1; ignore
    bool [N]; image int64 [N], the object's place in ``sizes`` int64 [I, 2] (H, W), never falling.
    """

    boxes: NDArray[np.float32]
    mask_areas: Floats
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    image: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sides(self) -> Floats:
        """float64 [N, 2]: width and height."""
        boxes = self.boxes.astype(np.float64)
        sides: Floats = boxes[:, 2:] - boxes[:, :2]
        return sides

    @property
    def centres(self) -> Floats:
        """float64 [N, 2]: x and y."""
        boxes = self.boxes.astype(np.float64)
        centres: Floats = (boxes[:, 2:] + boxes[:, :2]) / 2
        return centres

    def targets(self) -> Objects:
        """Without the ignored ones and those whose box has no area: what is trained and measured."""
        kept = ~self.ignore & (self.sides > 0).all(axis=1)
        return Objects(
            self.boxes[kept],
            self.mask_areas[kept],
            self.labels[kept],
            self.ignore[kept],
            self.image[kept],
            self.sizes,
        )

    def groups(self) -> Iterator[slice]:
        """The objects of each image."""
        ends = np.searchsorted(self.image, np.arange(len(self.sizes) + 1))
        return (slice(int(a), int(b)) for a, b in itertools.pairwise(ends))


def evenly(count: int, at_most: int) -> list[int]:
    """Places of at most so many of ``count`` things, as far apart as can be."""
    number = min(count, at_most)
    return [index * count // number for index in range(number)]


def read_objects(dataset: DetectionDataset, at_most: int, on_image: Callable[[], None] = lambda: None) -> Objects:
    """The objects of at most so many images, evenly spaced; ``on_image`` is called after each. UserError as reading."""
    boxes, areas, labels, ignore, sizes = [], [], [], [], []
    for index in evenly(len(dataset), at_most):
        _, instances = dataset[index]
        boxes.append(instances.boxes.numpy())
        areas.append(np.where(instances.has_mask().numpy(), instances.areas().numpy(), np.nan))
        labels.append(instances.labels.numpy())
        ignore.append(instances.ignore.numpy())
        sizes.append(instances.size)
        on_image()
    counts = [len(each) for each in labels]
    return Objects(
        np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
        np.concatenate([np.zeros(0), *areas]),
        np.concatenate([np.zeros(0, np.int64), *labels]),
        np.concatenate([np.zeros(0, bool), *ignore]),
        np.repeat(np.arange(len(counts)), counts),
        np.array(sizes, np.int64).reshape(-1, 2),
    )


def box_sizes(objects: Objects) -> Floats:
    """√ of the boxes' areas in pixels, float64 [N]."""
    sizes: Floats = np.sqrt(objects.sides.prod(axis=1))
    return sizes


def mask_sizes(objects: Objects) -> Floats:
    """√ of the masks' areas in pixels, float64 [M], of those that have one."""
    sizes: Floats = np.sqrt(objects.mask_areas[~np.isnan(objects.mask_areas)])
    return sizes


def aspects(objects: Objects) -> Floats:
    """Height / width of the boxes, float64 [N]."""
    sides = objects.sides
    return sides[:, 1] / sides[:, 0]


def counts(objects: Objects) -> NDArray[np.int64]:
    """Objects of each image, int64 [I]."""
    return np.bincount(objects.image, minlength=len(objects.sizes)).astype(np.int64)


def densities(objects: Objects) -> Floats:
    """Objects a megapixel of each image, float64 [I]."""
    result: Floats = counts(objects) * 1e6 / np.maximum(objects.sizes.prod(axis=1), 1)
    return result


def class_counts(objects: Objects, num_classes: int) -> NDArray[np.int64]:
    """Objects of each class, int64 [K]."""
    return np.bincount(objects.labels, minlength=num_classes + 1)[1:].astype(np.int64)


def at_border(objects: Objects) -> NDArray[np.bool_]:
    """bool [N]: boxes that reach the edge of their image."""
    low, high = objects.boxes[:, :2], objects.sizes[objects.image][:, ::-1]
    reaching = (low <= 0) | (objects.boxes[:, 2:] >= high)
    return reaching[:, 0] | reaching[:, 1]


def nearest_distances(objects: Objects) -> Floats:
    """Pixels from each centre to the nearest other one of its image, float64 [N]; infinite where there is none."""
    distances, centres = np.full(len(objects), np.inf), objects.centres
    for group in objects.groups():
        if group.stop - group.start > 1:
            distances[group] = KDTree(centres[group]).query(centres[group], k=2)[0][:, 1]
    return distances


def crop_counts(objects: Objects, crop: tuple[int, int]) -> NDArray[np.int64]:
    """Objects whose centre lies in a crop (H, W) around each object, itself included, int64 [N]; 0: of any length."""
    reach = np.array([crop[1] or np.inf, crop[0] or np.inf]) / 2
    scaled = objects.centres / reach
    around = np.ones(len(objects), np.int64)
    for group in objects.groups():
        if group.stop > group.start:
            points = scaled[group]
            around[group] = KDTree(points).query_ball_point(points, 1.0, p=np.inf, return_length=True)
    return around


def largest_overlaps(objects: Objects) -> Floats:
    """The IoU of each box with the one of its image that it overlaps most, float64 [N]."""
    best, boxes = np.zeros(len(objects)), objects.boxes.astype(np.float64)
    areas = objects.sides.prod(axis=1)
    for group in objects.groups():
        order = np.argsort(boxes[group, 0], kind="stable") + group.start
        for first, second in _pairs_along_x(boxes[order]):
            a, b = order[first], order[second]
            sides = np.minimum(boxes[a, 2:], boxes[b, 2:]) - np.maximum(boxes[a, :2], boxes[b, :2])
            both = sides.clip(min=0).prod(axis=1)
            iou = both / np.maximum(areas[a] + areas[b] - both, 1e-12)
            np.maximum.at(best, a, iou)
            np.maximum.at(best, b, iou)
    return best


def _pairs_along_x(boxes: Floats) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of boxes, sorted by their left edge, that overlap along x; about ``_PAIRS_AT_ONCE`` at a time."""
    partners = np.searchsorted(boxes[:, 0], boxes[:, 2], side="left") - np.arange(len(boxes)) - 1
    partners = partners.clip(min=0)
    until = np.cumsum(partners)
    start = 0
    while start < len(boxes):
        before = until[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(until, before + _PAIRS_AT_ONCE, side="right")))
        some = partners[start:stop]
        first = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
        yield first, first + 1 + within
        start = stop
