"""Box algebra of the core operations."""

import pytest
import torch
from torchvision.ops import box_iou as torchvision_iou

from maskrcnn.ops.boxes import box_area, box_intersection, box_iou

NAN, INF = float("nan"), float("inf")


def random_boxes(count: int, seed: int, extent: float = 64.0, largest: float = 24.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * extent
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * largest], dim=1)


@pytest.mark.parametrize(
    ("box", "area"),
    [((1, 2, 4, 6), 12), ((1, 2, 1, 6), 0), ((4, 2, 1, 6), 0), ((4, 6, 1, 2), 0), ((0, 0, 0.5, 0.5), 0.25)],
)
def test_area_is_width_times_height_and_never_negative(box: tuple[float, ...], area: float) -> None:
    assert box_area(torch.tensor([box], dtype=torch.float32)).tolist() == [area]


def test_area_keeps_leading_dimensions() -> None:
    assert box_area(torch.zeros(2, 3, 4)).shape == (2, 3)


@pytest.mark.parametrize("seed", range(3))
def test_iou_equals_torchvision(seed: int) -> None:
    first, second = random_boxes(40, seed), random_boxes(30, seed + 100)
    torch.testing.assert_close(box_iou(first, second), torchvision_iou(first, second))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32])
def test_types_in_which_areas_overflow_are_computed_in_wider_ones(dtype: torch.dtype) -> None:
    # 120 × 120 overflows int8 and uint8; scaled, the areas overflow float16, int16 and int32.
    scale = {torch.float16: 64, torch.bfloat16: 64, torch.int16: 256, torch.int32: 1 << 20}.get(dtype, 1)
    boxes = torch.tensor([[0, 0, 120, 120], [0, 0, 120, 60], [60, 0, 120, 120], [4, 4, 2, 2]]) * scale
    exact, found = boxes.double(), boxes.to(dtype)
    wide = torch.float64 if dtype == torch.int32 else torch.float32
    assert box_area(found).tolist() == box_area(exact).tolist() and box_area(found).dtype == wide
    assert box_intersection(found, found).tolist() == box_intersection(exact, exact).tolist()
    torch.testing.assert_close(box_iou(found, found), box_iou(exact, exact).to(wide), rtol=1e-6, atol=0)
    assert box_iou(found, found)[0].tolist() == [1, 0.5, 0.5, 0]


def test_float64_boxes_stay_float64() -> None:
    boxes = torch.tensor([[1e9, 0, 1e9 + 1, 1], [1e9 + 0.5, 0, 1e9 + 1.5, 1]], dtype=torch.float64)
    assert box_iou(boxes, boxes)[0].tolist() == [1, 1 / 3]


def test_intersection_of_touching_boxes_is_empty() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [3, 3, 5, 5]])
    assert box_intersection(boxes[:1], boxes).tolist() == [[16, 0, 1]]


@pytest.mark.parametrize(
    "broken",
    [
        (float("nan"), 0, 4, 4),
        (0, 0, float("inf"), 4),
        (float("-inf"),) * 2 + (float("inf"),) * 2,
        (2, 2, 2, 2),
        (4, 4, 0, 0),
    ],
)
def test_iou_of_broken_boxes_is_zero(broken: tuple[float, ...]) -> None:
    boxes = torch.tensor([broken, (0, 0, 4, 4)], dtype=torch.float32)
    assert box_iou(boxes, boxes).tolist() == [[0, 0], [0, 1]]


def test_iou_of_nothing_is_empty() -> None:
    assert box_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert box_iou(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)
