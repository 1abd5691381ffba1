"""Intervals over seeds and images: exact re-weighting, known standard errors, and the words for them."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_toy import NAMES, make_random
from scipy.stats import t

from maskrcnn.evaluation.coco import IOU_THRESHOLDS, evaluate_coco
from maskrcnn.evaluation.intervals import compute_difference, compute_interval, describe_difference
from maskrcnn.evaluation.overlaps import find_overlaps
from maskrcnn.evaluation.resampling import draw_image_weights, resample_average_precision, resample_curve


def test_weights_of_one_give_the_ap_of_the_data() -> None:
    targets, found = make_random()
    ones = np.ones((1, len(targets)), np.float32)
    own = resample_average_precision(find_overlaps(targets, found, NAMES, "mask"), ones, IOU_THRESHOLDS)
    assert own[0] == pytest.approx(evaluate_coco(targets, found, NAMES, "mask").ap, abs=1e-12)


def test_each_replicate_is_the_ap_of_repeated_images() -> None:
    targets, found = make_random()
    overlaps = find_overlaps(targets, found, NAMES)
    weights = draw_image_weights(len(targets), 5, seed=3)
    values = resample_average_precision(overlaps, weights, (0.5,))
    for row, value in zip(weights.astype(int), values, strict=True):
        ids = [i for i, count in zip(sorted(targets), row, strict=True) for _ in range(count)]
        # Copies of a detection have one score, so the exact counterpart is without ties between them: shift each copy.
        again = {n: targets[i] for n, i in enumerate(ids)}
        copies = {n: found[i] for n, i in enumerate(ids) if i in found}
        expected = evaluate_coco(again, copies, NAMES).average_precision(0.5)
        assert value == pytest.approx(expected, abs=0.02)
    assert weights.sum(axis=1).tolist() == [len(targets)] * 5


def test_replicates_equal_a_loop_over_sorted_detections() -> None:
    rng = np.random.default_rng(0)
    positive, image, objects = rng.random(200) < 0.4, rng.integers(0, 6, 200), np.full(6, 20)
    weights = draw_image_weights(6, 20)
    values = resample_curve(positive, image, objects, weights)
    for row, value in zip(weights.astype(np.float64), values, strict=True):
        counts = row[image]
        hits, seen = np.cumsum(counts * positive), np.cumsum(counts)
        recall, precision = hits / (row @ objects), hits / np.maximum(seen, 1)
        levels = [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]
        assert value == pytest.approx(np.mean(levels), abs=1e-12)


def test_joined_blocks_change_ap_by_little_and_never_upwards() -> None:
    rng = np.random.default_rng(1)
    positive, image, objects = rng.random(20_000) < 0.4, rng.integers(0, 6, 20_000), np.full(6, 2000)
    weights = draw_image_weights(6, 10)
    exact, joined = (resample_curve(positive, image, objects, weights, blocks) for blocks in (1 << 30, 200))
    assert (joined <= exact + 1e-12).all() and (exact - joined < 0.02).all()


def test_images_without_objects_leave_a_replicate_undefined() -> None:
    none = np.zeros(0, bool), np.zeros(0, np.int64)
    assert np.isnan(resample_curve(*none, np.zeros(3, np.int64), np.ones((2, 3), np.float32))).all()
    assert resample_curve(*none, np.array([1, 0]), np.ones((2, 2), np.float32)).tolist() == [0, 0]


def test_one_seed_gives_an_interval_over_images_only_and_says_so() -> None:
    rng = np.random.default_rng(0)
    interval = compute_interval([0.5], rng.normal(0.5, 0.02, (1, 1000)), 40)
    assert interval.seed_std is None and interval.half_width == pytest.approx(t.ppf(0.975, 39) * interval.image_std)
    assert interval.image_std == pytest.approx(0.02, rel=0.1)
    assert "over 40 images only" in interval.describe_source() and "fewer than 2 seeds" in interval.describe_source()


def test_three_seeds_without_variance_of_images_have_the_wide_quantile_of_two_degrees_of_freedom() -> None:
    values = [0.5, 0.52, 0.56]
    interval = compute_interval(values, np.repeat(np.array(values)[:, None], 100, axis=1), 40)
    assert interval.half_width == pytest.approx(4.3027 * np.std(values, ddof=1) / 3**0.5, rel=1e-4)
    assert interval.value == pytest.approx(np.mean(values))
    assert interval.describe_source() == "over 3 seeds and 40 images"


def test_variance_that_all_runs_share_cancels_in_a_difference() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, 1000)
    difference = compute_difference([0.6], (0.6 + shared)[None], [0.5], (0.5 + shared)[None], 50)
    assert difference.value == pytest.approx(0.1) and difference.half_width < 1e-9


def test_noise_of_each_run_on_each_image_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(200):
        noise = rng.normal(0, 1, (4, 30))  # runs × images, no effect of either
        weights = draw_image_weights(30, 200, int(rng.integers(1 << 30)))
        interval = compute_interval(noise.mean(axis=1).tolist(), noise @ weights.T / 30, 30)
        assert interval.seed_std is not None
        widths.append(interval.seed_std**2 + interval.image_std**2)
        assert interval.half_width <= t.ppf(0.975, 2) * widths[-1] ** 0.5
    assert np.mean(widths) == pytest.approx(2 / 120, rel=0.15)  # both parts contain it, the interval does not


def test_sentence_names_the_winner_or_nobody() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (1, 1000))
    better = compute_difference([0.6], 0.6 + noise, [0.5], np.full((1, 1000), 0.5), 50)
    assert describe_difference("a", "b", "box AP", better).startswith("a beats b by 0.100 ± 0.0")
    worse = compute_difference([0.5], 0.5 + noise, [0.6], np.full((1, 1000), 0.6), 50)
    assert describe_difference("a", "b", "box AP", worse).startswith("b beats a by 0.100 ± 0.0")
    same = compute_difference([0.505], 0.505 + noise, [0.5], np.full((1, 1000), 0.5), 50)
    assert "do not differ clearly" in describe_difference("a", "b", "box AP", same)
