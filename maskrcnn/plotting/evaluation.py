"""Pictures of an evaluation: reliability of scores, precision and recall, and error types of one or several results."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maskrcnn.plotting.curves import COLORS, finish_axes, save_figure

Path = str | os.PathLike[str]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def plot_reliability(curves: Mapping[str, tuple[Curve, NDArray[np.int64]]], path: Path, title: str = "") -> None:
    """Plot the fraction of true positives over the score, and below it how many detections each bin has.

    Args:
        curves: `curves[name] = ((mean score [B], precision [B]), count [B])`; NaN for empty bins.
        path: PNG file to write.
        title: title of the figure.
    """
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    figure.suptitle(title, fontsize=11, color="dimgrey")
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], "--", color="grey", lw=1, label="calibrated")
    for number, (name, ((score, precision), count)) in enumerate(curves.items()):
        color, width = COLORS[number % len(COLORS)], 0.8 / len(count) / len(curves)
        known = count > 0
        upper.plot(score[known], precision[known], "o-", color=color, ms=4, label=name)
        centers = (np.arange(len(count)) + 0.5) / len(count) + (number - (len(curves) - 1) / 2) * width
        lower.bar(centers, count, width, color=color)
    finish_axes(upper, "Reliability of scores (IoU ≥ 0.5)", "score", "precision", unit_range=True, legend="beside")
    finish_axes(lower, "", "score", "detections")
    upper.set_xlabel("")
    lower.set_xlim(0, 1)
    save_figure(figure, path)


def plot_precision_recall_of_results(curves: Mapping[str, Curve], path: Path, title: str = "") -> None:
    """Plot precision over recall at IoU .5, a line per result.

    Args:
        curves: `curves[name] = (recall [R], precision [R])`.
        path: PNG file to write.
        title: title of the figure.
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=11, color="dimgrey")
    axes = figure.subplots()
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        label = f"{name}: AP50 {np.mean(precision):.3f}"
        axes.plot(recall, precision, color=COLORS[number % len(COLORS)], lw=2, label=label)
    finish_axes(axes, "Precision and recall (IoU ≥ 0.5)", "recall", "precision", unit_range=True, legend="beside")
    axes.set_xlim(0, 1)
    save_figure(figure, path)


def plot_error_types(
    gained: Mapping[str, Mapping[str, float]], counts: Mapping[str, Mapping[str, int]], path: Path, title: str = ""
) -> None:
    """Plot the AP that would be gained if the errors of a type were fixed, with a group of bars per type.

    Args:
        gained: `gained[name][type]`, AP gained.
        counts: `counts[name][type]`, number of errors, written at the bars.
        path: PNG file to write.
        title: title of the figure.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=11, color="dimgrey")
    axes = figure.subplots()
    kinds = list(next(iter(counts.values())))
    width = 0.8 / len(gained)
    for number, name in enumerate(gained):
        places = np.arange(len(kinds)) + (number - (len(gained) - 1) / 2) * width
        heights = [gained[name][kind] for kind in kinds]
        bars = axes.bar(places, heights, 0.92 * width, color=COLORS[number % len(COLORS)], label=name)
        axes.bar_label(bars, [f"{counts[name][kind]:,}" for kind in kinds], fontsize=8, padding=2)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.margins(y=0.15)
    finish_axes(axes, "AP50 gained if the errors of a type were fixed (numbers: errors)", "error type", "AP50 gained")
    save_figure(figure, path)
