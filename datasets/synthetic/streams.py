"""Keyed randomness: every (seed, split, image, factor) has its own stream of uniforms.

Streams are counter-based (Philox4x64, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so no
draw depends on an earlier one: changing a factor, adding images or splitting the work over processes moves nothing
else. The uniforms are made from the raw words here, because NumPy promises the words of a bit generator for ever but
not what its distributions make of them.
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
    """The streams of one image: ``ImageStreams(seed, "train", 7).uniforms("size", 48)``."""

    seed: int
    split: str
    image: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed {self.seed} is out of range: use a whole number from 0 to 2**64 - 1")

    def uniforms(self, factor: str, *shape: int) -> NDArray[np.float64]:
        """Uniforms in [0, 1), float64 of ``shape``, always the same for the same key.

        The first dimension counts objects, so more objects keep the draws of those that were there before.
        """
        if 0 in shape:
            return np.zeros(shape)
        words = self.generator(factor).random_raw(math.prod(shape))
        return (words >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def generator(self, factor: str) -> np.random.Philox:
        """The stream itself, at its beginning."""
        key = np.array([self.seed, hash_name(factor)], dtype=np.uint64)
        counter = np.array([0, 0, self.image, hash_name(self.split)], dtype=np.uint64)
        return np.random.Philox(key=key, counter=counter)


@functools.cache
def hash_name(name: str) -> int:
    """A 64-bit number for ``name``, the same in every process and version (Python's ``hash`` is neither)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def between(uniforms: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Uniforms stretched to [low, high)."""
    return low + uniforms * (high - low)


def log_between(uniforms: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Log-uniform values in [low, high], rounded like every drawn parameter."""
    return round_parameter(np.exp(between(uniforms, float(np.log(low)), float(np.log(high)))))


def normals(streams: ImageStreams, factor: str, *shape: int) -> NDArray[np.float64]:
    """Standard normal values, float64 of ``shape``, rounded like every drawn parameter (Box and Muller, 1958)."""
    uniforms = streams.uniforms(factor, *shape, 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[..., 0]))
    return round_parameter(radius * np.cos(2 * np.pi * uniforms[..., 1]))


def round_parameter(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values rounded to multiples of 2**-20.

    ``exp``, ``log``, ``cos`` and ``sin`` differ in the last bit between CPUs; rounding takes that difference away
    before anything is drawn.
    """
    return np.rint(values * PARAMETER_STEPS) / PARAMETER_STEPS
