"""GeoJSON (RFC 7946) with the fields of QuPath, in pixel coordinates: also read by napari, QGIS and geopandas."""

from __future__ import annotations

import colorsys
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn.images.metadata import Georeference
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.outlines import Polygon

_NAMESPACE = uuid.UUID("6f0d6c5e-6a43-4f0e-9d0e-2b1f6a3f0c11")
_GOLDEN = 0.618034  # of the circle of hues from one class to the next


def make_feature_collection(
    instances: Instances,
    class_names: Sequence[str],
    image_name: str = "",
    hidden: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Make a FeatureCollection with a feature per object, in their order.

    Masks are polygons along the edges of their pixels, with holes, or a MultiPolygon; an object without a mask is its
    box. Predictions are QuPath's detections with a measurement `Score`, ground truth its annotations. `number` is the
    object's number from 1, as in label images and tables.

    Args:
        instances: objects of the image.
        class_names: class names in the order of the labels.
        image_name: name of the image, from which the ids are made.
        hidden: which objects are covered by others in the label image; these have the property `hidden`.
    """
    boxes, labels = instances.boxes.tolist(), instances.labels.tolist()
    drawn = instances.has_mask().tolist()
    scores = [None] * len(boxes) if instances.scores is None else instances.scores.tolist()
    features = []
    for place, (box, label, score) in enumerate(zip(boxes, labels, scores, strict=True)):
        masks = instances.masks if drawn[place] else None
        geometry = _make_rectangle(box) if masks is None else make_geometry(masks.trace(place))
        properties: dict[str, Any] = {
            "objectType": "annotation" if score is None else "detection",
            "classification": {"name": class_names[label - 1], "color": _make_color(label)},
            "isLocked": False,
            "number": place + 1,
        }
        if score is not None:
            properties["measurements"] = {"Score": score}
        if bool(instances.ignore[place]):
            properties["ignore"] = True
        if hidden is not None and bool(hidden[place]):
            properties["hidden"] = True
        key = str(uuid.uuid5(_NAMESPACE, f"{image_name}/{place + 1}"))
        features.append({"type": "Feature", "id": key, "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def make_geometry(polygons: Sequence[Polygon]) -> dict[str, Any]:
    """Make a Polygon, or a MultiPolygon of several parts; outer rings are counterclockwise as RFC 7946 has it."""
    coordinates = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def to_world(collection: dict[str, Any], georeference: Georeference) -> dict[str, Any]:
    """Map a FeatureCollection from pixels to world coordinates.

    A coordinate reference system other than WGS 84, which RFC 7946 presumes, is named as GeoJSON 2008 does, for QGIS
    and geopandas.
    """
    a, b, _, d, e, _ = georeference.transform

    def map_ring(ring: list[list[float]]) -> list[list[float]]:
        points: list[list[float]] = georeference.to_world(np.array(ring, np.float64)).tolist()
        return points if a * e - b * d > 0 else points[::-1]  # outer rings stay counterclockwise

    features = []
    for feature in collection["features"]:
        kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
        polygons = [[map_ring(ring) for ring in each] for each in ([coordinates] if kind == "Polygon" else coordinates)]
        geometry = {"type": kind, "coordinates": polygons[0] if kind == "Polygon" else polygons}
        features.append(feature | {"geometry": geometry})
    authority, _, code = (georeference.crs or "").partition(":")
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{authority}::{code}"}}
    return collection | ({"crs": crs} if code != "4326" else {}) | {"features": features}


def _make_rectangle(box: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"type": "Polygon", "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]}


def _make_color(label: int) -> list[int]:
    return [round(255 * level) for level in colorsys.hsv_to_rgb((label - 1) * _GOLDEN % 1, 0.8, 1.0)]
