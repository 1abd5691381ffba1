"""The Data Science Bowl's mean precision and counting errors, where the answers are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.config import UserError
from maskrcnn.evaluation.nuclei import compute_count_error, compute_dsb_mean_precision
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIZE = (64, 64)


def squares(corners, scores=None, side=10, ignore=None):
    masks = torch.zeros(len(corners), *SIZE, dtype=torch.bool)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    instances = Instances.from_masks(CroppedMasks.from_dense(masks), torch.ones(len(corners), dtype=torch.int64))
    instances.scores = None if scores is None else torch.tensor(scores)
    if ignore is not None:
        instances.ignore = torch.tensor(ignore)
    return instances


NOTHING = Instances(SIZE, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (squares([(5, 5), (30, 30)], [0.9, 0.8]), 1.0),
        (squares([(5, 5)], [0.9]), 1 / 2),
        (squares([(5, 5), (30, 30), (5, 30)], [0.9, 0.8, 0.7]), 2 / 3),
        (squares([(5, 5), (5, 30)], [0.9, 0.8]), 1 / 3),
        (squares([(5, 5), (30, 30), (5, 30)], [0.9, 0.8, 0.4]), 1.0),  # the false alarm scores below the threshold
        (squares([(30, 30), (6, 5)], [0.9, 0.8]), 0.7 * 1 + 0.3 * 1 / 3),  # IoU 9/11: a hit up to .8
        (NOTHING, 0.0),
    ],
)
def test_known_mixtures_of_hits_misses_and_false_alarms(found, expected):
    truth = squares([(5, 5), (30, 30)])
    assert compute_dsb_mean_precision({1: truth}, {1: found}) == pytest.approx(expected)


def test_hidden_detections_are_left_out_and_visible_ones_lose_only_what_is_covered():
    truth = squares([(5, 5)])
    duplicate = squares([(5, 5), (6, 5)], [0.9, 0.8])  # a tenth of the second is visible
    assert compute_dsb_mean_precision({1: truth}, {1: duplicate}) == pytest.approx(1.0)
    assert compute_dsb_mean_precision({1: truth}, {1: duplicate}, min_visible_fraction=0.0) == pytest.approx(0.5)


def test_ignored_truths_are_neither_missed_nor_false_alarms():
    truth = squares([(5, 5), (30, 30)], ignore=[False, True])
    assert compute_dsb_mean_precision({1: truth}, {1: squares([(5, 5)], [0.9])}) == pytest.approx(1.0)
    assert compute_dsb_mean_precision({1: truth}, {1: squares([(31, 30), (5, 5)], [0.9, 0.8])}) == pytest.approx(1.0)


def test_images_weigh_the_same_and_empty_ones_are_perfect_when_left_empty():
    truths = {1: squares([(5, 5)]), 2: Instances.empty(SIZE), 3: Instances.empty(SIZE, with_masks=True)}
    assert compute_dsb_mean_precision(truths, {1: NOTHING, 2: NOTHING}) == pytest.approx(2 / 3)
    assert compute_dsb_mean_precision(truths, {3: squares([(5, 5)], [0.9])}) == pytest.approx(1 / 3)
    assert compute_dsb_mean_precision({}, {}) is None


def test_boxes_alone_are_refused():
    boxes = Instances(SIZE, torch.tensor([[1.0, 1, 5, 5]]), torch.ones(1, dtype=torch.int64), torch.ones(1))
    with pytest.raises(UserError, match="masks"):
        compute_dsb_mean_precision({1: squares([(5, 5)])}, {1: boxes})


def test_counts_err_by_what_is_too_many_or_too_few():
    truths = {1: squares([(5, 5), (30, 30)]), 2: squares([(5, 5)], ignore=[True]), 3: Instances.empty(SIZE)}
    found = {1: squares([(5, 5)], [0.9]), 2: squares([(5, 5), (30, 30)], [0.9, 0.2])}
    error = compute_count_error(truths, found)
    assert error.absolute == pytest.approx(2 / 3)
    assert error.signed == pytest.approx(0)
    assert compute_count_error({}, {}) is None


def dense_mean_precision(truth, found):
    """The definition, over all pairs, for label images without ties in visibility."""
    scores = []
    for threshold in np.linspace(0.5, 0.95, 10):
        hits = sum(any((t & f).sum() / (t | f).sum() > threshold for f in found) for t in truth)
        scores.append(hits / max(len(truth) + len(found) - hits, 1))
    return np.mean(scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_sparse_counting_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    cells = [(8 * i, 8 * j) for i in range(8) for j in range(8)]
    where = [cells[k] for k in rng.choice(64, 6, replace=False)]

    def rectangles(keep):
        masks = np.zeros((int(keep.sum()), *SIZE), dtype=bool)
        for mask, (x, y) in zip(masks, (w for w, k in zip(where, keep, strict=True) if k), strict=True):
            mask[y : y + rng.integers(4, 9), x : x + rng.integers(4, 9)] = True
        return masks

    truth, found = rectangles(rng.random(6) < 0.8), rectangles(rng.random(6) < 0.8)

    def instances(masks):
        cropped = CroppedMasks.from_dense(torch.from_numpy(masks))
        made = Instances.from_masks(cropped, torch.ones(len(masks), dtype=torch.int64))
        made.scores = torch.ones(len(masks))
        return made

    expected = dense_mean_precision(truth, found) if len(truth) + len(found) else 1.0
    assert compute_dsb_mean_precision({1: instances(truth)}, {1: instances(found)}) == pytest.approx(expected)
