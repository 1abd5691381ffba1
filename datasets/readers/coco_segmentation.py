"""Conversion of COCO segmentations, in all forms that common tools write, to run-length encoding (RLE)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn.structures.masks import CroppedMasks, fill_polygons

MAX_OUTLINE = 2_000_000  # pixels; rasterizing larger coordinates or longer polygons would exhaust memory
_CORNER_TOLERANCE = 1.0  # pixels between two points and the box corners, for the points to denote a rectangle
Floats = NDArray[np.float64]


def has_outline(segmentation: Any) -> bool:
    """Return whether a segmentation is not empty; tools write empty ones as null, 0, "", [], [[]] or {}."""
    if isinstance(segmentation, list):
        return any(each != [] for each in segmentation)
    return segmentation not in (None, {}, "", 0)


def to_rle(segmentation: Any, size: tuple[int, int], box: Floats) -> tuple[dict[str, Any], int]:
    """Convert a segmentation to RLE.

    Polygons may be a list of rings, one flat ring, nested points, or have quoted numbers. A single ring of two points
    is a rectangle if it agrees with the box of the object; other rings of fewer than three points are dropped. A list
    may also contain RLE masks. If all rings are dropped, the mask is empty.

    Args:
        segmentation: the value in the file.
        size: image size (H, W).
        box: float64 [4], box of the object as x, y, width, height; NaN if it has none.

    Returns:
        The RLE, and the number of dropped rings.

    Raises:
        ValueError: If the segmentation is invalid.
    """
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size), 0
    if not isinstance(segmentation, list):
        raise ValueError("'segmentation' must be a list of polygons or a run-length code")
    if any(isinstance(each, dict) for each in segmentation):
        return _merge([_run_lengths(each, size) for each in segmentation]), 0
    rings = [_points(ring) for ring in _rings(segmentation)]
    if len(rings) == 1 and len(rings[0]) == 4 and _are_corners(rings[0], box):
        x1, y1, x2, y2 = rings[0]
        rings = [np.array([x1, y1, x2, y1, x2, y2, x1, y2])]
    whole = [ring for ring in rings if len(ring) >= 6]
    check_lengths(whole)
    return fill_polygons(whole, size), len(rings) - len(whole)


def covers_image(code: dict[str, Any], size: tuple[int, int]) -> bool:
    """Return whether an RLE covers an image of `size` (H, W) exactly."""
    try:
        CroppedMasks.from_rle([code], size)
    except ValueError:
        return False
    return True


def _rings(segmentation: list[Any]) -> list[Any]:
    if all(isinstance(each, int | float | str) for each in segmentation):
        return [segmentation]
    if len(segmentation) >= 3 and all(isinstance(each, list) and _is_point(each) for each in segmentation):
        return [segmentation]
    return [ring for ring in segmentation if ring != []]


def _is_point(value: list[Any]) -> bool:
    return len(value) == 2 and not any(isinstance(each, list) for each in value)


def _points(ring: Any) -> Floats:
    """Return the coordinates x1 y1 x2 y2 … of a ring of numbers or points; numbers may be quoted."""
    wrong = ValueError("a polygon must be a list of finite numbers [x1, y1, x2, y2, …]")
    if not isinstance(ring, list):
        raise wrong
    if all(isinstance(each, list) and _is_point(each) for each in ring):
        ring = [each for point in ring for each in point]
    if not all(isinstance(each, int | float | str) and not isinstance(each, bool) for each in ring):
        raise wrong
    try:
        points = np.array([float(each) for each in ring], np.float64)
    except (ValueError, OverflowError) as error:
        raise wrong from error
    if not np.isfinite(points).all():
        raise wrong
    if len(points) % 2:
        raise ValueError(f"a polygon has {len(points)} numbers, an odd count: each point must have an x and a y")
    return points


def _are_corners(points: Floats, box: Floats) -> bool:
    """Return whether two points are opposite corners of the box, or of any rectangle if there is no box."""
    low, high = np.minimum(points[:2], points[2:]), np.maximum(points[:2], points[2:])
    if np.isnan(box).any():
        return bool((high > low).all())
    beside = np.abs(np.concatenate([low - box[:2], high - box[:2] - box[2:]]))
    return bool((high > low).all() and (beside <= _CORNER_TOLERANCE).all())


def check_lengths(rings: Sequence[Floats]) -> None:
    """Raise a ValueError if coordinates or the total length of polygons exceed `MAX_OUTLINE`."""
    length = 0.0
    for points in rings:
        steps = np.diff(points.reshape(-1, 2), axis=0, append=points[None, :2])
        length += float(np.abs(steps).max(axis=1).sum())
        if length > MAX_OUTLINE or np.abs(points).max() > MAX_OUTLINE:
            raise ValueError(f"a polygon has coordinates or a length of more than {MAX_OUTLINE} pixels")


def _merge(codes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from faster_coco_eval import mask as coco_mask

    if len(codes) == 1:
        return dict(codes[0])
    packed = [coco_mask.frPyObjects(c, *c["size"]) if isinstance(c["counts"], list) else c for c in codes]
    return dict(coco_mask.merge(packed))


def _run_lengths(code: Any, size: tuple[int, int]) -> dict[str, Any]:
    code_size = code.get("size") if isinstance(code, dict) else None
    if not isinstance(code_size, list) or code_size != list(size):
        raise ValueError(f"the size of its run-length code must be {list(size)}, that of the image")
    counts = code.get("counts")
    if isinstance(counts, list) and all(type(each) is float and each.is_integer() for each in counts):
        counts = [int(each) for each in counts]
    return {"size": list(size), "counts": counts}
