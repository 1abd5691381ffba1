"""Rendering of scenes to pixels and label images: rasterization, backgrounds, painting, and degradations."""

import functools
import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic import reference
from datasets.synthetic._native import native
from datasets.synthetic.config import DegradationConfig, SceneConfig
from datasets.synthetic.scene import Scene, draw_background_level
from datasets.synthetic.shapes import ShapeCoverage, Shapes
from datasets.synthetic.streams import ImageStreams, draw_normals, round_parameter, scale_uniforms
from maskrcnn.config import UserError

Floats = NDArray[np.float64]

_FIXED_POINT = 256  # values are painted in units of 1/256 if they are processed further


@dataclass(frozen=True)
class Rendering:
    """Rendered scene.

    Attributes:
        image: uint8 [H, W, C], or uint16 if `bit_depth` is above 8.
        labels: uint16 [H, W], the number 1..N of the topmost object, 0 for everything else.
        coverage: all M shapes of the scene, including hidden parts.
    """

    image: NDArray[np.uint8] | NDArray[np.uint16]
    labels: NDArray[np.uint16]
    coverage: ShapeCoverage


def render(scene: Scene) -> Rendering:
    """Paint a scene in order, blended by coverage; a pixel belongs to the last shape with a level of at least 128.

    Raises:
        UserError: If a background picture is not readable.
    """
    config = scene.config
    coverage = rasterize(scene.shapes, scene.width, scene.height)
    behind = make_background(config, scene.streams)
    plain = behind.ndim == 1 and config.colours.contrast == 1 and is_identity(config.degradation)
    plain &= config.bit_depth == 8
    one = 1 if plain else _FIXED_POINT
    exact: type[Any] = np.uint16 if plain else np.uint32  # 255 x 255 + 127 fits
    colors = np.rint(_apply_contrast(scene, behind) * one).astype(exact)
    canvas, under = np.empty((scene.height, scene.width, config.channels), exact), np.rint(behind * one).astype(exact)
    canvas[:] = np.tile(under, (scene.width, 1)) if under.ndim == 1 else under  # by rows: much faster than by pixels
    labels = np.zeros((scene.height, scene.width), np.uint16)
    _paint(canvas, labels, coverage, colors, scene.numbers.astype(np.uint16))
    image = canvas if plain else degrade(canvas / _FIXED_POINT, config, scene.streams)
    dtype: type[Any] = np.uint8 if config.bit_depth == 8 else np.uint16
    return Rendering(image.astype(dtype, order="C"), labels, coverage)


def _paint(
    canvas: NDArray[Any],
    labels: NDArray[np.uint16],
    coverage: ShapeCoverage,
    colors: NDArray[Any],
    numbers: NDArray[np.uint16],
) -> None:
    """Paint shapes in place as `reference.paint` does, on a canvas of any number of channels: three at a time."""
    if canvas.shape[2] == 3:
        native(reference.paint)(canvas, labels, coverage, colors, numbers)
        return
    for start in range(0, canvas.shape[2], 3):
        part = canvas[:, :, start : start + 3]
        missing = (0, 3 - part.shape[2])
        padded = np.ascontiguousarray(np.pad(part, ((0, 0), (0, 0), missing)))
        chosen = np.ascontiguousarray(np.pad(colors[:, start : start + 3], ((0, 0), missing)))
        native(reference.paint)(padded, labels, coverage, chosen, numbers)
        part[:] = padded[:, :, : part.shape[2]]


def _apply_contrast(scene: Scene, behind: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move colors float64 [M, C] toward the background at each shape's center."""
    colors, contrast = scene.colors.astype(np.float64), scene.config.colours.contrast
    if contrast == 1:
        return colors
    if behind.ndim == 3:
        limit = np.array([scene.width, scene.height]) - 1
        column, row = np.clip(np.floor(scene.shapes.centers), 0, limit).astype(np.int64).T
        behind = behind[row, column]
    return behind + (colors - behind) * contrast


# ---- rasterization


def rasterize(shapes: Shapes, width: int, height: int) -> ShapeCoverage:
    """Rasterize N shapes independently (without occlusion) on a canvas of `width` × `height` pixels, anti-aliased.

    The level of a pixel is the fraction of SAMPLES × SAMPLES points on a regular grid in it that are inside the shape,
    so equal parameters give equal levels on every machine. Cost is proportional to outlines and windows, never to
    objects × image area.
    """
    extents = shapes.half_extents()
    windows = _clip_windows(shapes.centers, extents, width, height)
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sides.prod(axis=1))])
    return ShapeCoverage(windows, offsets, *native(reference.fill_windows)(shapes, extents[:, 1], windows))


def _clip_windows(centers: Floats, extents: Floats, width: int, height: int) -> NDArray[np.int32]:
    canvas = np.array([width, height])
    low = np.clip(np.floor(centers - extents), 0, canvas)
    high = np.clip(np.ceil(centers + extents), 0, canvas)
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    windows[(high <= low).any(axis=1)] = 0
    return windows


# ---- backgrounds

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def make_background(config: SceneConfig, streams: ImageStreams) -> Floats:
    """Make the background, float64 [C] if it is flat, otherwise [H, W, C], in 0..255.

    Raises:
        UserError: If the folder of pictures is missing or empty, or a picture is not readable.
    """
    level = draw_background_level(config, streams)
    vary = _BACKGROUNDS.get(config.background.background)
    return level if vary is None else np.clip(vary(config, streams, level), 0, 255)


def _make_gradient(config: SceneConfig, streams: ImageStreams, level: Floats) -> Floats:
    return level + make_ramp(config, streams, "background/angle")[..., None] * config.background.background_range


def make_ramp(config: SceneConfig, streams: ImageStreams, factor: str) -> Floats:
    """Make a linear ramp from 0 to 1 over the canvas in a random direction, float64 [H, W]."""
    angle = scale_uniforms(streams.uniforms(factor, 1), 0.0, 2 * np.pi)[0]
    cosine, sine = round_parameter(np.array([np.cos(angle), np.sin(angle)])).tolist()
    x = (np.arange(config.width) + 0.5) / config.width - 0.5
    y = (np.arange(config.height) + 0.5) / config.height - 0.5
    return (x * cosine + (y * sine)[:, None]) / (abs(cosine) + abs(sine)) + 0.5


def _make_noise(config: SceneConfig, streams: ImageStreams, level: Floats) -> Floats:
    """Make band-limited noise around the level: cubic B-splines of normal values one wavelength apart."""
    size = config.background.background_scale / 2
    rows, columns = (_spline_weights(length, size) for length in (config.height, config.width))
    knots = draw_normals(streams, "background/noise", rows.shape[1], columns.shape[1])
    # Averaging by overlapping splines reduces the standard deviation by two thirds.
    field = round_parameter(np.einsum("yi,ij,xj->yx", rows, knots, columns, optimize=True) * 2.0)
    return level + field[..., None] * (config.background.background_range / 2)


def _spline_weights(length: int, step: float) -> Floats:
    """Compute the cubic B-splines at knots `step` px apart in `length` pixels, float64 [length, knots]."""
    position = (np.arange(length) + 0.5) / step
    knots = np.arange(-1, int(np.ceil(length / step)) + 2)
    distance = np.abs(position[:, None] - knots)
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)


def _crop_picture(config: SceneConfig, streams: ImageStreams, level: Floats) -> Floats:
    folder = Path(config.background.pictures)
    names = _list_pictures(str(folder))
    which, x, y = streams.uniforms("background/picture", 3).tolist()
    path = folder / names[int(which * len(names))]
    try:
        with Image.open(path) as file:
            picture = np.asarray(file.convert("RGB"), np.float64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot read background picture ({error}); remove it") from error
    missing = [max(0, want - have) for want, have in zip((config.height, config.width), picture.shape[:2], strict=True)]
    picture = np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    top = int(y * (picture.shape[0] - config.height + 1))
    left = int(x * (picture.shape[1] - config.width + 1))
    cut = picture[top : top + config.height, left : left + config.width]
    if not config.colours.grey and config.channels == 3:
        return cut
    return np.repeat(np.rint(cut.mean(axis=2, keepdims=True)), config.channels, axis=2)


@functools.lru_cache(maxsize=4)
def _list_pictures(folder: str) -> list[str]:
    try:
        names = sorted(
            name for name in os.listdir(folder) if name.lower().endswith(_PICTURE_SUFFIXES) and name[0] != "."
        )
    except OSError as error:
        raise UserError(f"pictures: cannot read folder {folder} ({error.strerror}); check --pictures") from error
    if not names:
        raise UserError(f"pictures: {folder} contains no images ({', '.join(_PICTURE_SUFFIXES)}); check --pictures")
    return names


_BACKGROUNDS: dict[str, Callable[[SceneConfig, ImageStreams, Floats], Floats]] = {
    "gradient": _make_gradient,
    "noise": _make_noise,
    "pictures": _crop_picture,
}


# ---- degradations


def degrade(image: Floats, config: SceneConfig, streams: ImageStreams) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Degrade exact values float64 [H, W, C], 0..255, to an image uint8 or uint16 [H, W, C]."""
    settings = config.degradation
    if settings.illumination:
        image = image * (1 - settings.illumination * make_ramp(config, streams, "light/angle"))[..., None]
    if settings.psf:
        image = _blur(image, settings.psf)
    if settings.downsample > 1:
        image = _downsample(image, settings.downsample)
    if settings.photons:
        image = _count_photons(image, settings.photons, streams)
    if settings.noise:
        image = image + _match_channels(draw_normals(streams, "noise", *image.shape), config) * (255 * settings.noise)
    if config.bit_depth > 8:
        full = 2**config.bit_depth - 1
        return np.rint(np.clip(image, 0, 255) * (full / 255)).astype(np.uint16)
    pixels = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return _compress(pixels, settings.jpeg) if settings.jpeg else pixels


def is_identity(settings: DegradationConfig) -> bool:
    """Return whether the settings change nothing."""
    return settings == DegradationConfig()


def _match_channels(noise: Floats, config: SceneConfig) -> Floats:
    return np.repeat(noise[..., :1], config.channels, axis=2) if config.colours.grey else noise


def _blur(image: Floats, sigma: float) -> Floats:
    """Apply a Gaussian blur with mirrored borders, in a fixed order of operations for reproducibility."""
    reach = max(1, math.ceil(3 * sigma))
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(reach + 1)]
    total = weights[0] + 2 * math.fsum(weights[1:])
    weights = [round(weight / total * 2**30) / 2**30 for weight in weights]
    for axis in (0, 1):
        around = [(reach, reach) if k == axis else (0, 0) for k in range(3)]
        padded, length = np.pad(image, around, mode="symmetric"), image.shape[axis]
        image = np.take(padded, range(reach, reach + length), axis) * weights[0]
        for k in range(1, reach + 1):
            for start in (reach - k, reach + k):
                part = [slice(None)] * 3
                part[axis] = slice(start, start + length)
                image = image + padded[tuple(part)] * weights[k]
    return image


def _downsample(image: Floats, factor: int) -> Floats:
    """Average blocks of factor × factor pixels and repeat the means, so that boxes and masks stay valid."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, -1)
    means = sum((blocks[:, i, :, j] for i in range(factor) for j in range(factor)), np.float64(0)) / factor**2
    return np.repeat(np.repeat(means, factor, axis=0), factor, axis=1)[:height, :width]


def _count_photons(image: Floats, photons: float, streams: ImageStreams) -> Floats:
    """Add Poisson noise, whose values may depend on the NumPy version."""
    generator = np.random.Generator(streams.generator("photons"))
    one_channel = (image == image[..., :1]).all()
    light = image[..., :1] if one_channel else image
    counted = generator.poisson(np.clip(light, 0, None) * (photons / 255)).astype(np.float64) * (255 / photons)
    return np.repeat(counted, image.shape[2], axis=2) if one_channel else counted


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    mode = "L" if pixels.shape[2] == 1 else "RGB"
    Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as file:
        return np.array(file.convert(mode)).reshape(pixels.shape)
