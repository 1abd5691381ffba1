"""Curves and bar charts of runs: losses, AP over epochs, precision and recall, detected sizes, comparison of heads."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from maskrcnn.files import atomic_write
from maskrcnn.plotting.matching import match_detections
from maskrcnn.structures.instances import Instances

Row = Mapping[str, Any]
Path = str | os.PathLike[str]
LegendPosition = Literal["upper left", "upper right", "beside"]

# Okabe & Ito's palette, which is distinguishable for color-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DPI = 120


def plot_losses(metrics: Iterable[Row], path: Path, title: str = "") -> None:
    """Plot training and validation loss over epochs, the total on the left and its components on the right.

    Args:
        metrics: lines of `metrics.jsonl`; those of kind "train" and "validation" have `epoch`, `loss`, and `loss_*`.
            Training losses (per step or per epoch) are averaged within each epoch.
        path: PNG file to write.
        title: title of the figure: data, number of epochs, seed.
    """
    rows = list(metrics)
    parts = sorted({name for row in rows for name in row if name.startswith("loss_")})
    figure = _make_figure((12, 4.4), title)
    total, split = figure.subplots(1, 2)
    for name, axes in (("loss", total), *((part, split) for part in parts)):
        color = COLORS[0] if name == "loss" else COLORS[parts.index(name) % len(COLORS)]
        for kind, style in (("train", "-"), ("validation", "--")):
            epochs, values = _average_by_epoch(rows, kind, name)
            label = kind if name == "loss" else name if kind == "train" else None
            shown = COLORS[1] if name == "loss" and kind == "validation" else color
            _plot_line(axes, epochs, values, label, shown, style)
    finish_axes(total, "Loss", "epoch", "loss", legend="beside")
    finish_axes(split, "Loss components (dashed: validation)", "epoch", "loss", legend="beside")
    _mark_epochs(total, split)
    save_figure(figure, path)


def plot_ap(metrics: Iterable[Row], path: Path, title: str = "") -> None:
    """Plot AP over epochs: boxes and masks on the left, AP by size on the right.

    Args:
        metrics: lines of `metrics.jsonl`; those of kind "evaluation" are drawn, the lines of the split "validation" as
            curves, the one of the split "test" as crosses at the epoch of its weights.
        path: PNG file to write.
        title: title of the figure: data, number of epochs, seed.
    """
    lines = list(metrics)
    rows, test = ([row for row in lines if (row.get("split") == "test") == is_test] for is_test in (False, True))
    figure = _make_figure((12, 4.4), title)
    all_sizes, by_size = figure.subplots(1, 2)
    for kind, color in (("box", COLORS[0]), ("mask", COLORS[1])):
        for suffix, style in (("ap", "-"), ("ap50", ":"), ("ap75", "--")):
            name = f"{kind}_{suffix}"
            _plot_with_crosses(all_sizes, rows, test, name, _make_metric_label(name), color, style)
    prefix = "mask_ap_" if any("mask_ap" in row for row in lines) else "box_ap_"
    for size, color in zip(_SIZES, COLORS, strict=False):
        _plot_with_crosses(by_size, rows, test, prefix + size, _SIZES[size], color, "-")
    for axes in (all_sizes, by_size):
        if test and axes.has_data():
            axes.plot([], [], "x", color="black", ms=8, label="test images")
    finish_axes(all_sizes, "Average precision", "epoch", "AP", unit_range=True, legend="beside")
    title_by_size = f"{_make_metric_label(prefix[:-1])} by object size"
    finish_axes(by_size, title_by_size, "epoch", "AP", unit_range=True, legend="beside")
    _mark_epochs(all_sizes, by_size)
    save_figure(figure, path)


def plot_precision_recall(
    curves: Mapping[str, Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]]], path: Path, title: str = ""
) -> None:
    """Plot precision over recall, with a panel per kind and a line per IoU threshold.

    Args:
        curves: `curves["mask"][0.5] = (recall [R], precision [R])`.
        path: PNG file to write.
        title: title of the figure: data, number of epochs, seed.
    """
    figure = _make_figure((6.5 * max(len(curves), 1), 4.8), title)
    panels = figure.subplots(1, max(len(curves), 1), squeeze=False)[0]
    for axes, (kind, by_iou) in zip(panels, (curves or {"object": {}}).items(), strict=True):
        for (iou, (recall, precision)), color in zip(by_iou.items(), COLORS, strict=False):
            axes.plot(recall, precision, color=color, lw=2, label=f"IoU {iou:g}: AP {np.mean(precision):.3f}")
        heading = f"Precision and recall of {kind}es" if kind == "box" else f"Precision and recall of {kind}s"
        finish_axes(axes, heading, "recall", "precision", unit_range=True, legend="beside")
        axes.set_xlim(0, 1)
    save_figure(figure, path)


def plot_detected_sizes(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    path: Path,
    score_threshold: float = 0.5,
    by_masks: bool = False,
    class_agnostic: bool = False,
    title: str = "",
) -> None:
    """Plot a histogram of the sizes (√area in pixels) of detected and missed ground-truth objects, and the recall.

    Args:
        targets: objects by image id.
        predictions: detections by image id.
        path: PNG file to write.
        score_threshold: minimum score of detections.
        by_masks: match by IoU of masks instead of boxes, at IoU .5.
        class_agnostic: match detections of any class.
        title: title of the figure: data, number of epochs, seed.
    """
    sizes, detected = _collect_sizes(targets, predictions, score_threshold, by_masks, class_agnostic)
    figure = _make_figure((8, 4.8), title)
    axes = figure.subplots()
    if len(sizes):
        edges = _make_size_bins(sizes)
        sizes = sizes.clip(max=edges[-1])  # the last bin includes larger objects
        stacks = [sizes[detected], sizes[~detected]]
        labels = [f"detected ({detected.sum()})", f"missed ({(~detected).sum()})"]
        axes.hist(
            stacks,
            edges.tolist(),
            stacked=True,
            color=[COLORS[2], COLORS[1]],
            label=labels,
            edgecolor="white",
            lw=0.6,
        )
        _plot_recall(axes, sizes, detected, edges)
    what = f"score ≥ {score_threshold:.3g}, IoU of {'masks' if by_masks else 'boxes'} ≥ 0.5"
    finish_axes(axes, f"Sizes of detected and missed objects ({what})", "size √area (pixels)", "objects")
    save_figure(figure, path)


def plot_heads(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Plot a comparison of heads, with a group of bars per metric and a bar per head.

    Args:
        rows: rows with `head` and any of `box_ap`, `box_ap50`, `mask_ap`, `box_ap_<size>`, `ar_<limit>`,
            `train_seconds`, `inference_ms` (per image), and `parameters`; missing values or None leave a gap.
        path: PNG file to write.
        title: title of the figure: data, number of epochs, seed.
    """
    groups = {
        "Average precision": _select_present(
            rows, ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
        ),
        "Box AP by object size": _select_present(rows, [f"box_ap_{size}" for size in _SIZES]),
        "Recall of proposals (AR)": _select_present(rows, ("ar_10", "ar_100", "ar_1000", "ar_all")),
    }
    costs = _select_present(rows, tuple(_COSTS))
    groups = {title: names for title, names in groups.items() if names}
    figure = _make_figure((13, 3.6 * (1 + bool(groups))), title)
    top_figure: Figure | SubFigure = figure
    bottom_figure: Figure | SubFigure = figure
    if groups and costs:
        grid = figure.add_gridspec(2, 1)
        top_figure, bottom_figure = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    if groups:
        widths = [max(len(names), 2) for names in groups.values()]
        panels = top_figure.subplots(1, len(groups), squeeze=False, width_ratios=widths)[0]
        for axes, (title, names) in zip(panels, groups.items(), strict=True):
            _plot_bars(axes, rows, names, [_make_metric_label(name) for name in names], "{:.2f}")
            finish_axes(axes, title, "", "", unit_range=True)
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, frameon=False, loc="outside lower center", ncols=len(rows), fontsize=10)
    if costs:
        for axes, name in zip(bottom_figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
            _plot_bars(axes, rows, [name], [""], "{:,.3g}", divisor=_COSTS[name][1])
            finish_axes(axes, _COSTS[name][0], "", "")
    save_figure(figure, path)


_SIZES = {
    "very_tiny": "< 8 px",
    "tiny": "8–16 px",
    "aitod_small": "16–32 px",
    "aitod_medium": "> 32 px",
}
_COSTS = {
    "train_seconds": ("Training (s)", 1.0),
    "inference_ms": ("Inference (ms per image)", 1.0),
    "parameters": ("Parameters (millions)", 1e6),
}


def _make_metric_label(name: str) -> str:
    """Convert "mask_ap50" to "mask AP50", "box_ap_tiny" to "8–16 px", "ar_100" to "best 100"."""
    if name.startswith("ar_"):
        return name.replace("ar_all", "all").replace("ar_", "best ")
    kind, _, rest = name.partition("_ap_")
    return _SIZES.get(rest, rest) if rest else kind.replace("_ap", " AP")


def _average_by_epoch(rows: Sequence[Row], kind: str, name: str) -> tuple[list[float], list[float]]:
    """Return epochs and the mean of the finite values of `name` in each."""
    values: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row.get("kind") == kind and row.get(name) is not None and np.isfinite(row[name]):
            values[row["epoch"]].append(row[name])
    epochs = sorted(values)
    return epochs, [float(np.mean(values[epoch])) for epoch in epochs]


def _plot_line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str | None, color: str, style: str) -> None:
    if len(x):
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, style, color=color, lw=1.8, marker=marker, ms=3.5, label=label)


def _plot_with_crosses(
    axes: Axes, rows: Sequence[Row], test: Sequence[Row], name: str, label: str, color: str, style: str
) -> None:
    """Plot a metric of validation images as a line, and of test images as crosses; the legend names it once."""
    epochs, values = _average_by_epoch(rows, "evaluation", name)
    _plot_line(axes, epochs, values, label, color, style)
    crosses, test_values = _average_by_epoch(test, "evaluation", name)
    if crosses:
        axes.plot(crosses, test_values, "x", color=color, ms=8, clip_on=False, label=None if epochs else label)


def _make_figure(size: tuple[float, float], title: str) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, color="dimgrey")
    return figure


def _mark_epochs(*panels: Axes) -> None:
    """Mark whole epochs, and leave room around a single one."""
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        low, high = axes.dataLim.intervalx
        if low == high:
            axes.set_xlim(low - 0.5, high + 0.5)


def _collect_sizes(
    targets: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    score_threshold: float,
    by_masks: bool,
    class_agnostic: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sizes, detected = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for image_id, target in targets.items():
        detections = predictions.get(image_id, Instances.empty(target.size))
        if detections.scores is not None:
            detections = detections[detections.scores >= score_threshold]
        matches = match_detections(target, detections, by_masks=by_masks, class_agnostic=class_agnostic)
        sizes.append(target.areas().sqrt().cpu().numpy()[~matches.ignored_targets])
        detected.append(~matches.false_negatives[~matches.ignored_targets])
    return np.concatenate(sizes), np.concatenate(detected)


def _make_size_bins(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make about twenty bins of a whole number of pixels, up to the 99.5th percentile."""
    upper = float(np.percentile(sizes, 99.5)) + 1
    step = max(1, round(upper / 20))
    return np.arange(0, upper + step, step, dtype=np.float64)


def _plot_recall(
    axes: Axes, sizes: NDArray[np.float64], detected: NDArray[np.bool_], edges: NDArray[np.float64]
) -> None:
    all_counts, _ = np.histogram(sizes, edges)
    detected_counts, _ = np.histogram(sizes[detected], edges)
    nonempty = all_counts > 0
    recall_axes = axes.twinx()
    centers = (edges[:-1] + edges[1:]) / 2
    recall = detected_counts[nonempty] / all_counts[nonempty]
    recall_axes.plot(centers[nonempty], recall, "o-", color=COLORS[0], ms=4, label="recall")
    recall_axes.set_ylim(0, 1.25)
    recall_axes.set_yticks(np.linspace(0, 1, 6))
    axes.margins(y=0.25)  # room for the legend
    recall_axes.set_ylabel("recall", color=COLORS[0])
    recall_axes.spines[["top"]].set_visible(False)


def _select_present(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def _plot_bars(
    axes: Axes, rows: Sequence[Row], names: Sequence[str], labels: Sequence[str], text: str, divisor: float = 1.0
) -> None:
    width = 0.84 / max(len(rows), 1)
    for number, row in enumerate(rows):
        nonempty = [(x, row[name] / divisor) for x, name in enumerate(names) if row.get(name) is not None]
        x = [position + (number - (len(rows) - 1) / 2) * width for position, _ in nonempty]
        color = COLORS[number % len(COLORS)]
        bars = axes.bar(x, [value for _, value in nonempty], 0.92 * width, color=color, label=str(row["head"]))
        axes.bar_label(bars, [text.format(value) for _, value in nonempty], fontsize=7, padding=2)
    axes.set_xticks(range(len(names)), labels)
    axes.margins(y=0.15)


def finish_axes(
    axes: Axes, title: str, x_label: str, y_label: str, unit_range: bool = False, legend: LegendPosition = "upper right"
) -> None:
    """Set title, labels, grid, limits, and legend of a panel."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if unit_range:
        axes.set_ylim(0, 1.02)
    if not axes.has_data():
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="grey")
    elif x_label and axes.get_legend_handles_labels()[0]:
        if legend == "beside":
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
        else:
            axes.legend(frameon=False, fontsize=9, loc=legend)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all."""
    FigureCanvasAgg(figure)  # no display, and no global state of pyplot
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=_DPI)
