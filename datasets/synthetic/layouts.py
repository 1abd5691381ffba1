"""Layouts: positions of object centers drawn from the streams of an image, one function per layout."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import LayoutConfig
from datasets.synthetic.streams import ImageStreams, draw_normals
from maskrcnn.config import UserError

Floats = NDArray[np.float64]
_MAX_TRIES = 100  # positions tried per object of the layout "apart"


def place_points(uniforms: Floats, margin: Floats, canvas: Floats) -> Floats:
    """Map uniforms to points [N, 2] at least `margin` from the edge of the canvas, or its center if it is too small."""
    low = np.minimum(margin, canvas / 2)
    return low + uniforms * (canvas - 2 * low)


def draw_free_centers(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    """Draw the centers of `count` free objects, float64 [count, 2], at least `low` px [2] from the edge of the canvas.

    Raises:
        UserError: If there is no room for objects of the layout "apart".
    """
    return _LAYOUTS[config.layout](config, streams, count, low, canvas)


def _uniform(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    return place_points(streams.uniforms("free/position", count, 2), low, canvas)


def _apart(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    """Draw random positions one by one, skipping those too close to an earlier one.

    The minimum distance is the same for all sizes, so a change of sizes moves no object.
    """
    min_distance = 2 * config.exclusion_radius
    candidates = place_points(streams.uniforms("free/position", count * _MAX_TRIES, 2), low, canvas)
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    chosen: list[tuple[float, float]] = []
    for x, y in candidates.tolist():
        column, row = int(x // min_distance), int(y // min_distance)
        near = (point for i in (-1, 0, 1) for j in (-1, 0, 1) for point in cells.get((column + i, row + j), ()))
        if all((x - a) ** 2 + (y - b) ** 2 >= min_distance**2 for a, b in near):
            cells.setdefault((column, row), []).append((x, y))
            chosen.append((x, y))
            if len(chosen) == count:
                break
    if len(chosen) < count:
        raise UserError(
            f"layout apart: only {len(chosen)} of {count} objects fit into {canvas[0]:.0f} x {canvas[1]:.0f} "
            f"pixels with an exclusion_radius of {config.exclusion_radius:.4g}: use fewer or smaller objects (n_free, "
            "max_diameter, max_aspect) or a larger image"
        )
    return np.array(chosen).reshape(-1, 2)


def _clusters(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    centers_of_clusters = place_points(streams.uniforms("cluster/position", config.n_clusters, 2), low, canvas)
    offsets = draw_normals(streams, "free/position", count, 2) * config.cluster_spread
    span = np.maximum(canvas - 2 * low, 1e-6)
    # Positions outside are mirrored back, so that objects do not accumulate at the edge.
    placed = centers_of_clusters[np.arange(count) % config.n_clusters] + offsets - low
    return low + np.abs((placed + span) % (2 * span) - span)


def _grid(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    columns = max(1, int(np.ceil(np.sqrt(count * canvas[0] / canvas[1]))))
    rows = max(1, -(-count // columns))
    cell = np.arange(count)
    corner = np.stack([cell % columns, cell // columns], axis=1)
    jitter = (streams.uniforms("free/position", count, 2) * 2 - 1) * config.grid_jitter
    return low + (corner + 0.5 + jitter) * ((canvas - 2 * low) / np.array([columns, rows]))


def _gradient(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    """Draw positions whose density increases linearly from left to right, by inverse transform sampling."""
    uniforms, ratio = streams.uniforms("free/position", count, 2), config.density_ratio
    if ratio != 1:
        uniforms[:, 0] = (np.sqrt(1 + uniforms[:, 0] * (ratio**2 - 1)) - 1) / (ratio - 1)
    return place_points(uniforms, low, canvas)


_LAYOUTS: dict[str, Callable[[LayoutConfig, ImageStreams, int, Floats, Floats], Floats]] = {
    "uniform": _uniform,
    "apart": _apart,
    "clusters": _clusters,
    "grid": _grid,
    "gradient": _gradient,
}
