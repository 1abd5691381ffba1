"""Curves and bars of a run: losses, AP over epochs, precision and recall, sizes found and missed, heads compared."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from maskrcnn.files import written_beside
from maskrcnn.plotting.matching import match_detections
from maskrcnn.structures.instances import Instances

Row = Mapping[str, Any]
Path = str | os.PathLike[str]
Place = Literal["upper left", "upper right", "beside"]

# Okabe & Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DPI = 120


def plot_losses(metrics: Iterable[Row], path: Path) -> None:
    """Training and validation loss over epochs, the total on the left and its parts on the right.

    ``metrics`` are the lines of ``metrics.jsonl``: of kind "train" and "validation" with ``epoch``, ``loss`` and
    ``loss_*``. Training losses, one a step or one an epoch, are averaged within each epoch.
    """
    rows = list(metrics)
    parts = sorted({name for row in rows for name in row if name.startswith("loss_")})
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    total, split = figure.subplots(1, 2)
    for name, axes in (("loss", total), *((part, split) for part in parts)):
        colour = COLOURS[0] if name == "loss" else COLOURS[parts.index(name) % len(COLOURS)]
        for kind, style in (("train", "-"), ("validation", "--")):
            epochs, values = _by_epoch(rows, kind, name)
            label = kind if name == "loss" else name if kind == "train" else None
            shown = COLOURS[1] if name == "loss" and kind == "validation" else colour
            _line(axes, epochs, values, label, shown, style)
    _finish(total, "Loss", "epoch", "loss")
    _finish(split, "Parts of the loss (dashed: validation)", "epoch", "loss")
    _save(figure, path)


def plot_ap(metrics: Iterable[Row], path: Path) -> None:
    """AP over epochs, from the lines of kind "evaluation": boxes and masks on the left, AP by size on the right."""
    rows = list(metrics)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    all_sizes, by_size = figure.subplots(1, 2)
    for kind, colour in (("box", COLOURS[0]), ("mask", COLOURS[1])):
        for suffix, style in (("ap", "-"), ("ap50", ":"), ("ap75", "--")):
            name = f"{kind}_{suffix}"
            _line(all_sizes, *_by_epoch(rows, "evaluation", name), _metric_label(name), colour, style)
    prefix = "mask_ap_" if any("mask_ap" in row for row in rows) else "box_ap_"
    for size, colour in zip(_SIZES, COLOURS, strict=False):
        _line(by_size, *_by_epoch(rows, "evaluation", prefix + size), _SIZES[size], colour, "-")
    _finish(all_sizes, "Average precision", "epoch", "AP", unit_range=True, legend="beside")
    _finish(
        by_size,
        f"{_metric_label(prefix[:-1])} by size of the object",
        "epoch",
        "AP",
        unit_range=True,
        legend="upper left",
    )
    _save(figure, path)


def plot_precision_recall(
    curves: Mapping[str, Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]]], path: Path
) -> None:
    """Precision over recall: ``curves["mask"][0.5] = (recall [R], precision [R])``; a panel a kind, a line an IoU."""
    figure = Figure(figsize=(6.5 * max(len(curves), 1), 4.6), layout="constrained")
    panels = figure.subplots(1, max(len(curves), 1), squeeze=False)[0]
    for axes, (kind, by_iou) in zip(panels, (curves or {"object": {}}).items(), strict=True):
        for (iou, (recall, precision)), colour in zip(by_iou.items(), COLOURS, strict=False):
            axes.plot(recall, precision, color=colour, lw=2, label=f"IoU {iou:g}: AP {np.mean(precision):.3f}")
        title = f"Precision and recall of {kind}es" if kind == "box" else f"Precision and recall of {kind}s"
        _finish(axes, title, "recall", "precision", unit_range=True, legend="beside")
        axes.set_xlim(0, 1)
    _save(figure, path)


def plot_sizes_found_and_missed(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    path: Path,
    score_threshold: float = 0.5,
    by_masks: bool = False,
    class_agnostic: bool = False,
) -> None:
    """Histogram of the truths' sizes (√area in pixels), found and missed at IoU .5, with the share that was found."""
    sizes, found = _sizes_and_found(truths, predictions, score_threshold, by_masks, class_agnostic)
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    if len(sizes):
        edges = _size_edges(sizes)
        sizes = sizes.clip(max=edges[-1])  # the few larger ones go into the last bin
        stacks = [sizes[found], sizes[~found]]
        labels = [f"found ({found.sum()})", f"missed ({(~found).sum()})"]
        axes.hist(
            stacks,
            edges.tolist(),
            stacked=True,
            color=[COLOURS[2], COLOURS[1]],
            label=labels,
            edgecolor="white",
            lw=0.6,
        )
        _draw_share_found(axes, sizes, found, edges)
    what = f"score ≥ {score_threshold:g}, IoU of {'masks' if by_masks else 'boxes'} ≥ 0.5"
    _finish(axes, f"Sizes of the objects found and missed ({what})", "size √area (pixels)", "objects")
    _save(figure, path)


def plot_heads(rows: Sequence[Row], path: Path) -> None:
    """Heads compared, a group of bars for each figure and a bar for each head.

    Each row holds ``head`` and any of ``box_ap``, ``box_ap50``, ``mask_ap``, ``box_ap_<size>``, ``ar_<limit>``,
    ``train_seconds``, ``inference_ms`` (an image) and ``parameters``; what is missing or None leaves a gap.
    """
    groups = {
        "Average precision": _present(rows, ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")),
        "Box AP by size of the object": _present(rows, [f"box_ap_{size}" for size in _SIZES]),
        "Recall of proposals (AR)": _present(rows, ("ar_10", "ar_100", "ar_1000", "ar_all")),
    }
    costs = _present(rows, tuple(_COSTS))
    groups = {title: names for title, names in groups.items() if names}
    figure = Figure(figsize=(13, 3.6 * (1 + bool(groups))), layout="constrained")
    above: Figure | SubFigure = figure
    below: Figure | SubFigure = figure
    if groups and costs:
        grid = figure.add_gridspec(2, 1)
        above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    if groups:
        widths = [max(len(names), 2) for names in groups.values()]
        panels = above.subplots(1, len(groups), squeeze=False, width_ratios=widths)[0]
        for axes, (title, names) in zip(panels, groups.items(), strict=True):
            _bars(axes, rows, names, [_metric_label(name) for name in names], "{:.2f}")
            _finish(axes, title, "", "", unit_range=True)
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, frameon=False, loc="outside upper center", ncols=len(rows), fontsize=10)
    if costs:
        for axes, name in zip(below.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
            _bars(axes, rows, [name], [""], "{:,.3g}", divisor=_COSTS[name][1])
            _finish(axes, _COSTS[name][0], "", "")
    _save(figure, path)


_SIZES = {
    "very_tiny": "< 8 px",
    "tiny": "8–16 px",
    "aitod_small": "16–32 px",
    "aitod_medium": "> 32 px",
}
_COSTS = {
    "train_seconds": ("Training (s)", 1.0),
    "inference_ms": ("Inference (ms an image)", 1.0),
    "parameters": ("Parameters (millions)", 1e6),
}


def _metric_label(name: str) -> str:
    """From "mask_ap50" to "mask AP50", "box_ap_tiny" to "8–16 px", "ar_100" to "best 100"."""
    if name.startswith("ar_"):
        return name.replace("ar_all", "all").replace("ar_", "best ")
    kind, _, rest = name.partition("_ap_")
    return _SIZES.get(rest, rest) if rest else kind.replace("_ap", " AP")


def _by_epoch(rows: Sequence[Row], kind: str, name: str) -> tuple[list[float], list[float]]:
    """Epochs and the mean of the finite values of ``name`` in each."""
    values: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row.get("kind") == kind and row.get(name) is not None and np.isfinite(row[name]):
            values[row["epoch"]].append(row[name])
    epochs = sorted(values)
    return epochs, [float(np.mean(values[epoch])) for epoch in epochs]


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str | None, colour: str, style: str) -> None:
    if len(x):
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, style, color=colour, lw=1.8, marker=marker, ms=3.5, label=label)


def _sizes_and_found(
    truths: Mapping[int, Instances],
    predictions: Mapping[int, Instances],
    score_threshold: float,
    by_masks: bool,
    class_agnostic: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sizes, found = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for image_id, truth in truths.items():
        prediction = predictions.get(image_id, Instances.empty(truth.size))
        if prediction.scores is not None:
            prediction = prediction[prediction.scores >= score_threshold]
        matches = match_detections(truth, prediction, by_masks=by_masks, class_agnostic=class_agnostic)
        sizes.append(truth.areas().sqrt().cpu().numpy()[~matches.ignored])
        found.append(~matches.missed[~matches.ignored])
    return np.concatenate(sizes), np.concatenate(found)


def _size_edges(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """About twenty bins of a whole number of pixels, up to the 99.5th percentile."""
    highest = float(np.percentile(sizes, 99.5)) + 1
    step = max(1, round(highest / 20))
    return np.arange(0, highest + step, step, dtype=np.float64)


def _draw_share_found(
    axes: Axes, sizes: NDArray[np.float64], found: NDArray[np.bool_], edges: NDArray[np.float64]
) -> None:
    everything, _ = np.histogram(sizes, edges)
    hits, _ = np.histogram(sizes[found], edges)
    known = everything > 0
    share = axes.twinx()
    centres = (edges[:-1] + edges[1:]) / 2
    share.plot(centres[known], hits[known] / everything[known], "o-", color=COLOURS[0], ms=4, label="share found")
    share.set_ylim(0, 1.25)
    share.set_yticks(np.linspace(0, 1, 6))
    axes.margins(y=0.25)  # the legend stands above both
    share.set_ylabel("share found", color=COLOURS[0])
    share.spines[["top"]].set_visible(False)


def _present(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def _bars(
    axes: Axes, rows: Sequence[Row], names: Sequence[str], labels: Sequence[str], text: str, divisor: float = 1.0
) -> None:
    width = 0.84 / max(len(rows), 1)
    for number, row in enumerate(rows):
        known = [(x, row[name] / divisor) for x, name in enumerate(names) if row.get(name) is not None]
        x = [position + (number - (len(rows) - 1) / 2) * width for position, _ in known]
        colour = COLOURS[number % len(COLOURS)]
        bars = axes.bar(x, [value for _, value in known], 0.92 * width, color=colour, label=str(row["head"]))
        axes.bar_label(bars, [text.format(value) for _, value in known], fontsize=7, padding=2)
    axes.set_xticks(range(len(names)), labels)
    axes.margins(y=0.15)


def _finish(
    axes: Axes, title: str, x_label: str, y_label: str, unit_range: bool = False, legend: Place = "upper right"
) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if unit_range:
        axes.set_ylim(0, 1.02)
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color="grey")
    elif x_label and axes.get_legend_handles_labels()[0]:
        if legend == "beside":
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
        else:
            axes.legend(frameon=False, fontsize=9, loc=legend)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # straight to Agg: no display, none of pyplot's global state
    with written_beside(path) as beside:
        figure.savefig(beside, format="png", dpi=_DPI)
