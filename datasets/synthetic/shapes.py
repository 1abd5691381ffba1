"""Shapes placed on a canvas, before any pixel is looked at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.outlines import Outline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shapes:
    """N shapes in pixels; pixel (row i, column j) covers [j, j+1) x [i, i+1).

    ``centres`` float64 [N, 2] (x, y); ``semi_axes`` float64 [N, 2] along and across ``directions`` float64 [N, 2]
    (cosine, sine of the angle from x towards y), all rounded by the caller (``streams.round_parameter``).
    ``outlines``: N of them for semi-axes of 1, None for ellipses; () if all are ellipses. Each has the area pi a b.
    """

    centres: Floats
    semi_axes: Floats
    directions: Floats
    outlines: tuple[Outline | None, ...] = ()

    def __len__(self) -> int:
        return len(self.centres)

    def half_extents(self) -> Floats:
        """Half width and half height of a box about the centre that holds the shape, float64 [N, 2]; tight for
        ellipses."""
        along, across = self.semi_axes[:, 0] ** 2, self.semi_axes[:, 1] ** 2
        cosine, sine = self.directions[:, 0] ** 2, self.directions[:, 1] ** 2
        extents = np.sqrt(np.stack([along * cosine + across * sine, along * sine + across * cosine], axis=1))
        edges, owner = self.edges()
        if len(owner):
            first = np.flatnonzero(np.diff(owner, prepend=-1))
            reach = np.abs(edges[:, :2] - self.centres[owner])
            extents[owner[first]] = np.maximum.reduceat(reach, first)
        return extents

    def edges(self) -> tuple[Floats, Ints]:
        """Edges of all outlines on the canvas, float64 [E, 4], and whose they are, rising, int64 [E]."""
        outlined = [(i, each.edges) for i, each in enumerate(self.outlines) if each is not None]
        if not outlined:
            return np.zeros((0, 4)), np.zeros(0, np.int64)
        owner = np.repeat([i for i, _ in outlined], [len(edges) for _, edges in outlined])
        edges = np.concatenate([edges for _, edges in outlined])
        (cosine, sine), (along, across) = self.directions[owner].T[:, :, None], self.semi_axes[owner].T[:, :, None]
        x, y = edges[:, 0::2] * along, edges[:, 1::2] * across
        placed = np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=2) + self.centres[owner][:, None]
        return placed.reshape(-1, 4), owner

    def take(self, index: Ints) -> "Shapes":
        """The shapes that ``index`` names, in its order."""
        outlines = tuple(self.outlines[i] for i in index.tolist()) if self.outlines else ()
        return Shapes(self.centres[index], self.semi_axes[index], self.directions[index], outlines)

    @staticmethod
    def cat(parts: "list[Shapes]") -> "Shapes":
        outlined = any(part.outlines for part in parts)
        outlines = tuple(each for part in parts for each in part.outlines or (None,) * len(part)) if outlined else ()
        return Shapes(
            np.concatenate([part.centres for part in parts]),
            np.concatenate([part.semi_axes for part in parts]),
            np.concatenate([part.directions for part in parts]),
            outlines,
        )
