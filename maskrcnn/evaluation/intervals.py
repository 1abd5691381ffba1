"""Confidence intervals of metrics over seeds (training runs) and images.

A metric m is measured for S runs of one method that differ in their seed, on the same I images. Both the runs and the
images are samples, and they are crossed: every run sees every image. The variance of the mean over runs is estimated
in two levels,

    v_seed = s² / S,    v_image = variance over the replicates of the mean over runs,

where s² is the sample variance of m over the runs, and each replicate draws the images with replacement, the same ones
for all runs (and for both methods of a comparison: this makes it paired). What is random for each run on each image
is in both parts, and is subtracted once, as in the analysis of variance of two crossed factors. With d_s the
deviation of run s from the mean over runs in each replicate,

    v_both = Σ_s variance over the replicates of d_s / (S (S - 1)),
    v = max(v_seed + v_image - v_both, v_seed, v_image).

The interval is

    m ± t(ν) · √v,    ν = v² / (v_seed² / (S - 1) + v_image² / (I - 1)),

with the quantile of Student's t distribution at the degrees of freedom of Welch (1947) and Satterthwaite (1946). With
three runs and v_seed alone, ν = 2 and t = 4.30, where the normal distribution has 1.96. In a comparison, v_seed is the
sum of both methods' parts, each with its own degrees of freedom. With one run, v_seed is unknown and left out: the
interval is over images only, and holds for this run alone.

The resampling of images is that of Efron and Tibshirani 1993, chapter 6; resampling both levels of a crossed design is
discussed by Owen 2007 (The pigeonhole bootstrap, Annals of Applied Statistics).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
        value: mean over runs.
        low: lower end.
        high: upper end.
        num_seeds: number of runs (of the method with fewer in a comparison); with 1, the interval is over images only.
        num_images: number of images.
        seed_std: standard error due to seeds, √v_seed; None with one run.
        image_std: standard error due to images, √v_image.
        confidence: probability with which the interval covers the true value.
    """

    value: float
    low: float
    high: float
    num_seeds: int
    num_images: int
    seed_std: float | None
    image_std: float
    confidence: float = 0.95

    @property
    def half_width(self) -> float:
        """Half of the width."""
        return (self.high - self.low) / 2

    def describe_source(self) -> str:
        """Describe what the interval is over."""
        images = f"{self.num_images} image{'s' * (self.num_images != 1)}"
        if self.seed_std is None:
            return f"over {images} only: with fewer than 2 seeds, nothing is known about other seeds"
        return f"over {self.num_seeds} seeds and {images}"


def compute_interval(
    values: Sequence[float], replicates: NDArray[np.float64], num_images: int, confidence: float = 0.95
) -> Interval:
    """Compute the interval of a method's metric.

    Args:
        values: the metric of each of S runs.
        replicates: float64 `[S, R]`, the metric of each run with resampled images; NaN where it is undefined.
        num_images: number of images.
        confidence: see `Interval`.
    """
    return _combine([np.asarray(values)], [replicates], num_images, confidence)


def compute_difference(
    values: Sequence[float],
    replicates: NDArray[np.float64],
    other_values: Sequence[float],
    other_replicates: NDArray[np.float64],
    num_images: int,
    confidence: float = 0.95,
) -> Interval:
    """Compute the interval of the difference of two methods on the same images, whose replicates share their weights.

    Args:
        values: the metric of each run of the first method.
        replicates: float64 `[S, R]`, see `compute_interval`.
        other_values: the metric of each run of the second method, which is subtracted.
        other_replicates: float64 `[S, R]`.
        num_images: number of images.
        confidence: see `Interval`.
    """
    both = [np.asarray(values), np.asarray(other_values)]
    return _combine(both, [replicates, other_replicates], num_images, confidence)


def _combine(
    values: Sequence[NDArray[np.float64]],
    replicates: Sequence[NDArray[np.float64]],
    num_images: int,
    confidence: float,
) -> Interval:
    from scipy.stats import t  # a dependency of scikit-image; the import takes long

    signs = (1.0, -1.0)[: len(values)]
    value = float(sum(sign * each.mean() for sign, each in zip(signs, values, strict=True)))
    means = np.sum([sign * each.mean(axis=0) for sign, each in zip(signs, replicates, strict=True)], axis=0)
    known = means[~np.isnan(means)]
    image_variance = float(np.var(known, ddof=1)) if len(known) > 1 else 0.0
    num_seeds = min(len(each) for each in values)
    parts = [(image_variance, max(num_images - 1, 1))]
    if num_seeds > 1:
        parts += [(float(np.var(each, ddof=1)) / len(each), len(each) - 1) for each in values]
    seed_variance = sum(variance for variance, _ in parts[1:])
    both = sum(_compute_interaction(each) for each in replicates) if num_seeds > 1 else 0.0
    total = max(seed_variance + image_variance - both, seed_variance, image_variance)
    squares = sum(variance**2 / freedom for variance, freedom in parts)
    half = float(t.ppf(0.5 + confidence / 2, total**2 / squares)) * total**0.5 if squares else 0.0
    seed_std = float(seed_variance**0.5) if num_seeds > 1 else None
    return Interval(value, value - half, value + half, num_seeds, num_images, seed_std, image_variance**0.5, confidence)


def _compute_interaction(replicates: NDArray[np.float64]) -> float:
    """Compute the variance of the mean over runs that is random for each run on each image, from `[S, R]`."""
    known = replicates[:, ~np.isnan(replicates).any(axis=0)]
    if known.shape[1] < 2:
        return 0.0
    count = len(known)
    apart = known - known.mean(axis=0)
    return float(np.var(apart, axis=1, ddof=1).sum() / (count * (count - 1)))


def describe_difference(name: str, other: str, metric: str, difference: Interval) -> str:
    """Describe in one sentence which of two methods is better.

    Args:
        name: name of the first method.
        other: name of the second method.
        metric: name of the metric, higher is better.
        difference: first minus second.
    """
    amount = f"{abs(difference.value):.3f} ± {difference.half_width:.3f} {metric}"
    source = f"{difference.confidence:.0%} interval {difference.describe_source()}"
    if difference.low <= 0 <= difference.high:
        amount = f"{difference.value:+.3f} ± {difference.half_width:.3f} {metric}"
        return f"{name} and {other} do not differ clearly: {amount} ({source})"
    winner, loser = (name, other) if difference.value > 0 else (other, name)
    return f"{winner} beats {loser} by {amount} ({source})"
