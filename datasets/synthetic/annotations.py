"""COCO annotations of a rendered scene, in NumPy alone: the processes that write images start without PyTorch."""

from typing import Any

import numpy as np

from datasets.synthetic import reference
from datasets.synthetic._native import native
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
    factors, labels, size = _as_rows(measure(scene, rendering)), scene.labels.tolist(), list(rendering.labels.shape)
    numbers, boxes, counts = native(reference.describe_labels)(rendering.labels)
    annotations: list[dict[str, Any]] = []
    for number, text, (x1, y1, x2, y2) in zip(numbers.tolist(), counts, boxes.tolist(), strict=True):
        visible = factors[number - 1]["visible_pixels"]
        annotations.append(
            {
                "id": image_id * IDS_PER_IMAGE + number,
                "image_id": image_id,
                "category_id": labels[number - 1],
                "instance": number,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": visible,
                "iscrowd": int(visible < scene.config.min_visible_pixels),
                "segmentation": {"size": size, "counts": text},
                "factors": factors[number - 1],
            }
        )
    if scene.config.whole_masks:
        for annotation, text in zip(annotations, _encode_whole(scene, rendering, numbers), strict=True):
            annotation["whole_segmentation"] = {"size": size, "counts": text}
    return annotations


def _as_rows(factors: Factors) -> list[dict[str, Any]]:
    """Rounded values of each object by name; None where there is nothing to measure."""
    names, columns = Factors.names(), []
    for name in names:
        values = getattr(factors, name)
        column = np.round(values, _DIGITS.get(name, 4)).tolist()
        columns.append([None if value != value else value for value in column] if np.isnan(values).any() else column)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _encode_whole(scene: Scene, rendering: Rendering, numbers: Ints) -> list[str]:
    """COCO's compressed run-length codes of the whole masks of some objects, hidden parts too."""
    place = np.zeros(len(scene.labels) + 1, np.int64)
    place[scene.numbers] = np.arange(len(scene.numbers))
    runs = whole_runs(rendering.coverage, place[numbers], scene.height)
    return encode_runs(*runs, len(numbers), scene.width * scene.height)
