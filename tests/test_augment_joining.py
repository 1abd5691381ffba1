"""What tiles found joined: what is one object and what is two, and at what cost."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from augment.merging import joining, overlaps
from augment.merging.joining import join_tiles
from augment.merging.overlaps import split_by_cost
from maskrcnn.structures.instances import Instances


def seen(size: tuple[int, int], *boxes: Sequence[float]) -> Instances:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, corners, torch.ones(len(corners)).long(), torch.ones(len(corners)))


def test_neighbours_that_one_tile_saw_whole_stay_two() -> None:
    """Though what other tiles found between them is like both."""
    windows = torch.tensor([[0, 0, 60, 40], [30, 0, 90, 40], [20, 0, 80, 40]])
    size = (40, 90)
    neighbours = seen(size, (38, 10, 50, 20), (46, 10, 58, 20))
    found = join_tiles([neighbours, seen(size, (41, 10, 53, 20)), seen(size, (43, 10, 55, 20))], windows)
    assert len(found) == 2


def counted(boxes: Tensor, windows: Tensor) -> tuple[list[int], list[int]]:
    low = torch.maximum(boxes[:, None, :2], windows[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], windows[None, :, 2:])
    held = (low == boxes[:, None, :2]) & (high == boxes[:, None, 2:])
    return (low < high).all(dim=2).sum(dim=1).tolist(), held.all(dim=2).sum(dim=1).tolist()


def test_tiles_that_boxes_touch_and_that_hold_them_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 180
    boxes = torch.cat([corner, corner + torch.rand(300, 2, generator=generator) * 30 + 0.01], dim=1)
    boxes[::3] = boxes[::3].round()
    boxes[::3, 2:] += 1
    windows = torch.tensor([[x, y, x + 64, y + 64] for x in range(0, 160, 32) for y in range(0, 160, 50)])
    touched, holding = joining._count_tiles(boxes, windows)
    assert (touched.tolist(), holding.tolist()) == counted(boxes, windows)
    assert joining._count_tiles(torch.tensor([[40.0, 9.0, 40.0, 12.0]]), windows)[1].tolist() == [2]


def test_counting_costs_what_overlaps_not_detections_times_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def watched(costs: Tensor, budget: int) -> tuple[Tensor, ...]:
        looked_at.append(int(costs.sum()))
        return split_by_cost(costs, budget)

    monkeypatch.setattr(overlaps, "split_by_cost", watched)
    place = torch.arange(10_000)
    corner = torch.stack([place % 100 * 50, place // 100 * 50], dim=1)
    boxes = torch.cat([corner + 20, corner + 40], dim=1).float()
    touched, _ = joining._count_tiles(boxes, torch.cat([corner, corner + 64], dim=1))
    assert touched.tolist() == [1] * 10_000
    assert looked_at and sum(looked_at) < 20 * len(boxes)
