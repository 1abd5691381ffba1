"""Overview of a data set in one figure: object sizes, densities, overlaps, and the fit of the anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from maskrcnn.plotting.curves import COLORS, Path, finish_axes, save_figure

Floats = NDArray[np.floating]
LegendPosition = Literal["upper left", "upper right", "lower left", "lower right"]

SIZE = "√ of the box area (pixels)"
ABOVE = "fraction of objects above"
_MAX_CLASSES = 12  # classes with a bar of their own; the others share one
_TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000)


@dataclass(frozen=True)
class DataFigures:
    """Statistics of one split.

    Attributes:
        sizes: √area in pixels per object.
        aspects: height / width per object.
        overlaps: maximum IoU with another box, per object.
        counts: objects per image.
        densities: objects per megapixel, per image.
        classes: number of objects per class.
    """

    sizes: Floats
    aspects: Floats
    overlaps: Floats
    counts: Floats
    densities: Floats
    classes: Mapping[str, int]


@dataclass(frozen=True)
class AnchorFigures:
    """Fit of a set of anchors.

    Attributes:
        name: name of the set.
        sizes: anchor sizes in pixels by stride.
        ratios: aspect ratios, height / width.
        ious: maximum IoU with an anchor, per training object.
    """

    name: str
    sizes: Mapping[int, Sequence[float]]
    ratios: Sequence[float]
    ious: Floats


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def plot_data(splits: Mapping[str, DataFigures], anchors: Sequence[AnchorFigures], path: Path, title: str = "") -> None:
    """Plot eight panels with statistics of splits and the fit of anchors.

    Args:
        splits: statistics by split; the IoUs of the anchors belong to the first.
        anchors: sets of anchors to compare; sizes and ratios of the last are marked.
        path: PNG file to write.
        title: title of the figure.
    """
    figure = Figure(figsize=(17, 8), layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    proposed = anchors[-1] if anchors else None
    _plot_histograms(panels[0], {name: split.sizes for name, split in splits.items()}, "objects")
    _plot_histograms(panels[1], {name: split.aspects for name, split in splits.items()}, "objects")
    _plot_histograms(panels[2], {name: split.counts for name, split in splits.items()}, "images")
    _plot_histograms(panels[3], {name: split.densities for name, split in splits.items()}, "images")
    dashed = ""
    if proposed is not None:
        dashed = f" (dashed: {proposed.name} anchors)"
        _mark_sizes(panels[0], proposed)
        for ratio in proposed.ratios:
            panels[1].axvline(ratio, color=COLORS[2], lw=1.4, ls="--")
    finish_axes(panels[0], f"Object size{dashed}", SIZE, "fraction of objects")
    finish_axes(panels[1], f"Aspect ratio{dashed}", "height / width of the box", "fraction of objects")
    finish_axes(panels[2], "Objects per image", "objects", "fraction of images")
    finish_axes(panels[3], "Density", "objects per megapixel", "fraction of images")
    _plot_fractions_above(panels[4], {name: split.overlaps for name, split in splits.items()})
    finish_axes(panels[4], "Overlap of boxes", "maximum IoU with another object's box", ABOVE)
    _plot_classes(panels[5], splits)
    _plot_ious(panels[6], anchors)
    finish_axes(panels[6], "Fit of anchors to training objects", "IoU with the best anchor", ABOVE, unit_range=True)
    sizes = next(iter(splits.values())).sizes if splits else np.zeros(0)
    _plot_matched_by_size(panels[7], anchors, sizes)
    finish_axes(panels[7], "Fit of anchors by size", SIZE, "fraction with an anchor of IoU ≥ .5", unit_range=True)
    _move_legend(panels[0], "upper left", columns=2)
    for panel in panels[1:4]:
        _move_legend(panel, "upper right")
        panel.set_ylim(top=1.3 * panel.get_ylim()[1])
    for panel in panels[:5]:
        _remove_ticks_above_1(panel)
    _move_legend(panels[4], "upper right")
    _move_legend(panels[5], "lower right")
    _move_legend(panels[6], "lower left", title="anchors: with IoU ≥ .5")
    _move_legend(panels[7], "lower right", title="anchors")
    figure.suptitle(f"{title}  (without ignored objects)", x=0.01, ha="left", fontsize=13)
    save_figure(figure, path)


def _remove_ticks_above_1(axes: Axes) -> None:
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= min(1, axes.get_ylim()[1])])


def _move_legend(axes: Axes, place: LegendPosition, columns: int = 1, title: str | None = None) -> None:
    """Place a legend where there are no curves; with several columns, above the curves."""
    if axes.get_legend() is None:
        return
    if columns > 1:
        axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    legend = axes.legend(
        framealpha=0.9, edgecolor="none", fontsize=9, loc=place, ncols=columns, title=title, title_fontsize=9
    )
    legend.set_in_layout(False)  # so that a wide legend does not shrink the panels


def _plot_histograms(axes: Axes, values: Mapping[str, Floats], what: str) -> None:
    """Plot step histograms on a logarithmic axis, with the same bins for each split; zeros are in the lowest bin."""
    all_values = np.concatenate([np.zeros(0), *values.values()])
    all_values = all_values[np.isfinite(all_values)]
    if not len(all_values):
        return
    positive = all_values[all_values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    margin = max(1.1, 2 / np.sqrt(high / low))  # at least a factor of 4, so that the axis has ticks
    edges = np.geomspace(low / margin, high * margin, 31)
    for (name, each), color in zip(values.items(), COLORS, strict=False):
        if len(each):
            weights = np.full(len(each), 1 / len(each))
            same = f", all {each[0]:,.4g}" if each.min() == each.max() else ""
            shown, label = each.clip(edges[0], edges[-1]), f"{name}: {len(each):,} {what}{same}"
            axes.hist(shown, edges.tolist(), weights=weights, label=label, color=color, lw=1.6, histtype="step")
    _set_log_scale(axes, float(edges[0]), float(edges[-1]))


def _set_log_scale(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    inside = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(inside if len(inside) > 1 else [low, high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _mark_sizes(axes: Axes, anchors: AnchorFigures) -> None:
    low, high = axes.get_xlim()
    for (stride, sizes), color in zip(anchors.sizes.items(), COLORS[2:], strict=False):
        for number, size in enumerate(each for each in sizes if low <= each <= high):
            label = f"anchors at stride {stride}" if number == 0 else None
            axes.axvline(size, color=color, lw=1.4, ls="--", label=label)


def _plot_fractions_above(axes: Axes, values: Mapping[str, Floats]) -> None:
    thresholds = np.linspace(0.01, 1, 100)
    for (name, each), color in zip(values.items(), COLORS, strict=False):
        if len(each):
            axes.plot(thresholds, _compute_fraction_above(each, thresholds), color=color, lw=1.8, label=name)
    _mark_ious(axes, (0.3, 0.5))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)


def _mark_ious(axes: Axes, thresholds: tuple[float, float]) -> None:
    for number, threshold in enumerate(thresholds):
        label = None if number else f"IoU {thresholds[0]:g} and {thresholds[1]:g}"
        axes.axvline(threshold, color="grey", lw=0.8, ls=":", label=label)


def _compute_fraction_above(values: Floats, thresholds: Floats) -> Floats:
    fraction: Floats = 1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values)
    return fraction


def _plot_classes(axes: Axes, splits: Mapping[str, DataFigures]) -> None:
    """Plot bars of the most frequent classes, as fractions of each split."""
    total: dict[str, int] = {}
    for split in splits.values():
        for name, count in split.classes.items():
            total[name] = total.get(name, 0) + count
    names = sorted(total, key=lambda name: -total[name])
    shown, others = names[:_MAX_CLASSES], names[_MAX_CLASSES:]
    labels = [name if len(name) <= 16 else f"{name[:15]}…" for name in shown] + [f"{len(others)} others"] * bool(others)
    height = 0.8 / max(len(splits), 1)
    for number, (split_name, split) in enumerate(splits.items()):
        counts = [split.classes.get(name, 0) for name in shown]
        counts += [sum(split.classes.get(name, 0) for name in others)] * bool(others)
        places = np.arange(len(labels)) + (number - (len(splits) - 1) / 2) * height
        fractions = np.array(counts, float) / max(sum(counts), 1)
        bars = axes.barh(places, fractions, 0.9 * height, color=COLORS[number], label=split_name)
        axes.bar_label(bars, [f" {count:,}" for count in counts], fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(max(len(labels), 3) + 0.2, -0.5)  # room for the legend
    ticks = axes.get_xticks()
    axes.set_xlim(0, 1.2 * axes.get_xlim()[1])  # room for the numbers
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= 1])
    finish_axes(axes, "Classes and numbers of objects", "fraction of objects", "", legend="upper right")


def _plot_ious(axes: Axes, anchors: Sequence[AnchorFigures]) -> None:
    thresholds = np.linspace(0, 1, 101)
    for each, color in zip(anchors, _choose_anchor_colors(anchors), strict=True):
        if len(each.ious):
            label = f"{each.name}: {(each.ious >= 0.5).mean():.1%}"
            axes.plot(thresholds, _compute_fraction_above(each.ious, thresholds), color=color, lw=1.8, label=label)
    _mark_ious(axes, (0.5, 0.7))
    axes.set_xlim(0, 1)


def _plot_matched_by_size(axes: Axes, anchors: Sequence[AnchorFigures], sizes: Floats) -> None:
    if not len(sizes):
        return
    edges = np.unique(np.percentile(sizes, np.linspace(0, 100, 15)))  # equal numbers of objects per bin
    bins = np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, max(len(edges) - 2, 0))
    counts = np.bincount(bins)
    for each, color in zip(anchors, _choose_anchor_colors(anchors), strict=True):
        matched = np.bincount(bins, each.ious >= 0.5) / np.maximum(counts, 1)
        centers = np.bincount(bins, sizes) / np.maximum(counts, 1)
        nonempty = counts > 0
        axes.plot(centers[nonempty], matched[nonempty], "o-", color=color, lw=1.8, ms=4, label=each.name)
    _set_log_scale(axes, float(sizes.min()) / 1.1, float(sizes.max()) * 1.1)


def _choose_anchor_colors(anchors: Sequence[AnchorFigures]) -> list[str]:
    """Choose green for the last, proposed, set, and gray, orange, … for the others."""
    before = ("#777777", COLORS[4], COLORS[3])
    return [*(before[number % 3] for number in range(len(anchors) - 1)), *[COLORS[2]] * bool(anchors)]
