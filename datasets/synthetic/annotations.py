"""COCO annotations of a rendered scene, in NumPy alone: the processes that write images start without PyTorch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.scene import Factors
from maskrcnn.ops.runs import Ints, encode_runs

IDS_PER_IMAGE = 65_536


def annotate(
    labels: NDArray[np.uint16], factors: Factors, image_id: int, min_visible_pixels: int
) -> list[dict[str, Any]]:
    """One COCO annotation for each number 1..N in the instance image ``labels`` [H, W]; hidden objects have none.

    Objects with fewer than ``min_visible_pixels`` visible pixels get ``iscrowd`` 1: pycocotools overwrites ``ignore``
    and honours only that. An annotation's id depends on its image and number alone.
    """
    numbers, counts = encode_labels(labels)
    boxes = label_boxes(labels, numbers)
    annotations = []
    for number, text, (x1, y1, x2, y2) in zip(numbers.tolist(), counts, boxes.tolist(), strict=True):
        visible = int(factors.visible_pixels[number - 1])
        annotations.append(
            {
                "id": image_id * IDS_PER_IMAGE + number,
                "image_id": image_id,
                "category_id": 1,
                "instance": number,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": visible,
                "iscrowd": int(visible < min_visible_pixels),
                "segmentation": {"size": list(labels.shape), "counts": text},
                "factors": _factors_of(factors, number - 1),
            }
        )
    return annotations


def _factors_of(factors: Factors, index: int) -> dict[str, float | int]:
    return {
        "size": round(float(factors.size[index]), 3),
        "aspect": round(float(factors.aspect[index]), 3),
        "angle": round(float(factors.angle[index]), 2),
        "visible_pixels": int(factors.visible_pixels[index]),
        "visible_fraction": round(float(factors.visible_fraction[index]), 4),
        "contrast": round(float(factors.contrast[index]), 4),
    }


def label_boxes(labels: NDArray[np.uint16], numbers: Ints) -> Ints:
    """Tight boxes int64 [N, 4] (x1, y1, x2, y2, exclusive end) of the given instance numbers, all of them present."""
    rows, columns = np.nonzero(labels)
    place = np.searchsorted(numbers, labels[rows, columns])
    low = np.full((len(numbers), 2), max(labels.shape), np.int64)
    high = np.zeros((len(numbers), 2), np.int64)
    for axis, positions in enumerate((columns, rows)):
        np.minimum.at(low[:, axis], place, positions)
        np.maximum.at(high[:, axis], place, positions + 1)
    return np.concatenate([low, high], axis=1)


def encode_labels(labels: NDArray[np.uint16]) -> tuple[Ints, list[str]]:
    """COCO's compressed run-length code of every instance in a label image [H, W], in one pass over it.

    Returns the instance numbers there, rising, int64 [N], and N strings of counts. Cost follows the pixels and the
    runs, not objects x image area.
    """
    flat = labels.T.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    start, end = edges[:-1], edges[1:]
    of_object = flat[start] > 0
    start, end = start[of_object], end[of_object]
    numbers, owner = np.unique(flat[start], return_inverse=True)
    return numbers.astype(np.int64), encode_runs(owner, start, end, len(numbers), flat.size)
