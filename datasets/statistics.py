"""Statistics of the objects of a data set: sizes, shapes, crowding. Cost and memory grow with the number of objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree  # scikit-image brings SciPy

from datasets.interface import DetectionDataset
from maskrcnn.structures.instances import Instances

Floats = NDArray[np.float64]

_CHUNK_PAIRS = 1 << 20


@dataclass(frozen=True)
class Objects:
    """N objects of I images, including ignored ones.

    Attributes:
        boxes: float32 [N, 4].
        mask_areas: float64 [N] in pixels, NaN without a mask.
        labels: int64 [N], from 1.
        ignore: bool [N].
        image: int64 [N], index into `sizes`, in ascending order.
        sizes: int64 [I, 2] (H, W) of the images.
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
        """Width and height, float64 [N, 2]."""
        boxes = self.boxes.astype(np.float64)
        sides: Floats = boxes[:, 2:] - boxes[:, :2]
        return sides

    @property
    def centers(self) -> Floats:
        """Center x and y, float64 [N, 2]."""
        boxes = self.boxes.astype(np.float64)
        centers: Floats = (boxes[:, 2:] + boxes[:, :2]) / 2
        return centers

    def targets(self) -> Objects:
        """Return the objects without ignored ones and boxes without an area, as used for training and evaluation."""
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
        """Iterate over the objects of each image."""
        ends = np.searchsorted(self.image, np.arange(len(self.sizes) + 1))
        return (slice(int(a), int(b)) for a, b in itertools.pairwise(ends))


def choose_evenly_spaced(count: int, max_count: int) -> list[int]:
    """Choose at most `max_count` of `count` indices, evenly spaced."""
    number = min(count, max_count)
    return [index * count // number for index in range(number)]


def read_objects(
    dataset: DetectionDataset, max_count: int, on_image_read: Callable[[], None] = lambda: None
) -> Objects:
    """Read the objects of at most `max_count` evenly spaced images.

    Args:
        dataset: data set.
        max_count: maximum number of images.
        on_image_read: called after each image.

    Raises:
        UserError: If an image is not readable.
    """
    collector = ObjectCollector()
    for index in choose_evenly_spaced(len(dataset), max_count):
        collector.add(dataset[index][1])
        on_image_read()
    return collector.objects()


class ObjectCollector:
    """Gathers the objects of a data set, image by image."""

    def __init__(self) -> None:
        self._boxes: list[NDArray[np.float32]] = []
        self._areas: list[Floats] = []
        self._labels: list[NDArray[np.int64]] = []
        self._ignore: list[NDArray[np.bool_]] = []
        self._sizes: list[tuple[int, int]] = []

    def add(self, instances: Instances) -> None:
        """Add the objects of the next image."""
        self._boxes.append(instances.boxes.numpy())
        self._areas.append(np.where(instances.has_mask().numpy(), instances.areas().numpy(), np.nan))
        self._labels.append(instances.labels.numpy())
        self._ignore.append(instances.ignore.numpy())
        self._sizes.append(instances.size)

    def objects(self) -> Objects:
        """Return the objects of all images added so far."""
        counts = [len(each) for each in self._labels]
        return Objects(
            np.concatenate([np.zeros((0, 4), np.float32), *self._boxes]),
            np.concatenate([np.zeros(0), *self._areas]),
            np.concatenate([np.zeros(0, np.int64), *self._labels]),
            np.concatenate([np.zeros(0, bool), *self._ignore]),
            np.repeat(np.arange(len(counts)), counts),
            np.array(self._sizes, np.int64).reshape(-1, 2),
        )


def compute_box_sizes(objects: Objects) -> Floats:
    """Compute the square roots of the box areas in pixels, float64 [N]."""
    sizes: Floats = np.sqrt(objects.sides.prod(axis=1))
    return sizes


def compute_mask_sizes(objects: Objects) -> Floats:
    """Compute the square roots of the areas of the existing masks in pixels, float64 [M]."""
    sizes: Floats = np.sqrt(objects.mask_areas[~np.isnan(objects.mask_areas)])
    return sizes


def compute_aspects(objects: Objects) -> Floats:
    """Compute height / width of the boxes, float64 [N]."""
    sides = objects.sides
    return sides[:, 1] / sides[:, 0]


def count_per_image(objects: Objects) -> NDArray[np.int64]:
    """Count the objects of each image, int64 [I]."""
    return np.bincount(objects.image, minlength=len(objects.sizes)).astype(np.int64)


def compute_densities(objects: Objects) -> Floats:
    """Compute the number of objects per megapixel of each image, float64 [I]."""
    result: Floats = count_per_image(objects) * 1e6 / np.maximum(objects.sizes.prod(axis=1), 1)
    return result


def count_per_class(objects: Objects, num_classes: int) -> NDArray[np.int64]:
    """Count the objects of each class, int64 [K]."""
    return np.bincount(objects.labels, minlength=num_classes + 1)[1:].astype(np.int64)


def find_border_objects(objects: Objects) -> NDArray[np.bool_]:
    """Return whether each box touches the edge of its image, bool [N]."""
    low, high = objects.boxes[:, :2], objects.sizes[objects.image][:, ::-1]
    reaching = (low <= 0) | (objects.boxes[:, 2:] >= high)
    return reaching[:, 0] | reaching[:, 1]


def compute_nearest_distances(objects: Objects) -> Floats:
    """Compute the distance (px) from each center to the nearest other one in its image, float64 [N], or infinity."""
    distances, centers = np.full(len(objects), np.inf), objects.centers
    for group in objects.groups():
        if group.stop - group.start > 1:
            distances[group] = KDTree(centers[group]).query(centers[group], k=2)[0][:, 1]
    return distances


def count_in_crops(objects: Objects, crop: tuple[int, int]) -> NDArray[np.int64]:
    """Count the objects with centers in a crop (H, W) around each object, including itself, int64 [N]; 0: unlimited."""
    reach = np.array([crop[1] or np.inf, crop[0] or np.inf]) / 2
    scaled = objects.centers / reach
    around = np.ones(len(objects), np.int64)
    for group in objects.groups():
        if group.stop > group.start:
            points = scaled[group]
            around[group] = KDTree(points).query_ball_point(points, 1.0, p=np.inf, return_length=True)
    return around


def compute_max_overlaps(objects: Objects) -> Floats:
    """Compute the maximum IoU of each box with another box of its image, float64 [N]."""
    best, boxes = np.zeros(len(objects)), objects.boxes.astype(np.float64)
    areas = objects.sides.prod(axis=1)
    for group in objects.groups():
        order = np.argsort(boxes[group, 0], kind="stable") + group.start
        for first, second in _iterate_pairs_along_x(boxes[order]):
            a, b = order[first], order[second]
            sides = np.minimum(boxes[a, 2:], boxes[b, 2:]) - np.maximum(boxes[a, :2], boxes[b, :2])
            both = sides.clip(min=0).prod(axis=1)
            iou = both / np.maximum(areas[a] + areas[b] - both, 1e-12)
            np.maximum.at(best, a, iou)
            np.maximum.at(best, b, iou)
    return best


def _iterate_pairs_along_x(boxes: Floats) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Iterate over the pairs of boxes, sorted by left edge, that overlap along x, about `_CHUNK_PAIRS` at a time."""
    partners = np.searchsorted(boxes[:, 0], boxes[:, 2], side="left") - np.arange(len(boxes)) - 1
    partners = partners.clip(min=0)
    until = np.cumsum(partners)
    start = 0
    while start < len(boxes):
        before = until[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(until, before + _CHUNK_PAIRS, side="right")))
        some = partners[start:stop]
        first = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
        yield first, first + 1 + within
        start = stop
