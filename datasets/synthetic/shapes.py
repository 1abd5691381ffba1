"""Shapes on a canvas, before rasterization."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.outlines import Outline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shapes:
    """N shapes in pixels; pixel (row i, column j) covers [j, j + 1) × [i, i + 1).

    Parameters are rounded by the caller (`streams.round_parameter`). Every shape has the area pi a b.

    Attributes:
        centers: float64 [N, 2] (x, y).
        semi_axes: float64 [N, 2], along and across the direction.
        directions: float64 [N, 2], cosine and sine of the angle from x toward y.
        outlines: N outlines for semi-axes of 1, None for ellipses; () if all are ellipses.
    """

    centers: Floats
    semi_axes: Floats
    directions: Floats
    outlines: tuple[Outline | None, ...] = ()

    def __len__(self) -> int:
        return len(self.centers)

    def half_extents(self) -> Floats:
        """Compute half width and half height of a box around the center that contains the shape, float64 [N, 2].

        Tight for ellipses.
        """
        along, across = self.semi_axes[:, 0] ** 2, self.semi_axes[:, 1] ** 2
        cosine, sine = self.directions[:, 0] ** 2, self.directions[:, 1] ** 2
        extents = np.sqrt(np.stack([along * cosine + across * sine, along * sine + across * cosine], axis=1))
        edges, owner = self.edges()
        if len(owner):
            first = np.flatnonzero(np.diff(owner, prepend=-1))
            reach = np.abs(edges[:, :2] - self.centers[owner])
            extents[owner[first]] = np.maximum.reduceat(reach, first)
        return extents

    def edges(self) -> tuple[Floats, Ints]:
        """Return the edges of all outlines on the canvas, float64 [E, 4], and their shapes, ascending, int64 [E]."""
        outlined = [(i, each.edges) for i, each in enumerate(self.outlines) if each is not None]
        if not outlined:
            return np.zeros((0, 4)), np.zeros(0, np.int64)
        owner = np.repeat([i for i, _ in outlined], [len(edges) for _, edges in outlined])
        edges = np.concatenate([edges for _, edges in outlined])
        (cosine, sine), (along, across) = self.directions[owner].T[:, :, None], self.semi_axes[owner].T[:, :, None]
        x, y = edges[:, 0::2] * along, edges[:, 1::2] * across
        placed = np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=2) + self.centers[owner][:, None]
        return placed.reshape(-1, 4), owner

    def take(self, index: Ints) -> "Shapes":
        """Select the shapes `index`, in this order."""
        outlines = tuple(self.outlines[i] for i in index.tolist()) if self.outlines else ()
        return Shapes(self.centers[index], self.semi_axes[index], self.directions[index], outlines)

    @staticmethod
    def cat(parts: "list[Shapes]") -> "Shapes":
        """Concatenate shapes."""
        outlined = any(part.outlines for part in parts)
        outlines = tuple(each for part in parts for each in part.outlines or (None,) * len(part)) if outlined else ()
        return Shapes(
            np.concatenate([part.centers for part in parts]),
            np.concatenate([part.semi_axes for part in parts]),
            np.concatenate([part.directions for part in parts]),
            outlines,
        )
