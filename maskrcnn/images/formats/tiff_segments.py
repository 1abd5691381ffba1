"""Tiles and strips of a page of a TIFF file, decoded on demand."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np

from maskrcnn.images.samples import Values

_JPEG = 7


class SegmentedSamples:
    """Tiles or strips of a TIFF page, decoded on demand, with a cache of the most recently used ones."""

    def __init__(self, tiff: Any, page: Any, channels: int, cache_bytes: int) -> None:
        self.tiff, self.page, self.cache_bytes = tiff, page, cache_bytes
        height, width = page.imagelength, page.imagewidth
        self.shape = (height, width, channels)
        self.dtype = np.dtype(page.dtype)
        self.is_planar = page.planarconfig == 2 and page.samplesperpixel > 1
        self.side = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        self.tables = (
            {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression == _JPEG else {}
        )
        self.grid = (math.ceil(height / self.side[0]), math.ceil(width / self.side[1]))
        self._kept: OrderedDict[int, Values | None] = OrderedDict()
        self._bytes = 0

    def read(self, x: int, y: int, height: int, width: int) -> Values:
        """Read a window; missing tiles are 0."""
        window = np.zeros((height, width, self.shape[2]), self.dtype)
        for plane in range(self.shape[2] if self.is_planar else 1):
            part = window[:, :, plane : plane + 1] if self.is_planar else window
            for row in range(y // self.side[0], math.ceil((y + height) / self.side[0])):
                for column in range(x // self.side[1], math.ceil((x + width) / self.side[1])):
                    segment = self._segment((plane * self.grid[0] + row) * self.grid[1] + column)
                    if segment is not None:
                        _copy(segment, (row * self.side[0] - y, column * self.side[1] - x), self.side, part)
        return window

    def _segment(self, index: int) -> Values | None:
        """Return a segment [h, w, channels], clipped at the edge of the image; None if it is missing in the file."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        segment = self._kept[index] = self._decode(index)
        self._bytes += 0 if segment is None else segment.nbytes
        planes = self.shape[2] if self.is_planar else 1
        while self._bytes > self.cache_bytes and len(self._kept) > planes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= 0 if oldest is None else oldest.nbytes
        return segment

    def _decode(self, index: int) -> Values | None:
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        if offset == 0 or count == 0:
            return None
        self.tiff.filehandle.seek(offset)
        data = self.tiff.filehandle.read(count)  # before decoding, which moves the file position
        decoded = self.page.decode(data, index, **self.tables)[0]
        values: Values = np.ascontiguousarray(decoded[0, :, :, : 1 if self.is_planar else self.shape[2]])
        return values

    def close(self) -> None:
        """Close the file, and clear the cache."""
        self._kept.clear()
        with suppress(OSError):
            self.tiff.close()


def _copy(segment: Values, at: tuple[int, int], side: tuple[int, int], window: Values) -> None:
    """Copy the part of a segment inside a window [h, w, channels]; `at` is its top left (row, column) there."""
    there, here = [], []
    for start, length, end in zip(at, side, window.shape, strict=False):
        low, high = max(start, 0), min(start + length, end)
        there.append(slice(low, high))
        here.append(slice(low - start, high - start))
    window[there[0], there[1]] = segment[here[0], here[1]]
