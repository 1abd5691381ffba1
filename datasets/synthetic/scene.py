"""Scenes: what one image shows, composed from settings. A function of (settings, split, image) alone."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import SceneConfig
from datasets.synthetic.layouts import free_centres, place
from datasets.synthetic.outlines import HARMONICS, STRETCHED, Outline, outline_of, reach_of
from datasets.synthetic.shapes import Shapes
from datasets.synthetic.streams import ImageStreams, between, log_between, round_parameter

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """What one image shows, from behind to front: background, clutter, then objects and distractors by depth.

    ``shapes`` holds M things in painting order (later hides earlier), ``colours`` uint8 [M, 3] theirs before contrast;
    ``numbers`` int64 [M] says which of the N objects 1..N each is, 0 for what is not looked for. ``labels`` int64 [N]
    are the objects' classes, from 1. Background and degradations follow from ``config`` and ``streams``.
    """

    config: SceneConfig
    streams: ImageStreams
    shapes: Shapes
    colours: NDArray[np.uint8]
    numbers: Ints
    labels: Ints

    @property
    def width(self) -> int:
        return self.config.width

    @property
    def height(self) -> int:
        return self.config.height


@dataclass(frozen=True)
class _Things:
    """Some shapes of a scene, their colours uint8 [K, 3] and the place of each one's shape in the list of shapes."""

    shapes: Shapes
    colours: NDArray[np.uint8]
    kinds: Ints


_NOTHING = _Things(Shapes(*np.zeros((3, 0, 2))), np.zeros((0, 3), np.uint8), np.zeros(0, np.int64))


def compose(config: SceneConfig, split: str, image: int) -> Scene:
    """The scene of image number ``image`` of ``split``.

    Raises:
        UserError: objects that must lie apart find no room; a seed that is out of range.
    """
    streams = ImageStreams(config.seed, split, image)
    groups, free = _groups(config, streams), _free(config, streams)
    clutter, distractors = _clutter(config, streams), _distractors(config, streams)
    count, others = len(groups.kinds) + len(free.kinds), len(distractors.kinds)
    # Objects keep their order; each distractor goes somewhere in between.
    depth = np.concatenate([np.arange(count) + 0.5, streams.uniforms("distractor/depth", others) * count])
    order = len(clutter.kinds) + np.argsort(depth, kind="stable")
    order = np.concatenate([np.arange(len(clutter.kinds)), order])
    parts = (clutter, groups, free, distractors)
    shapes = Shapes.cat([part.shapes for part in parts])
    numbers = np.concatenate([np.zeros(len(clutter.kinds)), np.arange(count) + 1, np.zeros(others)]).astype(np.int64)
    colours = np.concatenate([part.colours for part in parts])
    names, kinds = config.objects.class_names, np.concatenate([groups.kinds, free.kinds])
    label_of = [names.index(shape) + 1 if shape in names else 1 for shape in config.objects.shapes]
    labels = np.array(label_of, np.int64)[kinds]
    if (order == np.arange(len(order))).all():
        return Scene(config, streams, shapes, colours, numbers, labels)
    return Scene(config, streams, shapes.take(order), colours[order], numbers[order], labels)


def exclusion_radius(config: SceneConfig) -> float:
    """Half the distance at which the largest objects of these settings cannot touch."""
    objects = config.objects

    def reach(shape: str) -> float:
        stretch = objects.max_aspect if shape in STRETCHED else 1.0
        return reach_of(shape, objects) * (objects.max_diameter / 2 * float(np.sqrt(stretch)) + objects.outline)

    return max(map(reach, objects.shapes)) + 0.5


def margin(config: SceneConfig) -> float:
    """Least distance of a free object's centre from the edge: one for all sizes, so that changing them moves none."""
    if config.layout.margin >= 0:
        return config.layout.margin
    return (config.objects.min_diameter + config.objects.max_diameter) / 2


def _inset(config: SceneConfig, canvas: Floats) -> Floats:
    """The margin along each axis, float64 [2]: never above a quarter of the canvas."""
    return np.minimum(margin(config), canvas / 4)


def _choose(uniforms: Floats, shares: tuple[float, ...], count: int) -> Ints:
    """Which of ``count`` kinds each uniform picks, as often as ``shares`` say."""
    if not shares:
        return np.minimum((uniforms * count).astype(np.int64), count - 1)
    bounds = np.cumsum(shares) / np.sum(shares)
    return np.minimum(np.searchsorted(bounds, uniforms, side="right"), count - 1)


def _free(config: SceneConfig, streams: ImageStreams) -> _Things:
    layout, objects = config.layout, config.objects
    fewest = layout.n_free if layout.min_free < 0 else layout.min_free
    count = fewest + int(streams.uniforms("free/count")[()] * (layout.n_free - fewest + 1))
    kinds = _choose(streams.uniforms("free/shape", count), objects.shape_shares, len(objects.shapes))
    diameter = log_between(streams.uniforms("free/size", count), objects.min_diameter, objects.max_diameter)
    aspect = log_between(streams.uniforms("free/aspect", count), 1.0, objects.max_aspect)
    angle = between(streams.uniforms("free/angle", count), 0.0, np.radians(objects.max_angle))
    canvas = np.array([config.width, config.height], np.float64)
    if layout.layout == "apart" and layout.exclusion_radius == 0:
        layout = replace(layout, exclusion_radius=exclusion_radius(config))
    centres = free_centres(layout, streams, count, _inset(config, canvas), canvas)
    shapes = _shapes(config, objects.shapes, kinds, centres, diameter, aspect, angle, streams, "free")
    things = _Things(shapes, _colours(config, streams, "free", count), kinds)
    return things if layout.max_box_iou >= 1 else _without_overlaps(things, layout.max_box_iou)


def _without_overlaps(things: _Things, most: float) -> _Things:
    """Those whose box has no IoU above ``most`` with an earlier one that stayed."""
    extents = things.shapes.half_extents()
    low, high = things.shapes.centres - extents, things.shapes.centres + extents
    area = (high - low).prod(axis=1)
    kept: list[int] = []
    for index in range(len(area)):
        shared = np.clip(np.minimum(high[index], high[kept]) - np.maximum(low[index], low[kept]), 0, None).prod(axis=1)
        if (shared <= most * (area[index] + area[kept] - shared)).all():
            kept.append(index)
    which = np.array(kept, np.int64)
    return _Things(things.shapes.take(which), things.colours[which], things.kinds[which])


def _groups(config: SceneConfig, streams: ImageStreams) -> _Things:
    layout, objects = config.layout, config.objects
    groups, members = layout.n_groups, layout.n_objects_per_group
    diameter = log_between(streams.uniforms("group/size", groups), objects.min_diameter, objects.max_diameter)
    aspect = log_between(streams.uniforms("group/aspect", groups), layout.min_group_aspect, objects.max_aspect)
    angle = between(streams.uniforms("group/angle", groups), 0.0, np.radians(objects.max_angle))
    kinds = _choose(streams.uniforms("group/shape", groups), objects.shape_shares, len(objects.shapes))
    kinds = np.repeat(kinds, members)
    step = round_parameter(diameter / np.sqrt(aspect))
    jitter = between(streams.uniforms("member/position", groups, members, 2), -1.0, 1.0)
    jitter = jitter * (layout.group_position_jitter * diameter)[:, None, None]
    along = jitter[..., 0]
    across = jitter[..., 1] + (np.arange(members) - (members - 1) / 2) * step[:, None]
    axis = _directions(angle)[:, None, :]
    offsets = along[..., None] * axis + across[..., None] * np.stack([-axis[..., 1], axis[..., 0]], axis=-1)
    turn = between(streams.uniforms("member/angle", groups, members), -1.0, 1.0) * np.radians(layout.group_angle_jitter)
    most = layout.group_aspect_jitter
    member_aspect = aspect[:, None] * log_between(streams.uniforms("member/aspect", groups, members), 1 / most, most)
    shapes = _shapes(
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
    centres = round_parameter(
        shapes.centres + _group_places(shapes, config, streams.uniforms("group/position", groups, 2))
    )
    shapes = Shapes(centres, shapes.semi_axes, shapes.directions, shapes.outlines)
    return _Things(shapes, _colours(config, streams, "group", groups * members), kinds)


def _group_places(shapes: Shapes, config: SceneConfig, uniforms: Floats) -> Floats:
    """Where each member's group is put, float64 [groups * members, 2]: the whole group on the canvas if it fits."""
    groups, members = config.layout.n_groups, config.layout.n_objects_per_group
    reach = np.abs(shapes.centres) + shapes.half_extents()
    reach = reach.reshape(groups, members, 2).max(axis=1, initial=0.0)
    canvas = np.array([config.width, config.height], np.float64)
    return np.repeat(place(uniforms, reach, canvas), members, axis=0)


def _clutter(config: SceneConfig, streams: ImageStreams) -> _Things:
    """Shapes of any kind under the objects, in colours near the background's."""
    count = config.background.n_clutter if config.background.background == "clutter" else 0
    if count == 0:
        return _NOTHING
    kinds = ("ellipse", "rectangle", "triangle", "blob")
    chosen = _choose(streams.uniforms("clutter/shape", count), (), len(kinds))
    canvas = np.array([config.width, config.height], np.float64)
    centres = streams.uniforms("clutter/position", count, 2) * canvas
    size = config.background.background_scale
    diameter = log_between(streams.uniforms("clutter/size", count), size / 2, size * 2)
    aspect = log_between(streams.uniforms("clutter/aspect", count), 1.0, 4.0)
    angle = between(streams.uniforms("clutter/angle", count), 0.0, 2 * np.pi)
    shapes = _shapes(config, kinds, chosen, centres, diameter, aspect, angle, streams, "clutter")
    shift = between(streams.uniforms("clutter/colour", count, 3), -0.5, 0.5) * config.background.background_range
    shades = background_level(config, streams) + (shift[:, :1] if config.colours.grey else shift)
    return _Things(shapes, np.clip(np.rint(shades), 0, 255).astype(np.uint8), chosen)


def _distractors(config: SceneConfig, streams: ImageStreams) -> _Things:
    """What looks like the objects but for its shape, and has no label."""
    objects, count = config.objects, config.background.n_distractors
    if count == 0:
        return _NOTHING
    kinds = config.background.distractor_shapes
    chosen = _choose(streams.uniforms("distractor/shape", count), (), len(kinds))
    canvas = np.array([config.width, config.height], np.float64)
    centres = place(streams.uniforms("distractor/position", count, 2), _inset(config, canvas), canvas)
    diameter = log_between(streams.uniforms("distractor/size", count), objects.min_diameter, objects.max_diameter)
    aspect = log_between(streams.uniforms("distractor/aspect", count), 1.0, objects.max_aspect)
    angle = between(streams.uniforms("distractor/angle", count), 0.0, np.radians(objects.max_angle))
    shapes = _shapes(config, kinds, chosen, centres, diameter, aspect, angle, streams, "distractor")
    return _Things(shapes, _colours(config, streams, "distractor", count), chosen)


def background_level(config: SceneConfig, streams: ImageStreams) -> Floats:
    """The background's own colour, whole numbers float64 [3]."""
    low, high = config.background.min_background, config.background.max_background
    drawn = low + np.floor(streams.uniforms("background/level", 3) * (high - low + 1))
    return np.repeat(drawn[:1], 3) if config.colours.grey else drawn


def _shapes(
    config: SceneConfig,
    names: tuple[str, ...],
    kinds: Ints,
    centres: Floats,
    diameter: Floats,
    aspect: Floats,
    angle: Floats,
    streams: ImageStreams,
    factor: str,
) -> Shapes:
    """Shapes of the area of a circle of ``diameter``: the aspect changes no area, and only that of some shapes."""
    stretched = np.array([name in STRETCHED for name in names], bool)[kinds] if len(kinds) else np.zeros(0, bool)
    stretch = np.sqrt(np.where(stretched, aspect, 1.0))
    semi_axes = np.stack([diameter * stretch, diameter / stretch], axis=1) / 2 + config.objects.outline
    outlines: tuple[Outline | None, ...] = ()
    if any(name not in ("ellipse", "circle") for name in names):
        variants = streams.uniforms(f"{factor}/variant", len(kinds), 2 * HARMONICS)
        outlines = tuple(
            outline_of(names[kind], config.objects, each) for kind, each in zip(kinds.tolist(), variants, strict=True)
        )
    return Shapes(round_parameter(centres), round_parameter(semi_axes), _directions(angle), outlines)


def _directions(angle: Floats) -> Floats:
    return round_parameter(np.stack([np.cos(angle), np.sin(angle)], axis=-1))


def _colours(config: SceneConfig, streams: ImageStreams, factor: str, count: int) -> NDArray[np.uint8]:
    """Flat colours uint8 [count, 3], each channel uniform in min_colour..max_colour, both included."""
    colours = config.colours
    drawn = np.floor(streams.uniforms(f"{factor}/colour", count, 3) * (colours.max_colour - colours.min_colour + 1))
    drawn = np.repeat(drawn[:, :1], 3, axis=1) if colours.grey else drawn
    return (colours.min_colour + drawn).astype(np.uint8)
