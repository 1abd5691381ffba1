"""Interface to the stored samples of an image file, from which windows are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError

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


def format_size(size: tuple[int, ...]) -> str:
    """Format a size (H, W), height first."""
    return " x ".join(map(str, size[:2]))


def check_not_empty(path: Path, size: tuple[int, ...]) -> None:
    """Raise a UserError for an image without pixels."""
    if 0 in size:
        raise UserError(f"{path}: has no pixels ({format_size(size)})")
