"""Keyed randomness: every (seed, split, image, factor) has its own stream of uniforms.

Streams are counter-based (Philox4x64, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so no
draw depends on an earlier one: changing a factor, adding images, or distributing the work changes nothing else.
Uniforms are computed from the raw words here, because NumPy guarantees the words of a bit generator for all versions,
but not the output of its distributions.
"""

import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.config import MAX_SEED
from maskrcnn.config import UserError

PARAMETER_STEPS = 2.0**20


@dataclass(frozen=True)
class ImageStreams:
    """Streams of one image: `ImageStreams(seed, "train", 7).uniforms("size", 48)`.

    Attributes:
        seed: random seed, 0 to 2**64 - 1.
        split: name of the split.
        image: index of the image.
    """

    seed: int
    split: str
    image: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed {self.seed} is out of range: use a whole number from 0 to 2**64 - 1")

    def uniforms(self, factor: str, *shape: int) -> NDArray[np.float64]:
        """Return uniforms in [0, 1), float64 of `shape`, always the same for the same key.

        The first dimension counts objects, so additional objects do not change the values of earlier ones.
        """
        if 0 in shape:
            return np.zeros(shape)
        words = self.generator(factor).random_raw(math.prod(shape))
        return (words >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def generator(self, factor: str) -> np.random.Philox:
        """Return the bit generator at the start of the stream of `factor`."""
        key = np.array([self.seed, hash_name(factor)], dtype=np.uint64)
        counter = np.array([0, 0, self.image, hash_name(self.split)], dtype=np.uint64)
        return np.random.Philox(key=key, counter=counter)


@functools.cache
def hash_name(name: str) -> int:
    """Hash a name to 64 bits, equal in all processes and versions (unlike Python's `hash`)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def scale_uniforms(uniforms: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Scale uniforms to [low, high)."""
    return low + uniforms * (high - low)


def scale_log_uniforms(uniforms: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Scale uniforms to log-uniform values in [low, high], rounded by `round_parameter`."""
    return round_parameter(np.exp(scale_uniforms(uniforms, float(np.log(low)), float(np.log(high)))))


def draw_normals(streams: ImageStreams, factor: str, *shape: int) -> NDArray[np.float64]:
    """Draw standard normal values, float64 of `shape`, rounded by `round_parameter` (Box and Muller, 1958)."""
    uniforms = streams.uniforms(factor, *shape, 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[..., 0]))
    return round_parameter(radius * np.cos(2 * np.pi * uniforms[..., 1]))


def round_parameter(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round values to multiples of 2**-20.

    `exp`, `log`, `cos`, and `sin` differ in the last bit between CPUs; rounding removes the difference before anything
    is drawn.
    """
    return np.rint(values * PARAMETER_STEPS) / PARAMETER_STEPS
