"""Composition of scenes from options; a scene is a function of (options, split, image) alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import LayoutConfig, SceneConfig
from datasets.synthetic.shapes import ELONGATED, HARMONICS, Outline, Shapes, compute_reach, make_outline
from datasets.synthetic.streams import ImageStreams, draw_normals, round_parameter, scale_log_uniforms, scale_uniforms
from maskrcnn.config import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """Contents of one image, from back to front: background, clutter, then objects and distractors by depth.

    Background and degradations follow from `config` and `streams`.

    Attributes:
        config: options.
        streams: randomness of the image.
        shapes: M shapes in painting order (later ones occlude earlier ones).
        colors: uint8 [M, C], before the change of contrast.
        numbers: int64 [M], object number 1..N of each shape, 0 for clutter and distractors.
        labels: int64 [N], classes of the objects, from 1.
    """

    config: SceneConfig
    streams: ImageStreams
    shapes: Shapes
    colors: NDArray[np.uint8]
    numbers: Ints
    labels: Ints

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return self.config.width

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return self.config.height


@dataclass(frozen=True)
class _ScenePart:
    """Some shapes of a scene, their colors uint8 [K, C], and the index of each shape's name."""

    shapes: Shapes
    colors: NDArray[np.uint8]
    kinds: Ints


def _make_empty_part(config: SceneConfig) -> _ScenePart:
    nothing = np.zeros((0, config.channels), np.uint8)
    return _ScenePart(Shapes(*np.zeros((3, 0, 2))), nothing, np.zeros(0, np.int64))


def compose_scene(config: SceneConfig, split: str, image: int) -> Scene:
    """Compose the scene of image `image` of `split`.

    Raises:
        UserError: If there is no room for objects of the layout "apart", or the seed is out of range.
    """
    streams = ImageStreams(config.seed, split, image)
    groups, free = _make_groups(config, streams), _make_free_objects(config, streams)
    clutter, distractors = _make_clutter(config, streams), _make_distractors(config, streams)
    count, others = len(groups.kinds) + len(free.kinds), len(distractors.kinds)
    # Objects keep their order; distractors are inserted at random depths.
    depth = np.concatenate([np.arange(count) + 0.5, streams.uniforms("distractor/depth", others) * count])
    order = len(clutter.kinds) + np.argsort(depth, kind="stable")
    order = np.concatenate([np.arange(len(clutter.kinds)), order])
    parts = (clutter, groups, free, distractors)
    shapes = Shapes.cat([part.shapes for part in parts])
    numbers = np.concatenate([np.zeros(len(clutter.kinds)), np.arange(count) + 1, np.zeros(others)]).astype(np.int64)
    colors = np.concatenate([part.colors for part in parts])
    names, kinds = config.objects.class_names, np.concatenate([groups.kinds, free.kinds])
    label_of = [names.index(shape) + 1 if shape in names else 1 for shape in config.objects.shapes]
    labels = np.array(label_of, np.int64)[kinds]
    if (order == np.arange(len(order))).all():
        return Scene(config, streams, shapes, colors, numbers, labels)
    return Scene(config, streams, shapes.take(order), colors[order], numbers[order], labels)


def compute_exclusion_radius(config: SceneConfig) -> float:
    """Compute half the distance at which the largest objects cannot touch."""
    objects = config.objects

    def reach(shape: str) -> float:
        stretch = objects.max_aspect if shape in ELONGATED else 1.0
        return compute_reach(shape, objects) * (objects.max_diameter / 2 * float(np.sqrt(stretch)) + objects.outline)

    return max(map(reach, objects.shapes)) + 0.5


def compute_margin(config: SceneConfig) -> float:
    """Compute the minimum distance of free objects' centers from the edge.

    It is the same for all sizes, so a change of sizes moves no object.
    """
    if config.layout.margin >= 0:
        return config.layout.margin
    return (config.objects.min_diameter + config.objects.max_diameter) / 2


def _compute_margins(config: SceneConfig, canvas: Floats) -> Floats:
    """Return the margin along each axis, float64 [2], at most a quarter of the canvas."""
    return np.minimum(compute_margin(config), canvas / 4)


def _choose(uniforms: Floats, shares: tuple[float, ...], count: int) -> Ints:
    """Map each uniform to one of `count` kinds with the relative frequencies `shares`."""
    if not shares:
        return np.minimum((uniforms * count).astype(np.int64), count - 1)
    bounds = np.cumsum(shares) / np.sum(shares)
    return np.minimum(np.searchsorted(bounds, uniforms, side="right"), count - 1)


def _make_free_objects(config: SceneConfig, streams: ImageStreams) -> _ScenePart:
    layout, objects = config.layout, config.objects
    min_count = layout.n_free if layout.min_free < 0 else layout.min_free
    count = min_count + int(streams.uniforms("free/count")[()] * (layout.n_free - min_count + 1))
    kinds = _choose(streams.uniforms("free/shape", count), objects.shape_shares, len(objects.shapes))
    diameter = scale_log_uniforms(streams.uniforms("free/size", count), objects.min_diameter, objects.max_diameter)
    aspect = scale_log_uniforms(streams.uniforms("free/aspect", count), 1.0, objects.max_aspect)
    angle = scale_uniforms(streams.uniforms("free/angle", count), 0.0, np.radians(objects.max_angle))
    canvas = np.array([config.width, config.height], np.float64)
    if layout.layout == "apart" and layout.exclusion_radius == 0:
        layout = replace(layout, exclusion_radius=compute_exclusion_radius(config))
    centers = draw_free_centers(layout, streams, count, _compute_margins(config, canvas), canvas)
    shapes = _make_shapes(config, objects.shapes, kinds, centers, diameter, aspect, angle, streams, "free")
    part = _ScenePart(shapes, _draw_colors(config, streams, "free", count), kinds)
    return part if layout.max_box_iou >= 1 else _remove_overlaps(part, layout.max_box_iou)


def _remove_overlaps(part: _ScenePart, max_iou: float) -> _ScenePart:
    """Remove the shapes whose box has an IoU above `max_iou` with an earlier kept one."""
    extents = part.shapes.half_extents()
    low, high = part.shapes.centers - extents, part.shapes.centers + extents
    area = (high - low).prod(axis=1)
    kept: list[int] = []
    for index in range(len(area)):
        shared = np.clip(np.minimum(high[index], high[kept]) - np.maximum(low[index], low[kept]), 0, None).prod(axis=1)
        if (shared <= max_iou * (area[index] + area[kept] - shared)).all():
            kept.append(index)
    which = np.array(kept, np.int64)
    return _ScenePart(part.shapes.take(which), part.colors[which], part.kinds[which])


def _make_groups(config: SceneConfig, streams: ImageStreams) -> _ScenePart:
    layout, objects = config.layout, config.objects
    groups, members = layout.n_groups, layout.n_objects_per_group
    diameter = scale_log_uniforms(streams.uniforms("group/size", groups), objects.min_diameter, objects.max_diameter)
    aspect = scale_log_uniforms(streams.uniforms("group/aspect", groups), layout.min_group_aspect, objects.max_aspect)
    angle = scale_uniforms(streams.uniforms("group/angle", groups), 0.0, np.radians(objects.max_angle))
    kinds = _choose(streams.uniforms("group/shape", groups), objects.shape_shares, len(objects.shapes))
    kinds = np.repeat(kinds, members)
    step = round_parameter(diameter / np.sqrt(aspect))
    jitter = scale_uniforms(streams.uniforms("member/position", groups, members, 2), -1.0, 1.0)
    jitter = jitter * (layout.group_position_jitter * diameter)[:, None, None]
    along = jitter[..., 0]
    across = jitter[..., 1] + (np.arange(members) - (members - 1) / 2) * step[:, None]
    axis = _make_directions(angle)[:, None, :]
    offsets = along[..., None] * axis + across[..., None] * np.stack([-axis[..., 1], axis[..., 0]], axis=-1)
    turn = scale_uniforms(streams.uniforms("member/angle", groups, members), -1.0, 1.0) * np.radians(
        layout.group_angle_jitter
    )
    max_factor = layout.group_aspect_jitter
    member_aspect = aspect[:, None] * scale_log_uniforms(
        streams.uniforms("member/aspect", groups, members), 1 / max_factor, max_factor
    )
    shapes = _make_shapes(
        config,
        objects.shapes,
        kinds,
        offsets.reshape(-1, 2),
        np.repeat(diameter, members),
        member_aspect.ravel(),
        (angle[:, None] + turn).ravel(),
        streams,
        "member",
    )
    centers = round_parameter(
        shapes.centers + _place_groups(shapes, config, streams.uniforms("group/position", groups, 2))
    )
    shapes = Shapes(centers, shapes.semi_axes, shapes.directions, shapes.outlines)
    return _ScenePart(shapes, _draw_colors(config, streams, "group", groups * members), kinds)


def _place_groups(shapes: Shapes, config: SceneConfig, uniforms: Floats) -> Floats:
    """Draw the position of each member's group, float64 [groups * members, 2], on the canvas if the group fits."""
    groups, members = config.layout.n_groups, config.layout.n_objects_per_group
    reach = np.abs(shapes.centers) + shapes.half_extents()
    reach = reach.reshape(groups, members, 2).max(axis=1, initial=0.0)
    canvas = np.array([config.width, config.height], np.float64)
    return np.repeat(place_points(uniforms, reach, canvas), members, axis=0)


def _make_clutter(config: SceneConfig, streams: ImageStreams) -> _ScenePart:
    """Make shapes below the objects, in colors similar to the background."""
    count = config.background.n_clutter if config.background.background == "clutter" else 0
    if count == 0:
        return _make_empty_part(config)
    kinds = ("ellipse", "rectangle", "triangle", "blob")
    chosen = _choose(streams.uniforms("clutter/shape", count), (), len(kinds))
    canvas = np.array([config.width, config.height], np.float64)
    centers = streams.uniforms("clutter/position", count, 2) * canvas
    size = config.background.background_scale
    diameter = scale_log_uniforms(streams.uniforms("clutter/size", count), size / 2, size * 2)
    aspect = scale_log_uniforms(streams.uniforms("clutter/aspect", count), 1.0, 4.0)
    angle = scale_uniforms(streams.uniforms("clutter/angle", count), 0.0, 2 * np.pi)
    shapes = _make_shapes(config, kinds, chosen, centers, diameter, aspect, angle, streams, "clutter")
    offset = (
        scale_uniforms(streams.uniforms("clutter/colour", count, config.channels), -0.5, 0.5)
        * config.background.background_range
    )
    colors = draw_background_level(config, streams) + (offset[:, :1] if config.colours.grey else offset)
    return _ScenePart(shapes, np.clip(np.rint(colors), 0, 255).astype(np.uint8), chosen)


def _make_distractors(config: SceneConfig, streams: ImageStreams) -> _ScenePart:
    """Make unlabeled shapes that differ from the objects only in shape."""
    objects, count = config.objects, config.background.n_distractors
    if count == 0:
        return _make_empty_part(config)
    kinds = config.background.distractor_shapes
    chosen = _choose(streams.uniforms("distractor/shape", count), (), len(kinds))
    canvas = np.array([config.width, config.height], np.float64)
    centers = place_points(streams.uniforms("distractor/position", count, 2), _compute_margins(config, canvas), canvas)
    diameter = scale_log_uniforms(
        streams.uniforms("distractor/size", count), objects.min_diameter, objects.max_diameter
    )
    aspect = scale_log_uniforms(streams.uniforms("distractor/aspect", count), 1.0, objects.max_aspect)
    angle = scale_uniforms(streams.uniforms("distractor/angle", count), 0.0, np.radians(objects.max_angle))
    shapes = _make_shapes(config, kinds, chosen, centers, diameter, aspect, angle, streams, "distractor")
    return _ScenePart(shapes, _draw_colors(config, streams, "distractor", count), chosen)


def draw_background_level(config: SceneConfig, streams: ImageStreams) -> Floats:
    """Draw the color of the background, integers as float64 [C]."""
    low, high = config.background.min_background, config.background.max_background
    drawn = low + np.floor(streams.uniforms("background/level", config.channels) * (high - low + 1))
    return np.repeat(drawn[:1], config.channels) if config.colours.grey else drawn


def _make_shapes(
    config: SceneConfig,
    names: tuple[str, ...],
    kinds: Ints,
    centers: Floats,
    diameter: Floats,
    aspect: Floats,
    angle: Floats,
    streams: ImageStreams,
    factor: str,
) -> Shapes:
    """Make shapes with the area of a circle of `diameter`, and with the aspect if they are ELONGATED."""
    stretched = np.array([name in ELONGATED for name in names], bool)[kinds] if len(kinds) else np.zeros(0, bool)
    stretch = np.sqrt(np.where(stretched, aspect, 1.0))
    semi_axes = np.stack([diameter * stretch, diameter / stretch], axis=1) / 2 + config.objects.outline
    outlines: tuple[Outline | None, ...] = ()
    if any(name not in ("ellipse", "circle") for name in names):
        variants = streams.uniforms(f"{factor}/variant", len(kinds), 2 * HARMONICS)
        outlines = tuple(
            make_outline(names[kind], config.objects, each) for kind, each in zip(kinds.tolist(), variants, strict=True)
        )
    return Shapes(round_parameter(centers), round_parameter(semi_axes), _make_directions(angle), outlines)


def _make_directions(angle: Floats) -> Floats:
    return round_parameter(np.stack([np.cos(angle), np.sin(angle)], axis=-1))


def _draw_colors(config: SceneConfig, streams: ImageStreams, factor: str, count: int) -> NDArray[np.uint8]:
    """Draw colors uint8 [count, C], each channel uniform in min_colour..max_colour, inclusive."""
    colors = config.colours
    uniforms = streams.uniforms(f"{factor}/colour", count, config.channels)
    drawn = np.floor(uniforms * (colors.max_colour - colors.min_colour + 1))
    drawn = np.repeat(drawn[:, :1], config.channels, axis=1) if colors.grey else drawn
    return (colors.min_colour + drawn).astype(np.uint8)


# ---- layouts: positions of object centers, one function per layout

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


def _draw_uniform_centers(
    config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats
) -> Floats:
    return place_points(streams.uniforms("free/position", count, 2), low, canvas)


def _draw_apart_centers(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
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


def _draw_clusters_centers(
    config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats
) -> Floats:
    centers_of_clusters = place_points(streams.uniforms("cluster/position", config.n_clusters, 2), low, canvas)
    offsets = draw_normals(streams, "free/position", count, 2) * config.cluster_spread
    span = np.maximum(canvas - 2 * low, 1e-6)
    # Positions outside are mirrored back, so that objects do not accumulate at the edge.
    placed = centers_of_clusters[np.arange(count) % config.n_clusters] + offsets - low
    return low + np.abs((placed + span) % (2 * span) - span)


def _draw_grid_centers(config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats) -> Floats:
    columns = max(1, int(np.ceil(np.sqrt(count * canvas[0] / canvas[1]))))
    rows = max(1, -(-count // columns))
    cell = np.arange(count)
    corner = np.stack([cell % columns, cell // columns], axis=1)
    jitter = (streams.uniforms("free/position", count, 2) * 2 - 1) * config.grid_jitter
    return low + (corner + 0.5 + jitter) * ((canvas - 2 * low) / np.array([columns, rows]))


def _draw_gradient_centers(
    config: LayoutConfig, streams: ImageStreams, count: int, low: Floats, canvas: Floats
) -> Floats:
    """Draw positions whose density increases linearly from left to right, by inverse transform sampling."""
    uniforms, ratio = streams.uniforms("free/position", count, 2), config.density_ratio
    if ratio != 1:
        uniforms[:, 0] = (np.sqrt(1 + uniforms[:, 0] * (ratio**2 - 1)) - 1) / (ratio - 1)
    return place_points(uniforms, low, canvas)


_LAYOUTS: dict[str, Callable[[LayoutConfig, ImageStreams, int, Floats, Floats], Floats]] = {
    "uniform": _draw_uniform_centers,
    "apart": _draw_apart_centers,
    "clusters": _draw_clusters_centers,
    "grid": _draw_grid_centers,
    "gradient": _draw_gradient_centers,
}
