"""Greedy non-maximum suppression against a plain loop and torchvision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_toy import pairs_of_whole_boxes
from torchvision.ops import batched_nms
from torchvision.ops import nms as torchvision_nms

from maskrcnn.ops.boxes import box_iou
from maskrcnn.ops.nms import nms

pytestmark = pytest.mark.usefixtures("core")

NAN, INF = float("nan"), float("inf")


def greedy(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, groups: torch.Tensor) -> list[int]:
    """The definition, box by box."""
    iou, kept = box_iou(boxes, boxes), []
    for i in sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)):
        if all(groups[i] != groups[j] or not float(iou[j, i]) > threshold for j in kept):
            kept.append(i)
    return kept


coordinates = st.integers(0, 12)
rows = st.tuples(coordinates, coordinates, st.integers(0, 6), st.integers(0, 6), st.integers(0, 4), st.integers(-1, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=25), st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 1.0]))
def test_nms_equals_the_loop_with_groups_ties_and_empty_boxes(table: list[tuple[int, ...]], threshold: float) -> None:
    columns = torch.tensor(table, dtype=torch.float32).reshape(-1, 6)
    boxes = torch.cat([columns[:, :2], columns[:, :2] + columns[:, 2:4]], dim=1)
    scores, groups = columns[:, 4] / 4, columns[:, 5].long()
    assert nms(boxes, scores, threshold, groups).tolist() == greedy(boxes, scores, threshold, groups)


def test_nms_equals_torchvision_on_many_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2000, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 4 + torch.rand(2000, 2, generator=generator) * 16], dim=1)
    scores, groups = torch.rand(2000, generator=generator), torch.randint(3, (2000,), generator=generator)
    assert nms(boxes, scores, 0.5, groups).tolist() == batched_nms(boxes, scores, groups, 0.5).tolist()


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("origin", [0.0, 4097.0])
def test_nms_equals_torchvision_at_ious_of_exactly_the_threshold(origin: float, threshold: float) -> None:
    boxes, groups = pairs_of_whole_boxes(origin)
    scores = torch.arange(len(boxes), 0, -1, dtype=torch.float32)
    pairs = zip(boxes.split(2), scores.split(2), strict=True)
    wanted = [2 * i + int(k) for i, pair in enumerate(pairs) for k in torchvision_nms(*pair, threshold)]
    assert nms(boxes, scores, threshold, groups).tolist() == sorted(wanted)


@pytest.mark.parametrize(("threshold", "kept"), [(0.3, [0]), (0.5, [0, 1]), (0.6, [0]), (0.7, [0, 1])])
def test_a_threshold_that_float32_rounds_up_is_exceeded_by_an_equal_iou(threshold: float, kept: list[int]) -> None:
    # As in torchvision on a CPU: the IoU is float32, the threshold is not rounded. 0.3 in float32 is above 0.3.
    boxes = torch.tensor([[0.0, 0, 100, 10], [0, 0, round(100 * threshold), 10]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), threshold).tolist() == kept


def test_boxes_of_float64_are_rounded_to_float32() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5 + 1e-9]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8], dtype=torch.float64)
    assert nms(boxes, scores, 0.5).tolist() == nms(boxes.float(), scores, 0.5).tolist() == [0, 1]


def test_of_equal_scores_the_lower_index_wins() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(5, 1)
    assert nms(boxes, torch.ones(5), 0.5).tolist() == [0]
    assert nms(boxes, torch.tensor([0.0, 1, 0, 1, 1]), 0.5).tolist() == [1]


def test_boxes_of_different_groups_never_suppress_each_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    scores = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert nms(boxes, scores, 0.5, torch.tensor([-7, 2**40, -7, 5])).tolist() == [1, 2, 3]


def test_groups_far_apart_do_not_blur_small_boxes() -> None:
    # Offsets between groups would round these coordinates: 1/32 px at 2^18.
    boxes = torch.tensor([[4000.0, 4000, 4004, 4004], [4001.34, 4000, 4005.34, 4004]])
    assert float(box_iou(boxes[:1], boxes[1:])) < 0.5
    groups = torch.full((2,), 60)
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.4985, groups).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.4965, groups).tolist() == [0]


@pytest.mark.parametrize("broken", [(NAN, 0, 10, 10), (0, 0, INF, 10), (-INF, -INF, INF, INF)])
def test_boxes_that_are_not_finite_are_kept_and_suppress_nothing(broken: tuple[float, ...]) -> None:
    boxes = torch.tensor([(0, 0, 10, 10), broken, broken, (0, 0, 10, 10)], dtype=torch.float32)
    assert nms(boxes, torch.tensor([0.6, 0.9, 0.8, 0.7]), 0.1).tolist() == [1, 2, 3]


def test_no_boxes_give_no_indices() -> None:
    kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5, torch.zeros(0, dtype=torch.int64))
    assert kept.shape == (0,) and kept.dtype == torch.int64


def test_boxes_in_any_memory_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 8], dim=1)
    scores, groups = torch.rand(400, generator=generator)[::2], torch.arange(200).repeat_interleave(2)[::2] % 3
    wide = torch.cat([boxes, boxes], dim=1)[:, 2:6].roll(2, dims=1)
    wanted = nms(boxes, scores.clone(), 0.3, groups.clone())
    assert torch.equal(nms(boxes.T.contiguous().T, scores, 0.3, groups), wanted)
    assert torch.equal(nms(wide, scores, 0.3, groups), wanted)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([1, 50]), st.floats(0, 1))
def test_what_is_kept_does_not_overlap_and_what_goes_does(seed: int, groups: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1500, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 4 + torch.rand(1500, 2, generator=generator) * 30], dim=1)
    scores, group = torch.rand(1500, generator=generator), torch.randint(groups, (1500,), generator=generator)
    kept = nms(boxes, scores, threshold, group)
    iou = torch.where(group[:, None] == group, box_iou(boxes, boxes), 0.0).double()
    overlaps = iou > threshold
    among = overlaps[kept][:, kept]
    assert not among.fill_diagonal_(False).any()
    gone = torch.ones(1500, dtype=torch.bool).index_fill_(0, kept, False)
    better = overlaps[:, kept] & (scores[kept] >= scores[:, None])
    assert better[gone].any(dim=1).all()


def test_half_precision_is_compared_in_single() -> None:
    boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 4.25]], dtype=torch.float16)
    assert nms(boxes, torch.tensor([0.5, 0.25], dtype=torch.float16), 0.53).tolist() == [0]


@pytest.mark.parametrize(
    ("boxes", "scores", "groups", "named"),
    [((3, 5), 3, None, "boxes"), ((3, 4), 2, None, "scores"), ((3, 4), 3, 4, "groups")],
)
def test_shapes_that_do_not_belong_together(
    boxes: tuple[int, int], scores: int, groups: int | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        nms(torch.zeros(boxes), torch.zeros(scores), 0.5, None if groups is None else torch.zeros(groups).long())
