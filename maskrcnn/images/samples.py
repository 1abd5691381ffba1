"""Interface to the stored samples of an image file, from which windows are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError

MAX_LEVEL = 65_535  # of pixels
_MAX_OPEN_PLANES = 64
MAX_CHANNELS = 32  # more are taken for an axis in the wrong place
Values = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


class Samples(Protocol):
    """The channels of an image: (H, W, C) uint8, uint16 or float32."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window [height, width, channels] with its top left pixel at row y, column x."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class MappedSamples:
    """A memory-mapped array [H, W, channels]."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.shape = values.shape[:3]
        self.dtype = values.dtype

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        part: Values = self.values[y : y + height, x : x + width].astype(self.dtype.newbyteorder("="))
        return part

    def close(self) -> None:
        """Release the memory map."""
        self.values = np.zeros((0, 0, 1), self.dtype)


class InvertedSamples:
    """Integer samples where 0 is white."""

    def __init__(self, samples: Samples) -> None:
        self.samples, self.shape, self.dtype = samples, samples.shape, samples.dtype

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        inverted: Values = np.invert(self.samples.read(x, y, height, width))
        return inverted

    def close(self) -> None:
        """Close the file."""
        self.samples.close()


class ConvertedSamples:
    """Samples of other data types: integers become uint16, whose range they must be in, and floats float32."""

    def __init__(self, samples: Samples, path: Path) -> None:
        self.samples, self.shape, self.path = samples, samples.shape, path
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if samples.dtype.kind == "f" else np.uint16)

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        return convert_values(self.path, self.samples.read(x, y, height, width))

    def close(self) -> None:
        """Close the file."""
        self.samples.close()


class ChosenChannels:
    """Some channels of an image."""

    def __init__(self, samples: Samples, numbers: Sequence[int]) -> None:
        self.samples, self.numbers, self.dtype = samples, list(numbers), samples.dtype
        self.shape = (*samples.shape[:2], len(self.numbers))

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        return self.samples.read(x, y, height, width)[:, :, self.numbers]

    def close(self) -> None:
        """Close the file."""
        self.samples.close()


class StackSamples:
    """Planes of a stack as channels; of each channel one plane, or the maximum or mean of several.

    Args:
        channels: numbers of the planes of each channel, [T, Z].
        reductions: NumPy functions that reduce Z and then T.
        open_plane: opens a plane by its number; if there is one channel here, a plane may have several of its own.
        close: closes the file.
        has_chosen: whether `channels` are those that the options select.
    """

    def __init__(
        self,
        channels: Sequence[NDArray[np.int64]],
        reductions: Sequence[str],
        open_plane: Callable[[int], Samples],
        close: Callable[[], None],
        has_chosen: bool = False,
    ) -> None:
        self.has_chosen = has_chosen
        self._channels, self._reductions, self._close = channels, reductions, close
        self._open = functools.lru_cache(_MAX_OPEN_PLANES)(open_plane)
        first = self._open(int(channels[0].flat[0]))
        self.dtype, depth = first.dtype, first.shape[2]
        self.shape = (*first.shape[:2], depth if len(channels) == 1 else len(channels))

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        parts: list[Values] = []
        for planes in self._channels:
            over_t = [
                _reduce(self._reductions[0], [self._open(int(each)).read(x, y, height, width) for each in row])
                for row in planes
            ]
            parts.append(_reduce(self._reductions[1], over_t))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)  # type: ignore[return-value]

    def close(self) -> None:
        """Close the file."""
        self._open.cache_clear()
        self._close()


def _reduce(how: str, values: list[Values]) -> Values:
    """Reduce windows of one data type to their maximum or mean, which is rounded if they are integers."""
    if len(values) == 1:
        return values[0]
    if how == "max":
        highest: Values = values[0].copy()
        for each in values[1:]:
            np.maximum(highest, each, out=highest)
        return highest
    total = np.zeros(values[0].shape)
    for each in values:
        total += each
    mean = total / len(values)
    dtype: Any = values[0].dtype
    rounded: Values = (mean if dtype.kind == "f" else np.rint(mean)).astype(dtype)
    return rounded


def convert_values(path: Path, values: NDArray[Any]) -> Values:
    """Convert integers to uint16, and floats to float32.

    Raises:
        UserError: If an integer is negative or above 65,535.
    """
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.uint16)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if high > MAX_LEVEL:
        raise UserError(f"{path}: has pixel values up to {high}, above 16 bits; save it with 8 or 16 bits")
    if low < 0:
        raise UserError(f"{path}: has negative pixel values (down to {low}); save it as unsigned 16-bit with an offset")
    return values.astype(np.uint16)


def format_size(size: tuple[int, ...]) -> str:
    """Format a size (H, W), height first."""
    return " x ".join(map(str, size[:2]))


def check_not_empty(path: Path, size: tuple[int, ...]) -> None:
    """Raise a UserError for an image without pixels."""
    if 0 in size:
        raise UserError(f"{path}: has no pixels ({format_size(size)})")
