"""What tiles found joined: what is one object and what is two, and at what cost."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maskrcnn.inference.merging import joining, overlaps
from maskrcnn.inference.merging.joining import join_tiles
from maskrcnn.inference.merging.overlaps import split_by_cost
from maskrcnn.ops.windows import window_pixels
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


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


def squares(size: tuple[int, int], *boxes: Sequence[int], scores: Sequence[float] = ()) -> Instances:
    """Filled squares as detections."""
    masks = CroppedMasks.from_boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), size)
    found = Instances.from_masks(masks, torch.ones(len(boxes), dtype=torch.int64))
    return replace(found, scores=torch.tensor(scores) if len(scores) else torch.ones(len(boxes)))


def test_tiles_that_hold_an_object_and_miss_it_lower_its_score() -> None:
    """Of many tiles one will find something anywhere."""
    size, windows = (40, 80), torch.tensor([[0, 0, 60, 40], [10, 0, 70, 40], [20, 0, 80, 40]])
    everywhere, once, cut = (25, 5, 35, 15), (40, 20, 45, 25), (10, 20, 22, 30)
    tiles = [
        squares(size, everywhere, once, cut, scores=(0.9, 0.9, 0.8)),
        squares(size, everywhere, cut, scores=(0.6, 0.7)),
        squares(size, everywhere, (20, 20, 22, 30), scores=(0.9, 0.2)),
    ]
    found = join_tiles(tiles, windows)
    assert found.boxes.tolist() == [list(everywhere), list(cut), list(once)]
    assert torch.allclose(found.scores, torch.tensor([0.8, 0.75, 0.3]))


def test_a_cut_piece_within_a_whole_object_is_not_one_of_its_own() -> None:
    """Two tiles take what their borders leave of the object for a small one, and agree."""
    size, windows = (40, 90), torch.tensor([[0, 0, 50, 40], [5, 0, 55, 40], [40, 0, 90, 40]])
    pieces = [squares(size, (46, 10, 50, 14)), squares(size, (46, 10, 55, 14))]
    assert join_tiles([*pieces, squares(size, (43, 10, 70, 20))], windows).boxes.tolist() == [[43, 10, 70, 20]]
    assert len(join_tiles([*pieces, squares(size, (43, 30, 70, 38))], windows)) == 2, "beside it, it stays"


def test_what_a_tile_sees_of_a_neighbourhood_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all where it sees all of it: with much overlap pairs are many more than detections."""
    looked_at = []

    def watched(windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        looked_at.append(len(windows))
        return window_pixels(windows)

    monkeypatch.setattr(joining, "window_pixels", watched)
    size = (64, 128)
    windows = torch.tensor([[x, 0, x + 64, 64] for x in range(0, 65, 4)])
    objects = [(x, 20, x + 10, 30) for x in range(0, 110, 12)]
    held = [[box for box in objects if x1 <= box[0] and box[2] <= x2] for x1, _, x2, _ in windows.tolist()]
    assert len(join_tiles([squares(size, *boxes) for boxes in held], windows)) == len(objects)
    assert sum(looked_at) < 200


def test_parts_that_no_pixel_has_in_common_are_nothing() -> None:
    """Else a box would be left around nothing."""
    size = (60, 80)
    windows = torch.tensor([[0, 0, 40, 40], [30, 0, 70, 40], [0, 4, 40, 44], [30, 4, 70, 44], [0, 8, 40, 48]])
    chain = [squares(size, (30, y, 40, y + 4)) for y in (20, 22, 24, 26, 28)]  # all cut, each like the next
    assert len(join_tiles(chain, windows, threshold=0.3)) == 0
    assert len(join_tiles(chain[:2], windows[:2], threshold=0.3)) == 1
