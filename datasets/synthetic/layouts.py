"""Where objects lie: centres drawn from an image's streams, one function a layout."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import LayoutConfig
from datasets.synthetic.streams import ImageStreams, normals
from maskrcnn.config import UserError

Floats = NDArray[np.float64]
_TRIES = 100  # places tried for each object that must lie apart


def place(uniforms: Floats, margin: Floats, canvas: Floats) -> Floats:
    """Points [N, 2] on the canvas at least ``margin`` from its edge; its middle where there is no such point."""
    low = np.minimum(margin, canvas / 2)
    return low + uniforms * (canvas - 2 * low)


def free_centres(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    """Centres of ``count`` free objects, float64 [count, 2], at least ``low`` px [2] from the edge of the canvas.

    Raises:
        UserError: objects that must lie apart find no room.
    """
    return _LAYOUTS[config.layout](config, streams, count, low, canvas)


def _uniform(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    return place(streams.uniforms("free/position", count, 2), low, canvas)


def _apart(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    """Random places one after the other, those too near an earlier one left out.

    All objects keep the same distance whatever their size, so that a change of sizes moves none.
    """
    least = 2 * config.exclusion_radius
    candidates = place(streams.uniforms("free/position", count * _TRIES, 2), low, canvas)
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    chosen: list[tuple[float, float]] = []
    for x, y in candidates.tolist():
        column, row = int(x // least), int(y // least)
        near = (point for i in (-1, 0, 1) for j in (-1, 0, 1) for point in cells.get((column + i, row + j), ()))
        if all((x - a) ** 2 + (y - b) ** 2 >= least**2 for a, b in near):
            cells.setdefault((column, row), []).append((x, y))
            chosen.append((x, y))
            if len(chosen) == count:
                break
    if len(chosen) < count:
        raise UserError(
            f"layout apart: only {len(chosen)} of {count} objects find room on {canvas[0]:.0f} x {canvas[1]:.0f} "
            f"pixels at an exclusion_radius of {config.exclusion_radius:.4g}: use fewer or smaller objects (n_free, "
            "max_diameter, max_aspect) or a larger image"
        )
    return np.array(chosen).reshape(-1, 2)


def _clusters(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    middles = place(streams.uniforms("cluster/position", config.n_clusters, 2), low, canvas)
    offsets = normals(streams, "free/position", count, 2) * config.cluster_spread
    span = np.maximum(canvas - 2 * low, 1e-6)
    # What would lie outside is mirrored back in, so that the edge gathers nothing.
    placed = middles[np.arange(count) % config.n_clusters] + offsets - low
    return low + np.abs((placed + span) % (2 * span) - span)


def _grid(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    columns = max(1, int(np.ceil(np.sqrt(count * canvas[0] / canvas[1]))))
    rows = max(1, -(-count // columns))
    cell = np.arange(count)
    corner = np.stack([cell % columns, cell // columns], axis=1)
    jitter = (streams.uniforms("free/position", count, 2) * 2 - 1) * config.grid_jitter
    return low + (corner + 0.5 + jitter) * ((canvas - 2 * low) / np.array([columns, rows]))


def _gradient(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    """The density rises linearly from left to right: x by the inverse of its distribution."""
    uniforms, ratio = streams.uniforms("free/position", count, 2), config.density_ratio
    if ratio != 1:
        uniforms[:, 0] = (np.sqrt(1 + uniforms[:, 0] * (ratio**2 - 1)) - 1) / (ratio - 1)
    return place(uniforms, low, canvas)


_LAYOUTS: dict[str, Callable[[LayoutConfig, ImageStreams, int, Floats, Floats], Floats]] = {
    "uniform": _uniform,
    "apart": _apart,
    "clusters": _clusters,
    "grid": _grid,
    "gradient": _gradient,
}
