"""Areas and tight boxes of masks as windows, and masks picked by an index, against the same on dense stacks."""

from collections.abc import Iterator

import pytest
import torch
from masks_toy import SIZE, check_sound, dense_levels, random_masks

from maskrcnn.ops import reference_masks
from maskrcnn.ops.masks import measure_masks, pick_masks
from maskrcnn.structures.masks import CroppedMasks

pytestmark = pytest.mark.usefixtures("core")


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def measured(masks: CroppedMasks) -> tuple[list[int], list[list[int]]]:
    areas, boxes = measure_masks(masks.parts)
    assert areas.dtype == torch.int64 and boxes.dtype == torch.int32 and boxes.shape == (len(masks), 4)
    return areas.tolist(), boxes.tolist()


@pytest.mark.parametrize("chunk", [None, 40])
def test_areas_and_boxes_equal_those_of_dense_masks(monkeypatch: pytest.MonkeyPatch, chunk: int | None) -> None:
    if chunk:
        monkeypatch.setattr(reference_masks, "CHUNK", chunk)
    masks = random_masks(40, soft=True)
    areas, boxes = measured(masks)
    assert areas == masks.to_dense().sum(dim=(1, 2)).tolist() and 0 in areas
    for mask, box in zip(masks.to_dense(), boxes, strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        assert box == ([*map(int, (x.min(), y.min(), x.max() + 1, y.max() + 1))] if len(x) else [0, 0, 0, 0])


def test_a_level_of_128_is_the_first_inside() -> None:
    for level, wanted in ((127, ([0], [[0, 0, 0, 0]])), (128, ([12], [[3, 2, 6, 6]])), (255, ([12], [[3, 2, 6, 6]]))):
        levels = [torch.full((4, 3), level, dtype=torch.uint8)]
        assert measured(CroppedMasks.from_windows(torch.tensor([[3, 2, 6, 6]]), levels, SIZE)) == wanted


def test_every_pixel_of_a_window_can_be_the_only_one_inside() -> None:
    for width, height in ((1, 1), (19, 3), (3, 19), (40, 7)):
        window = torch.tensor([[5, 6, 5 + width, 6 + height]] * (width * height))
        levels = (torch.eye(width * height) * 128 + 127 * (1 - torch.eye(width * height))).view(-1, height, width)
        areas, boxes = measured(CroppedMasks.from_windows(window, list(levels), (50, 50)))
        places = [[5 + x, 6 + y, 6 + x, 7 + y] for y in range(height) for x in range(width)]
        assert areas == [1] * len(places) and boxes == places


def test_nothing_and_empty_windows_have_no_area() -> None:
    assert measured(CroppedMasks.empty(SIZE)) == ([], [])
    windows = torch.tensor([[0, 0, 0, 0], [5, 6, 5, 9], [5, 6, 9, 6], [0, 0, 2**31 - 1, 0], [0, 0, 0, 2**31 - 1]])
    levels = [torch.zeros(y2 - y1, x2 - x1) for x1, y1, x2, y2 in windows.tolist()]
    masks = CroppedMasks.from_windows(windows, levels, (2**31 - 1, 2**31 - 1))
    assert measured(masks) == ([0] * 5, [[0, 0, 0, 0]] * 5)
    assert pick_masks(masks.parts, torch.tensor([3, 1])).windows.tolist() == windows[[3, 1]].tolist()


def test_a_huge_mask_among_small_ones_is_the_work_of_several_threads(two_threads: None) -> None:
    level = torch.full((1500, 2001), 255, dtype=torch.uint8)
    level[:3], level[:, -2:], level[700] = 127, 0, 0
    windows = torch.tensor([[0, 0, 2, 2], [10, 20, 2011, 1520], [4, 4, 5, 5]])
    small = [torch.tensor([[0, 128], [0, 0]]), level, torch.tensor([[200]])]
    masks = CroppedMasks.from_windows(windows, small, (2000, 3000))
    assert measured(masks) == ([1, 1999 * 1496, 1], [[1, 0, 2, 1], [10, 23, 2009, 1520], [4, 4, 5, 5]])
    picked = CroppedMasks(*pick_masks(masks.parts, torch.tensor([2, 1, 1])), masks.size)
    check_sound(picked)
    assert all(torch.equal(picked.window(at), level) for at in (1, 2)) and picked.window(0).tolist() == [[200]]


@pytest.mark.parametrize("chunk", [None, 40])
def test_picking_keeps_windows_and_levels(monkeypatch: pytest.MonkeyPatch, chunk: int | None) -> None:
    if chunk:
        monkeypatch.setattr(reference_masks, "CHUNK", chunk)
    masks, index = random_masks(20, soft=True), torch.tensor([3, 19, 3, 0, 13])
    picked = CroppedMasks(*pick_masks(masks.parts, index.int()), SIZE)
    check_sound(picked)
    assert torch.equal(picked.windows, masks.windows[index])
    assert torch.equal(dense_levels(picked), dense_levels(masks)[index])
    assert len(pick_masks(masks.parts, index[:0]).windows) == 0 == len(pick_masks(masks.parts, index[:0]).data)


@pytest.mark.parametrize("index", [torch.tensor([[0, 1]]), torch.tensor(1), torch.ones(3, dtype=torch.bool)])
def test_picking_wants_a_list_of_numbers(index: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="index must be"):
        pick_masks(random_masks(3).parts, index)


@pytest.mark.parametrize("number", [3, 70, -4])
def test_picking_a_mask_that_is_not_there_is_an_error(number: int) -> None:
    with pytest.raises((RuntimeError, IndexError), match=r"index"):
        pick_masks(random_masks(3).parts, torch.tensor([0, number]))
