"""LabelMe's JSON file of one image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

VERSION = "5.5.0"  # of LabelMe, whose masks need 5.3


def make_document(instances: Instances, class_names: Sequence[str], image_path: str) -> dict[str, Any]:
    """Make the contents of the file.

    Masks are polygons along the edges of their pixels; the parts of one object share a `group_id`, and a mask with
    holes is a bitmap. An object without a mask is a rectangle.

    Args:
        instances: objects of the image.
        class_names: class names in the order of the labels.
        image_path: path of the image, relative to the file.
    """
    drawn, shapes = instances.has_mask().tolist(), []
    for place, (box, label) in enumerate(zip(instances.boxes.tolist(), instances.labels.tolist(), strict=True)):
        masks = instances.masks if drawn[place] else None
        parts = [_make_box(box)] if masks is None else _make_parts(masks, place)
        common: dict[str, Any] = {
            "label": class_names[label - 1],
            "group_id": place + 1 if len(parts) > 1 else None,
            "description": "",
            "flags": {},
        }
        if instances.scores is not None:
            common["score"] = float(instances.scores[place])
        shapes += [common | part for part in parts]
    height, width = instances.size
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _make_box(box: Sequence[float]) -> dict[str, Any]:
    return {"shape_type": "rectangle", "points": [[box[0], box[1]], [box[2], box[3]]], "mask": None}


def _make_parts(masks: CroppedMasks, place: int) -> list[dict[str, Any]]:
    polygons = masks.trace(place)
    if all(len(polygon) == 1 for polygon in polygons):
        return [{"shape_type": "polygon", "points": polygon[0].tolist(), "mask": None} for polygon in polygons]
    x1, y1, x2, y2 = masks.windows[place].tolist()
    file = io.BytesIO()
    Image.fromarray((masks.window(place).numpy() >= 128).astype(np.uint8)).save(file, format="PNG")
    bitmap = base64.b64encode(file.getvalue()).decode()
    return [{"shape_type": "mask", "points": [[x1, y1], [x2 - 1, y2 - 1]], "mask": bitmap}]
