"""COCO annotations of a rendered scene, in NumPy alone: the processes that write images start without PyTorch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects  # comes with scikit-image

from datasets.synthetic.factors import Factors, measure, whole_runs
from datasets.synthetic.painting import Rendering
from datasets.synthetic.scene import Scene
from maskrcnn.ops.runs import Ints, encode_runs

IDS_PER_IMAGE = 65_536


_DIGITS = {"size": 3, "aspect": 3, "angle": 2, "distance": 2, "snr": 2}  # the others: 4


def annotate(scene: Scene, rendering: Rendering, image_id: int) -> list[dict[str, Any]]:
    """One COCO annotation for each object that can be seen in ``rendering``; hidden objects have none.

    Objects with fewer than ``min_visible_pixels`` visible pixels get ``iscrowd`` 1: pycocotools overwrites ``ignore``
    and honours only that. An annotation's id depends on its image and number alone.
    """
    factors = _as_columns(measure(scene, rendering))
    numbers, counts = encode_labels(rendering.labels)
    boxes, size = label_boxes(rendering.labels, numbers), list(rendering.labels.shape)
    annotations: list[dict[str, Any]] = []
    for number, text, (x1, y1, x2, y2) in zip(numbers.tolist(), counts, boxes.tolist(), strict=True):
        visible = factors["visible_pixels"][number - 1]
        annotations.append(
            {
                "id": image_id * IDS_PER_IMAGE + number,
                "image_id": image_id,
                "category_id": int(scene.labels[number - 1]),
                "instance": number,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": visible,
                "iscrowd": int(visible < scene.config.min_visible_pixels),
                "segmentation": {"size": size, "counts": text},
                "factors": {name: values[number - 1] for name, values in factors.items()},
            }
        )
    if scene.config.whole_masks:
        for annotation, text in zip(annotations, _encode_whole(scene, rendering, numbers), strict=True):
            annotation["whole_segmentation"] = {"size": size, "counts": text}
    return annotations


def _as_columns(factors: Factors) -> dict[str, list[Any]]:
    """Rounded values by name; None where there is nothing to measure."""
    columns: dict[str, list[Any]] = {}
    for name in Factors.names():
        values = getattr(factors, name)
        columns[name] = np.round(values, _DIGITS.get(name, 4)).tolist()
        if np.isnan(values).any():
            columns[name] = [None if value != value else value for value in columns[name]]
    return columns


def _encode_whole(scene: Scene, rendering: Rendering, numbers: Ints) -> list[str]:
    """COCO's compressed run-length codes of the whole masks of some objects, hidden parts too."""
    place = np.zeros(len(scene.labels) + 1, np.int64)
    place[scene.numbers] = np.arange(len(scene.numbers))
    runs = whole_runs(rendering.coverage, place[numbers], scene.height)
    return encode_runs(*runs, len(numbers), scene.width * scene.height)


def label_boxes(labels: NDArray[np.uint16], numbers: Ints) -> Ints:
    """Tight boxes int64 [N, 4] (x1, y1, x2, y2, exclusive end) of the given instance numbers, all of them present."""
    found = find_objects(labels.astype(np.int32))
    slices = [found[number - 1] for number in numbers.tolist()]
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return np.array(boxes, np.int64).reshape(-1, 4)


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
