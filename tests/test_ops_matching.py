"""Matching against a dense loop: best truth, thresholds, forced matches, chunks."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.ops import reference
from maskrcnn.ops.boxes import box_iou
from maskrcnn.ops.matching import all_anchors, anchors_at, covered, match_anchors, match_boxes
from maskrcnn.ops.types import AnchorLevel, Matches, Ties

pytestmark = pytest.mark.usefixtures("core")

NAN, INF = float("nan"), float("inf")


def brute_force(priors: torch.Tensor, truths: torch.Tensor, min_iou: float, forced: Ties | None) -> Matches:
    """The definition, pair by pair, with distances in double precision."""
    iou = box_iou(priors, truths)
    is_forced = [False] * len(priors)
    for t in range(len(truths)):
        best = float(iou[:, t].max()) if len(priors) else 0.0
        tied = [p for p in range(len(priors)) if best > 0 and float(iou[p, t]) >= best * (1 - 1e-5)]
        if forced == "nearest" and tied:
            middle = (truths[t, :2] + truths[t, 2:]).double() / 2
            distance = [float(((priors[p, :2] + priors[p, 2:]).double() / 2 - middle).square().sum()) for p in tied]
            tied = [tied[distance.index(min(distance))]]
        for p in tied if forced else []:
            is_forced[p] = True
    index, best_iou = [-1] * len(priors), [0.0] * len(priors)
    for p in range(len(priors)):
        for t in range(len(truths)):
            if float(iou[p, t]) > best_iou[p]:
                index[p], best_iou[p] = t, float(iou[p, t])
        if best_iou[p] < min_iou and not is_forced[p]:
            index[p], best_iou[p] = -1, 0.0
    return Matches(torch.tensor(index), torch.tensor(best_iou), torch.tensor(is_forced))


def assert_same(found: Matches, wanted: Matches) -> None:
    for name, got, expected in zip(Matches._fields, found, wanted, strict=True):
        torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


def boxes_of(table: list[tuple[int, ...]]) -> torch.Tensor:
    columns = torch.tensor(table, dtype=torch.float32).reshape(-1, 4)
    return torch.cat([columns[:, :2], columns[:, :2] + columns[:, 2:]], dim=1)


box = st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(0, 6), st.integers(0, 6))
forcing = st.sampled_from([None, "all", "nearest"])


@settings(max_examples=60, deadline=None)
@given(st.lists(box, max_size=12), st.lists(box, max_size=6), st.sampled_from([0.0, 0.3, 0.5, 1.0]), forcing)
def test_matching_equals_the_dense_definition(
    priors: list[tuple[int, ...]], truths: list[tuple[int, ...]], min_iou: float, forced: Ties | None
) -> None:
    boxes, targets = boxes_of(priors), boxes_of(truths)
    assert_same(match_boxes(boxes, targets, min_iou, forced), brute_force(boxes, targets, min_iou, forced))


LEVELS = [
    AnchorLevel((4.0, 4.0), (2.0, 2.0), torch.tensor([[11.3, 5.7], [8.0, 8.0], [5.7, 11.3]]), 7, 9),
    AnchorLevel((8.0, 8.0), (4.0, 4.0), torch.tensor([[22.6, 11.3], [16.0, 16.0], [11.3, 22.6]]), 4, 5),
]


def truths_in(width: float, height: float, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    half = 1 + torch.rand(count, 2, generator=generator) * 8
    return torch.cat([centre - half, centre + half], dim=1)


@pytest.mark.parametrize("forced", [None, "all", "nearest"])
def test_matching_anchors_is_matching_all_of_them(forced: Ties | None) -> None:
    truths = truths_in(36, 28, 12)
    found = match_anchors(LEVELS, truths, 0.3, forced)
    assert_same(found, match_boxes(all_anchors(LEVELS), truths, 0.3, forced))
    assert_same(found, brute_force(all_anchors(LEVELS), truths, 0.3, forced))


def random_pyramid(random: Random) -> tuple[list[AnchorLevel], torch.Tensor]:
    """Grids of any shape, and truths in and beyond the image, doubled, broken, on whole pixels half of the time."""
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    whole, height, width = random.random() < 0.5, random.randint(1, 64), random.randint(1, 64)
    levels, per_cell, finest = [], random.randint(1, 3), random.choice([2, 4, 8])
    for stride in [finest, finest * 2, finest * 4][: random.randint(1, 3)]:
        sizes = torch.rand(per_cell, 2, generator=generator) * 40 + 0.5
        steps = (float(stride), float(stride + random.choice([0, 0, 1])))
        offset = random.choice([0.0, 0.5]) * stride
        levels.append(
            AnchorLevel(
                steps, (offset, offset), sizes.ceil() if whole else sizes, -(-height // stride), -(-width // stride)
            )
        )
    truths = truths_in(width, height, random.randint(0, 10), random.randrange(2**31)) * random.choice([1.0, 1.3])
    truths = truths.round() if whole else truths
    if len(truths) > 4:
        truths[1], truths[2] = truths[0], torch.tensor([0, 0, INF, 4])
        truths[3] = truths[3].flip(0)
    return levels, truths


@pytest.mark.parametrize("forced", [None, "all", "nearest"])
@pytest.mark.parametrize("min_iou", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_anchors_near_a_truth_are_all_that_match(min_iou: float, forced: Ties | None) -> None:
    """The matching of grids, which skips anchors far from a truth, against the dense one."""
    for seed in range(25):
        levels, truths = random_pyramid(Random(seed))
        found = match_anchors(levels, truths, min_iou, forced)
        assert_same(found, match_boxes(all_anchors(levels), truths, min_iou, forced))


@pytest.mark.parametrize("forced", [None, "all", "nearest"])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, forced: Ties | None) -> None:
    truths = torch.cat([truths_in(36, 28, 20), truths_in(36, 28, 20)])  # each twice: ties across chunks
    priors = all_anchors(LEVELS)
    whole = match_boxes(priors, truths, 0.2, forced)
    monkeypatch.setattr(reference, "CHUNK", 700)
    assert_same(match_boxes(priors, truths, 0.2, forced), whole)
    assert_same(match_anchors(LEVELS, truths, 0.2, forced), whole)
    assert int(whole.index.max()) < 20  # of equal truths the lower


def test_a_prior_below_the_threshold_is_unmatched_unless_forced() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    truth = torch.tensor([[0.0, 0, 4, 4]])
    plain = match_boxes(priors, truth, 0.5)
    assert plain.index.tolist() == [-1, -1, -1] and plain.iou.tolist() == [0, 0, 0] and not plain.forced.any()
    forced = match_boxes(priors, truth, 0.5, "all")
    assert forced.index.tolist() == [-1, 0, -1] and forced.forced.tolist() == [False, True, False]
    assert forced.iou[1] == pytest.approx(16 / 50)


def test_the_threshold_itself_matches() -> None:
    match = match_boxes(torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([[0.0, 0, 4, 4]]), 0.5)
    assert match.index.tolist() == [0] and match.iou.tolist() == [0.5]


def test_a_small_truth_inside_many_anchors_forces_all_ties_or_the_nearest() -> None:
    level = AnchorLevel((4.0, 4.0), (2.0, 2.0), torch.tensor([[32.0, 32.0]]), 16, 16)
    truth = torch.tensor([[29.0, 29.0, 37.0, 37.0]])  # centre (33, 33); nearest anchor centre (34, 34)
    everyone = match_anchors([level], truth, 0.3, "all")
    assert int(everyone.forced.sum()) == 36
    nearest = match_anchors([level], truth, 0.3, "nearest")
    assert torch.nonzero(nearest.forced).flatten().tolist() == [8 * 16 + 8]
    assert nearest.index[8 * 16 + 8] == 0 and nearest.iou[8 * 16 + 8] == pytest.approx(64 / 1024)


def test_the_nearest_centre_is_exact_far_from_the_origin() -> None:
    """Distances by the expansion |a|² + |b|² - 2ab lose whole pixels here."""
    level = AnchorLevel((1.0, 1.0), (0.5, 0.5), torch.tensor([[40.0, 40.0]]), 64, 64)
    offset = 4000.0
    far = level._replace(offset=(offset + 0.5, offset + 0.5))  # the same grid, moved
    truth = torch.tensor([[28.0, 28, 36.6, 36.6]])
    near = match_anchors([level], truth, 0.3, "nearest")
    assert_same(match_anchors([far], truth + offset, 0.3, "nearest")._replace(iou=near.iou), near)
    assert torch.nonzero(near.forced).flatten().tolist() == [32 * 64 + 32]


@pytest.mark.parametrize("forced", [None, "all", "nearest"])
def test_without_truths_or_priors_nothing_matches(forced: Ties | None) -> None:
    none = match_boxes(torch.rand(5, 4), torch.zeros(0, 4), 0.0, forced)
    assert none.index.tolist() == [-1] * 5 and none.iou.tolist() == [0] * 5 and not none.forced.any()
    assert len(match_boxes(torch.zeros(0, 4), torch.rand(5, 4), 0.0, forced).index) == 0


def test_broken_boxes_never_match() -> None:
    broken = torch.tensor([[NAN, 0, 4, 4], [0, 0, INF, 4], [0, 0, 4, 4], [2, 2, 2, 2]])
    found = match_boxes(broken, broken, 0.0, "all")
    assert found.index.tolist() == [-1, -1, 2, -1] and found.forced.tolist() == [False, False, True, False]
    assert found.index.dtype == torch.int64 and found.iou.dtype == torch.float32


def test_anchors_stand_in_the_order_level_row_column_anchor() -> None:
    anchors = all_anchors(LEVELS)
    assert anchors.shape == (7 * 9 * 3 + 4 * 5 * 3, 4)
    centres, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(centres[3 * (9 * 2 + 5) + 1], torch.tensor([5 * 4.0 + 2, 2 * 4.0 + 2]))
    torch.testing.assert_close(sizes[3 * (9 * 2 + 5) + 2], torch.tensor([5.7, 11.3]))
    torch.testing.assert_close(centres[7 * 9 * 3 + 3], torch.tensor([12.0, 4.0]))


def test_anchors_at_an_index_are_those_of_all() -> None:
    index = torch.tensor([[0, 5, 100], [188, 60, 7]])
    assert torch.equal(anchors_at(LEVELS[0], index), all_anchors(LEVELS[:1])[index])


def test_unequal_strides_and_offsets_belong_to_y_and_x() -> None:
    level = AnchorLevel((10.0, 3.0), (5.0, 1.0), torch.tensor([[2.0, 4.0]]), 2, 3)
    assert all_anchors([level])[4].tolist() == [3.0, 13.0, 5.0, 17.0]


def test_covered_takes_the_share_inside_one_region() -> None:
    priors = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [3, 0, 7, 4], [NAN, 0, 4, 4], [1, 1, 1, 1]])
    assert covered(priors, torch.tensor([[0.0, 0, 4, 4]])).tolist() == [True, True, False, False, False]
    halves = torch.tensor([[0.0, 0, 1, 4], [3, 0, 4, 4]])  # a quarter each: no one region holds half
    assert covered(priors[:1], halves).tolist() == [False]
    assert covered(priors, torch.zeros(0, 4)).tolist() == [False] * 5
    assert covered(priors[2:3], torch.tensor([[0.0, 0, 4, 4]]), 0.25).tolist() == [True]


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 3, 4)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"priors must be \[N, 4\]"):
        match_boxes(torch.zeros(shape), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="targets"):
        match_anchors(LEVELS, torch.zeros(shape))
