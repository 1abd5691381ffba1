"""Selection of channels, and of planes of stacks: the option `--select "c=0,1 z=max t=0"`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError

REDUCTIONS = ("max", "mean")
EXAMPLE = '--select "z=max", "z=mean" or "z=0"'
_NAMES = {"c": "channels", "z": "planes", "t": "time points"}


@dataclass(frozen=True)
class Selection:
    """Channels and planes to read.

    Attributes:
        channels: numbers of the channels, from 0; None: all.
        planes: for the axes z and t, the number of a plane, "max" or "mean".
    """

    channels: tuple[int, ...] | None = None
    planes: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def axes(self) -> set[str]:
        """Letters of the axes that are selected from."""
        return set(self.planes) | ({"c"} if self.channels is not None else set())


ALL = Selection()


def parse_selection(text: str) -> Selection:
    """Parse text such as "c=0,1 z=max t=0"; `ALL` if it is empty.

    Raises:
        UserError: If it is not such text.
    """
    channels: tuple[int, ...] | None = None
    planes: dict[str, int | str] = {}
    for part in text.split():
        axis, _, value = part.partition("=")
        if axis == "c" and re.fullmatch(r"\d{1,6}(,\d{1,6})*", value) and channels is None:
            channels = tuple(map(int, value.split(",")))
        elif axis in ("z", "t") and axis not in planes and (value in REDUCTIONS or re.fullmatch(r"\d{1,6}", value)):
            planes[axis] = value if value in REDUCTIONS else int(value)
        else:
            raise UserError(
                f'--select="{text}": cannot read {part}; use c=NUMBERS, and for z and t a number, max or mean, each '
                'once, as in "c=0,1 z=max t=0"'
            )
    return Selection(channels, planes) if text.split() else ALL


@dataclass(frozen=True)
class Stack:
    """Planes of a file and what to read of them.

    Attributes:
        axes: letters of the axes of the planes, slowest first, such as "tzc"; "?" for one without a name.
        shape: their lengths.
        selection: what to read.
        where: the file, for errors.
        is_color: whether each plane has several channels of its own.
    """

    axes: str
    shape: tuple[int, ...]
    selection: Selection
    where: str
    is_color: bool = False

    @cached_property
    def named_axes(self) -> str:
        """Axes, of which a single one without a name takes the one name that is selected and missing."""
        missing = sorted(self.selection.axes - set(self.axes) - ({"c"} if self.is_color else set()))
        return self.axes.replace("?", missing[0]) if self.axes.count("?") == 1 and len(missing) == 1 else self.axes

    @property
    def reductions(self) -> tuple[str, str]:
        """How the axes z and t are reduced."""
        z, t = (str(self.selection.planes.get(axis)) for axis in "zt")
        return z, t

    def check(self, size: Sequence[int]) -> None:
        """Check that the selection leaves an image.

        Args:
            size: size (H, W) of the planes, for the message.

        Raises:
            UserError: If an axis other than the channels is left, or a number is out of range.
        """
        lengths = dict(zip(self.named_axes, self.shape, strict=True))
        left = [axis for axis in lengths if axis not in "c" and axis not in self.selection.planes]
        if left:
            axes = f"{self.axes}yx".replace("?", "i").upper()
            shape = [*self.shape, *size]
            example = EXAMPLE if left[0] in "z?" else EXAMPLE.replace("z=", f"{left[0]}=")
            pages = "" if "?" not in left else '; "c=0,1" if the pages are channels'
            python = f' (in Python, load(..., select="{left[0].replace("?", "z")}=max"))'
            raise UserError(f"{self.where}: is a stack of shape {shape} ({axes}); choose with {example}{python}{pages}")
        chosen = [("c", number) for number in self.selection.channels or ()]
        chosen += [(axis, value) for axis, value in self.selection.planes.items() if isinstance(value, int)]
        for axis, number in chosen:
            length = lengths.get(axis, 1)
            if axis != "c" and number >= length:
                raise UserError(f"{self.where}: --select {axis}={number}: it has {count_words(axis, length)}")

    def find_planes(self) -> list[NDArray[np.int64]]:
        """Return for each channel the numbers of its planes, [T, Z]; one of each where a plane is chosen."""
        numbers = np.arange(int(np.prod(self.shape)), dtype=np.int64).reshape(self.shape or (1,))
        named = self.named_axes if self.shape else "c"
        for axis in "tzc":
            if axis not in named:
                numbers, named = numbers[None], axis + named
        numbers = numbers.transpose([named.index(axis) for axis in "ctz"])
        for place, axis in ((1, "t"), (2, "z")):
            value = self.selection.planes.get(axis)
            if isinstance(value, int):
                numbers = np.take(numbers, [value], axis=place)
        return list(numbers)


def count_words(axis: str, length: int) -> str:
    """Describe the length of an axis."""
    return f"{length} {_NAMES[axis]}, numbered from 0" if length > 1 else f"one {_NAMES[axis][:-1]}"


def select_channels(where: str, selection: Selection, count: int) -> tuple[int, ...] | None:
    """Return the numbers of the chosen channels of `count`; None for all.

    Raises:
        UserError: If a number is out of range.
    """
    for number in selection.channels or ():
        if number >= count:
            raise UserError(f"{where}: --select c={number}: it has {count_words('c', count)}")
    return selection.channels


def select_planes(
    planes: Sequence[NDArray[np.int64]], selection: Selection, has_channels: bool, where: str
) -> list[NDArray[np.int64]]:
    """Return the planes of the chosen channels, where the file's planes are channels."""
    if not has_channels or selection.channels is None:
        return list(planes)
    return [planes[number] for number in select_channels(where, selection, len(planes)) or ()]
