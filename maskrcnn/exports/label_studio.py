"""Label Studio's tasks with predictions, as its import takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.outlines import join_rings


def make_task(
    instances: Instances, class_names: Sequence[str], image_url: str, model_version: str = "smallobjects"
) -> dict[str, Any]:
    """Make a task with one prediction.

    Masks are polygons (`polygonlabels`), whose rings are joined where there are several; an object without a mask is a
    rectangle (`rectanglelabels`). Coordinates are percent of the image. The labeling interface needs the controls
    `<PolygonLabels name="polygon" toName="image">` and `<RectangleLabels name="box" toName="image">`.

    Args:
        instances: objects of the image.
        class_names: class names in the order of the labels.
        image_url: address of the image for Label Studio.
        model_version: name of the model.
    """
    drawn = instances.has_mask().tolist()
    results = [_make_result(instances, place, class_names, drawn[place]) for place in range(len(instances))]
    prediction: dict[str, Any] = {"model_version": model_version, "result": results}
    if instances.scores is not None:
        prediction["score"] = float(instances.scores.mean()) if len(instances) else 0.0
    return {"data": {"image": image_url}, "predictions": [prediction]}


def _make_result(instances: Instances, place: int, class_names: Sequence[str], is_drawn: bool) -> dict[str, Any]:
    height, width = instances.size
    percent = np.array([100 / width, 100 / height])
    name = class_names[int(instances.labels[place]) - 1]
    if is_drawn:
        assert instances.masks is not None
        ring = join_rings(instances.masks.trace(place)) * percent
        kind, control = "polygonlabels", "polygon"
        value: dict[str, Any] = {"points": ring.round(6).tolist(), "closed": True}
    else:
        x1, y1, x2, y2 = (instances.boxes[place].double().numpy() * np.tile(percent, 2)).round(6).tolist()
        kind, control = "rectanglelabels", "box"
        value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
    result = {
        "id": f"object{place + 1}",
        "type": kind,
        "from_name": control,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value | {kind: [name]},
    }
    if instances.scores is not None:
        result["score"] = float(instances.scores[place])
    return result
