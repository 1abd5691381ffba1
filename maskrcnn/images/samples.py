"""The samples of an image file, as they are stored: what `large_images` reads windows from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError

Values = NDArray[np.uint8] | NDArray[np.uint16]


class Samples(Protocol):
    """The color channels of an image: (H, W, 1 or 3) uint8 or uint16."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """[height, width, channels] at the pixel (row y, column x), all inside."""
        ...

    def close(self) -> None: ...


class Mapped:
    """An array [H, W, channels] in a file that is mapped into memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.shape = values.shape[:3]
        self.dtype = values.dtype

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        part: Values = self.values[y : y + height, x : x + width].astype(self.dtype.newbyteorder("="))
        return part

    def close(self) -> None:
        self.values = np.zeros((0, 0, 1), self.dtype)


def in_words(size: tuple[int, ...]) -> str:
    """A size (H, W), height first."""
    return " x ".join(map(str, size[:2]))


def check_not_empty(path: Path, size: tuple[int, ...]) -> None:
    """UserError for an image without pixels."""
    if 0 in size:
        raise UserError(f"{path}: has no pixels ({in_words(size)})")
