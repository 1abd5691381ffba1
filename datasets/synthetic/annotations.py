"""COCO annotations of a rendered scene; NumPy only, because the processes that write images start without PyTorch."""

from typing import Any

import numpy as np

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.factors import Factors, find_full_mask_runs, measure_factors
from datasets.synthetic.painting import Rendering
from datasets.synthetic.scene import Scene
from maskrcnn.ops.runs import Ints, encode_runs

IDS_PER_IMAGE = 65_536
_DIGITS = {"size": 3, "aspect": 3, "angle": 2, "distance": 2, "snr": 2}  # the others: 4


def annotate(scene: Scene, rendering: Rendering, image_id: int) -> list[dict[str, Any]]:
    """Make one COCO annotation per visible object of a rendering.

    Hidden objects have none. Objects with fewer than `min_visible_pixels` visible pixels get `iscrowd` 1, because
    pycocotools overwrites `ignore`. The id of an annotation depends only on its image and object number.

    Args:
        scene: the scene.
        rendering: its rendering.
        image_id: id of the image.

    Returns:
        The annotations, with the measured `factors`.
    """
    factors, labels, size = (
        _to_rows(measure_factors(scene, rendering)),
        scene.labels.tolist(),
        list(rendering.labels.shape),
    )
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
        for annotation, text in zip(annotations, _encode_full_masks(scene, rendering, numbers), strict=True):
            annotation["whole_segmentation"] = {"size": size, "counts": text}
    return annotations


def _to_rows(factors: Factors) -> list[dict[str, Any]]:
    """Convert factors to one dict of rounded values per object; None if not measurable."""
    names, columns = Factors.names(), []
    for name in names:
        values = getattr(factors, name)
        column = np.round(values, _DIGITS.get(name, 4)).tolist()
        columns.append([None if value != value else value for value in column] if np.isnan(values).any() else column)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _encode_full_masks(scene: Scene, rendering: Rendering, numbers: Ints) -> list[str]:
    """Encode the full masks of some objects, including hidden parts, as COCO's compressed RLE."""
    place = np.zeros(len(scene.labels) + 1, np.int64)
    place[scene.numbers] = np.arange(len(scene.numbers))
    runs = find_full_mask_runs(rendering.coverage, place[numbers], scene.height)
    return encode_runs(*runs, len(numbers), scene.width * scene.height)
