"""Backgrounds of scenes."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic.config import SceneConfig
from datasets.synthetic.scene import draw_background_level
from datasets.synthetic.streams import ImageStreams, draw_normals, round_parameter, scale_uniforms
from maskrcnn.config import UserError

Floats = NDArray[np.float64]
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def make_background(config: SceneConfig, streams: ImageStreams) -> Floats:
    """Make the background, float64 [3] if it is flat, otherwise [H, W, 3], in 0..255.

    Raises:
        UserError: If the folder of pictures is missing or empty, or a picture is not readable.
    """
    level = draw_background_level(config, streams)
    vary = _KINDS.get(config.background.background)
    return level if vary is None else np.clip(vary(config, streams, level), 0, 255)


def _gradient(config: SceneConfig, streams: ImageStreams, level: Floats) -> Floats:
    return level + make_ramp(config, streams, "background/angle")[..., None] * config.background.background_range


def make_ramp(config: SceneConfig, streams: ImageStreams, factor: str) -> Floats:
    """Make a linear ramp from 0 to 1 over the canvas in a random direction, float64 [H, W]."""
    angle = scale_uniforms(streams.uniforms(factor, 1), 0.0, 2 * np.pi)[0]
    cosine, sine = round_parameter(np.array([np.cos(angle), np.sin(angle)])).tolist()
    x = (np.arange(config.width) + 0.5) / config.width - 0.5
    y = (np.arange(config.height) + 0.5) / config.height - 0.5
    return (x * cosine + (y * sine)[:, None]) / (abs(cosine) + abs(sine)) + 0.5


def _noise(config: SceneConfig, streams: ImageStreams, level: Floats) -> Floats:
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


def _picture(config: SceneConfig, streams: ImageStreams, level: Floats) -> Floats:
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
    return np.repeat(np.rint(cut.mean(axis=2, keepdims=True)), 3, axis=2) if config.colours.grey else cut


@functools.lru_cache(maxsize=4)
def _list_pictures(folder: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES) and name[0] != ".")
    except OSError as error:
        raise UserError(f"pictures: cannot read folder {folder} ({error.strerror}); check --pictures") from error
    if not names:
        raise UserError(f"pictures: {folder} contains no images ({', '.join(SUFFIXES)}); check --pictures")
    return names


_KINDS: dict[str, Callable[[SceneConfig, ImageStreams, Floats], Floats]] = {
    "gradient": _gradient,
    "noise": _noise,
    "pictures": _picture,
}
