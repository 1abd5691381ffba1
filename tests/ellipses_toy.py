"""Ellipses whose area, centroid and box are known, drawn with exact coverage and moved by affine maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SAMPLES = 10  # along each axis of a pixel


@dataclass(frozen=True)
class Ellipse:
    """The unit circle under `x ↦ shape x + centre`."""

    centre: Tensor
    shape: Tensor

    @staticmethod
    def of(x: float, y: float, a: float, b: float, angle: float) -> "Ellipse":
        cosine, sine = math.cos(angle), math.sin(angle)
        turned = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        return Ellipse(torch.tensor([x, y], dtype=torch.float64), turned * torch.tensor([a, b]))

    def under(self, map_: Tensor) -> "Ellipse":
        return Ellipse(map_[:, :2] @ self.centre + map_[:, 2], map_[:, :2] @ self.shape)

    @property
    def area(self) -> float:
        return math.pi * abs(float(torch.linalg.det(self.shape)))

    @property
    def axes(self) -> tuple[float, float]:
        major, minor = torch.linalg.svdvals(self.shape).tolist()
        return 2 * major, 2 * minor

    @property
    def box(self) -> Tensor:
        half = (self.shape @ self.shape.T).diagonal().sqrt()
        return torch.cat([self.centre - half, self.centre + half])

    def levels(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Window int32 `[4]` on a canvas of `size`, and uint8 levels in it."""
        limit = torch.tensor([size[1], size[0]])
        low = torch.minimum(self.box[:2].floor().long().clamp(min=0), limit)
        high = torch.maximum(torch.minimum(self.box[2:].ceil().long(), limit), low)
        part = (torch.arange(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES
        x, y = ((torch.arange(int(low[k]), int(high[k]))[:, None] + part).flatten() - self.centre[k] for k in (0, 1))
        back = torch.linalg.inv(self.shape)
        u, v = (back[k, 0] * x + back[k, 1] * y[:, None] for k in (0, 1))
        inside = (u * u + v * v <= 1).reshape(len(y) // SAMPLES, SAMPLES, len(x) // SAMPLES, SAMPLES)
        return torch.cat([low, high]).int(), (inside.double().mean(dim=(1, 3)) * 255).round().to(torch.uint8)


def truth_of(ellipses: Sequence[Ellipse], size: tuple[int, int]) -> Instances:
    """Instances with soft masks, ids from 0."""
    drawn = [ellipse.levels(size) for ellipse in ellipses]
    windows = torch.stack([window for window, _ in drawn]) if drawn else torch.zeros(0, 4, dtype=torch.int32)
    masks = CroppedMasks.from_windows(windows, [levels for _, levels in drawn], size)
    ids = torch.arange(len(drawn))
    return Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def scene(
    count: int, size: tuple[int, int], axes: tuple[float, float], apart: bool, seed: int = 0, most_iou: float = 0.4
) -> Instances:
    """Up to `count` ellipses with axes from a range of pixels: none touching another, or overlapping at will (and over
    the border), but no two by more than `most_iou`.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, taken = [], torch.zeros(size, dtype=torch.bool)
    for _ in range(20 * count if apart else count):
        x, y, a, b, angle = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        half = [(axes[0] + (axes[1] - axes[0]) * r) / 2 for r in (a, b)]
        ellipse = Ellipse.of(x * size[1], y * size[0], *half, angle * math.pi)
        x1, y1, x2, y2 = ellipse.box.tolist()
        if apart:
            area = (slice(max(0, int(y1) - 1), int(y2) + 2), slice(max(0, int(x1) - 1), int(x2) + 2))
            if taken[area].any() or min(x1, y1) < 0 or x2 > size[1] or y2 > size[0]:
                continue
            taken[area] = True
        kept.append(ellipse)
        if len(kept) == count:
            break
    truth = truth_of(kept, size)
    assert truth.masks is not None
    rows, columns, iou = truth.masks.iou(truth.masks)
    keep = truth.masks.areas() >= 4
    keep[rows[(iou > most_iou) & (rows < columns)]] = False
    return truth[keep]
