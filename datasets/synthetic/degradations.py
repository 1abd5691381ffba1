"""What happens between a scene and its image: light, optics, sensor, compression, in this order."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic.backgrounds import slope
from datasets.synthetic.config import DegradationConfig, SceneConfig
from datasets.synthetic.streams import ImageStreams, normals

Floats = NDArray[np.float64]


def degrade(image: Floats, config: SceneConfig, streams: ImageStreams) -> NDArray[np.uint8]:
    """The image uint8 [H, W, 3] of exact values float64 [H, W, 3], 0..255."""
    settings = config.degradation
    if settings.illumination:
        image = image * (1 - settings.illumination * slope(config, streams, "light/angle"))[..., None]
    if settings.psf:
        image = _blur(image, settings.psf)
    if settings.downsample > 1:
        image = _downsample(image, settings.downsample)
    if settings.photons:
        image = _count_photons(image, settings.photons, streams)
    if settings.noise:
        image = image + _same_if_grey(normals(streams, "noise", *image.shape), config) * (255 * settings.noise)
    pixels = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return _compress(pixels, settings.jpeg) if settings.jpeg else pixels


def leaves_as_is(settings: DegradationConfig) -> bool:
    return settings == DegradationConfig()


def _same_if_grey(noise: Floats, config: SceneConfig) -> Floats:
    return np.repeat(noise[..., :1], 3, axis=2) if config.colours.grey else noise


def _blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur along both axes, the border mirrored; sums of products in one order, alike on every machine."""
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
    """Means of factor x factor pixels, shown at the size of before, so that boxes and masks stay where they are."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, 3)
    means = sum((blocks[:, i, :, j] for i in range(factor) for j in range(factor)), np.float64(0)) / factor**2
    return np.repeat(np.repeat(means, factor, axis=0), factor, axis=1)[:height, :width]


def _count_photons(image: Floats, photons: float, streams: ImageStreams) -> Floats:
    """Poisson noise. NumPy does not promise the same values in every version."""
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
