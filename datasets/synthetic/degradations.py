"""Degradations between a scene and its image: illumination, optics, sensor, and compression, in this order."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic.backgrounds import make_ramp
from datasets.synthetic.config import DegradationConfig, SceneConfig
from datasets.synthetic.streams import ImageStreams, draw_normals

Floats = NDArray[np.float64]


def degrade(image: Floats, config: SceneConfig, streams: ImageStreams) -> NDArray[np.uint8]:
    """Degrade exact values float64 [H, W, 3], 0..255, to an image uint8 [H, W, 3]."""
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
    pixels = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return _compress(pixels, settings.jpeg) if settings.jpeg else pixels


def is_identity(settings: DegradationConfig) -> bool:
    """Return whether the settings change nothing."""
    return settings == DegradationConfig()


def _match_channels(noise: Floats, config: SceneConfig) -> Floats:
    return np.repeat(noise[..., :1], 3, axis=2) if config.colours.grey else noise


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
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, 3)
    means = sum((blocks[:, i, :, j] for i in range(factor) for j in range(factor)), np.float64(0)) / factor**2
    return np.repeat(np.repeat(means, factor, axis=0), factor, axis=1)[:height, :width]


def _count_photons(image: Floats, photons: float, streams: ImageStreams) -> Floats:
    """Add Poisson noise, whose values may depend on the NumPy version."""
    generator = np.random.Generator(streams.generator("photons"))
    one_channel = (image == image[..., :1]).all()
    light = image[..., :1] if one_channel else image
    counted = generator.poisson(np.clip(light, 0, None) * (photons / 255)).astype(np.float64) * (255 / photons)
    return np.repeat(counted, 3, axis=2) if one_channel else counted


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as file:
        return np.array(file.convert("RGB"))
