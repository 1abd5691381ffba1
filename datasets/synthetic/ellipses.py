"""Scenes of small ellipses: groups lying side by side, then free ones on top of them."""

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import EllipsesConfig
from datasets.synthetic.drawing import EllipseShapes
from datasets.synthetic.scene import Scene
from datasets.synthetic.streams import ImageStreams, between, log_between, round_parameter

Floats = NDArray[np.float64]


def ellipse_scene(config: EllipsesConfig, split: str, image: int) -> Scene:
    """The scene of image number ``image`` of ``split``: a function of its arguments alone."""
    streams = ImageStreams(config.seed, split, image)
    groups, free = _group_shapes(config, streams), _free_shapes(config, streams)
    shapes = EllipseShapes(
        centres=np.concatenate([groups.centres, free.centres]),
        semi_axes=np.concatenate([groups.semi_axes, free.semi_axes]),
        directions=np.concatenate([groups.directions, free.directions]),
    )
    return Scene(config.width, config.height, shapes, _colours(config, streams))


def _free_shapes(config: EllipsesConfig, streams: ImageStreams) -> EllipseShapes:
    count = config.n_free
    diameter = log_between(streams.uniforms("free/size", count), config.min_diameter, config.max_diameter)
    aspect = log_between(streams.uniforms("free/aspect", count), 1.0, config.max_aspect)
    angle = between(streams.uniforms("free/angle", count), 0.0, np.pi)
    # One margin for all sizes, so that changing the sizes moves no centre.
    margin = np.full((count, 2), (config.min_diameter + config.max_diameter) / 2)
    canvas = np.array([config.width, config.height], np.float64)
    centres = _place(streams.uniforms("free/position", count, 2), np.minimum(margin, canvas / 4), canvas)
    return _shapes(centres, diameter, aspect, angle, config.outline)


def _group_shapes(config: EllipsesConfig, streams: ImageStreams) -> EllipseShapes:
    groups, members = config.n_groups, config.n_objects_per_group
    diameter = log_between(streams.uniforms("group/size", groups), config.min_diameter, config.max_diameter)
    aspect = log_between(streams.uniforms("group/aspect", groups), config.min_group_aspect, config.max_aspect)
    angle = between(streams.uniforms("group/angle", groups), 0.0, np.pi)
    step = round_parameter(diameter / np.sqrt(aspect))
    jitter = between(streams.uniforms("member/position", groups, members, 2), -1.0, 1.0)
    jitter = jitter * (config.group_position_jitter * diameter)[:, None, None]
    along = jitter[..., 0]
    across = jitter[..., 1] + (np.arange(members) - (members - 1) / 2) * step[:, None]
    axis = _directions(angle)[:, None, :]
    offsets = along[..., None] * axis + across[..., None] * np.stack([-axis[..., 1], axis[..., 0]], axis=-1)
    turn = between(streams.uniforms("member/angle", groups, members), -1.0, 1.0) * np.radians(config.group_angle_jitter)
    most = config.group_aspect_jitter
    member_aspect = aspect[:, None] * log_between(streams.uniforms("member/aspect", groups, members), 1 / most, most)
    shapes = _shapes(
        offsets.reshape(-1, 2),
        np.repeat(diameter, members),
        member_aspect.ravel(),
        (angle[:, None] + turn).ravel(),
        config.outline,
    )
    centres = _place_groups(shapes, config, streams.uniforms("group/position", groups, 2))
    return EllipseShapes(round_parameter(shapes.centres + centres), shapes.semi_axes, shapes.directions)


def _place_groups(shapes: EllipseShapes, config: EllipsesConfig, uniforms: Floats) -> Floats:
    """Where each member's group is put, float64 [groups * members, 2]: the whole group on the canvas if it fits."""
    reach = np.abs(shapes.centres) + shapes.half_extents()
    reach = reach.reshape(config.n_groups, config.n_objects_per_group, 2).max(axis=1, initial=0.0)
    canvas = np.array([config.width, config.height], np.float64)
    return np.repeat(_place(uniforms, reach, canvas), config.n_objects_per_group, axis=0)


def _place(uniforms: Floats, margin: Floats, canvas: Floats) -> Floats:
    """Points [N, 2] on the canvas at least ``margin`` from its edge; its middle where there is no such point."""
    low = np.minimum(margin, canvas / 2)
    return low + uniforms * (canvas - 2 * low)


def _shapes(centres: Floats, diameter: Floats, aspect: Floats, angle: Floats, outline: float) -> EllipseShapes:
    """Ellipses of the area of a circle of ``diameter``: the aspect changes no area."""
    stretch = np.sqrt(aspect)
    semi_axes = np.stack([diameter * stretch, diameter / stretch], axis=1) / 2 + outline
    return EllipseShapes(round_parameter(centres), round_parameter(semi_axes), _directions(angle))


def _directions(angle: Floats) -> Floats:
    return round_parameter(np.stack([np.cos(angle), np.sin(angle)], axis=-1))


def _colours(config: EllipsesConfig, streams: ImageStreams) -> NDArray[np.uint8]:
    """Flat colours uint8 [N, 3], each channel uniform in min_colour..max_colour, both included."""
    grouped = streams.uniforms("group/colour", config.n_groups * config.n_objects_per_group, 3)
    free = streams.uniforms("free/colour", config.n_free, 3)
    shades = config.max_colour - config.min_colour + 1
    return (config.min_colour + np.floor(np.concatenate([grouped, free]) * shades)).astype(np.uint8)
