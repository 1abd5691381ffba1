"""Arrays of several dimensions, such as Zarr's and Dask's, read by window plane by plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.config import UserError
from maskrcnn.images.options import get_image_options
from maskrcnn.images.samples import ConvertedSamples, Samples, StackSamples, Values, check_not_empty
from maskrcnn.images.selection import Stack, select_planes

MAX_PLANES = 65_536


class _Plane:
    """One plane [H, W] of an array with more axes."""

    def __init__(self, array: Any, index: tuple[int, ...]) -> None:
        self._array, self._index = array, index
        self.shape = (int(array.shape[-2]), int(array.shape[-1]), 1)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window."""
        part = self._array[(*self._index, slice(y, y + height), slice(x, x + width))]
        values: Values = np.asarray(part)[:, :, None].astype(self.dtype)
        return values

    def close(self) -> None:
        """Do nothing; the array belongs to the file."""


def open_array(path: Path, array: Any, axes: str, close: Callable[[], None] = lambda: None) -> Samples:
    """Open an array whose last two axes are y and x, of which `ImageOptions.selection` selects an image.

    Args:
        path: the file, for errors.
        array: has `shape` and `dtype`, and gives windows when it is indexed.
        axes: a letter for each axis, "t", "c", "z", "y" and "x".
        close: closes the file.

    Raises:
        UserError: If the axes are unsupported, or too little is selected.
    """
    axes = axes.lower()
    if len(axes) != len(array.shape) or axes[-2:] != "yx" or set(axes[:-2]) - set("tcz"):
        raise UserError(
            f"{path}: has the axes {axes or 'of no name'} and shape {list(array.shape)}; save them as TCZYX"
        )
    if np.dtype(array.dtype).kind not in "uif":
        raise UserError(f"{path}: its data type is {array.dtype}; save uint8, uint16 or float32")
    leading = array.shape[:-2]
    check_not_empty(path, array.shape[-2:])
    if math.prod(leading) > MAX_PLANES:
        raise UserError(f"{path}: claims an absurd number of planes ({math.prod(leading)}); check or remove it")
    named = [(axis, int(length)) for axis, length in zip(axes[:-2], leading, strict=True) if length > 1]
    selection = get_image_options().selection
    stack = Stack("".join(axis for axis, _ in named), tuple(length for _, length in named), selection, str(path))
    stack.check(array.shape[-2:])
    has_channels = "c" in stack.axes
    planes = select_planes(stack.find_planes(), selection, has_channels, str(path))
    return StackSamples(planes, stack.reductions, partial(_open_plane, path, array, leading), close, has_channels)


def _open_plane(path: Path, array: Any, leading: tuple[int, ...], number: int) -> Samples:
    index = tuple(int(each) for each in np.unravel_index(number, leading)) if leading else ()
    plane = _Plane(array, index)
    return plane if plane.dtype in (np.uint8, np.uint16, np.float32) else ConvertedSamples(plane, path)
