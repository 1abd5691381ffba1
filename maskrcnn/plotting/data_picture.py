"""A data set in one picture: how large its objects are, how crowded, and which of them anchors match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from maskrcnn.plotting.curves import COLOURS, Path, _finish, _save

Floats = NDArray[np.floating]
Place = Literal["upper left", "upper right", "lower left", "lower right"]

SIZE = "√ of the box's area (pixels)"
ABOVE = "share of the objects with more"
_MOST_CLASSES = 12  # named in the picture; the rest is one bar
_TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000)


@dataclass(frozen=True)
class DataFigures:
    """One split: a value an object (sizes √area in pixels, aspects height / width, overlaps IoU with the nearest box),
    or a value an image (counts; densities: objects a megapixel); objects of each class."""

    sizes: Floats
    aspects: Floats
    overlaps: Floats
    counts: Floats
    densities: Floats
    classes: Mapping[str, int]


@dataclass(frozen=True)
class AnchorFigures:
    """Anchors: sizes on each level by stride, ratios height / width, and the best IoU of each training object."""

    name: str
    sizes: Mapping[int, Sequence[float]]
    ratios: Sequence[float]
    ious: Floats


def plot_data(splits: Mapping[str, DataFigures], anchors: Sequence[AnchorFigures], path: Path, title: str = "") -> None:
    """Eight panels; splits side by side, the sizes and ratios of the last anchors marked, all anchors compared.

    The first split is the one that the IoUs of the anchors belong to.
    """
    figure = Figure(figsize=(17, 8), layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    proposed = anchors[-1] if anchors else None
    _histograms(panels[0], {name: split.sizes for name, split in splits.items()}, "objects")
    _histograms(panels[1], {name: split.aspects for name, split in splits.items()}, "objects")
    _histograms(panels[2], {name: split.counts for name, split in splits.items()}, "images")
    _histograms(panels[3], {name: split.densities for name, split in splits.items()}, "images")
    dashed = ""
    if proposed is not None:
        dashed = f" (dashed: {proposed.name} anchors)"
        _mark_sizes(panels[0], proposed)
        for ratio in proposed.ratios:
            panels[1].axvline(ratio, color=COLOURS[2], lw=1.4, ls="--")
    _finish(panels[0], f"Size of the objects{dashed}", SIZE, "share of the objects")
    _finish(panels[1], f"Shape of the objects{dashed}", "height / width of the box", "share of the objects")
    _finish(panels[2], "Objects in an image", "objects", "share of the images")
    _finish(panels[3], "Density", "objects a megapixel", "share of the images")
    _shares_above(panels[4], {name: split.overlaps for name, split in splits.items()})
    _finish(panels[4], "Overlap of the boxes", "largest IoU with another object's box", ABOVE)
    _classes(panels[5], splits)
    _ious(panels[6], anchors)
    _finish(panels[6], "Fit of the anchors to training objects", "IoU with the best anchor", ABOVE, unit_range=True)
    sizes = next(iter(splits.values())).sizes if splits else np.zeros(0)
    _matched_by_size(panels[7], anchors, sizes)
    _finish(panels[7], "Fit of the anchors, by size", SIZE, "share with an anchor of IoU ≥ .5", unit_range=True)
    _move_legend(panels[0], "upper left", columns=2)
    for panel in panels[1:4]:
        _move_legend(panel, "upper right")
        panel.set_ylim(top=1.3 * panel.get_ylim()[1])
    for panel in panels[:5]:
        _without_shares_above_1(panel)
    _move_legend(panels[4], "upper right")
    _move_legend(panels[5], "lower right")
    _move_legend(panels[6], "lower left", title="anchors: with IoU ≥ .5")
    _move_legend(panels[7], "lower right", title="anchors")
    figure.suptitle(f"{title}  (without objects to ignore)", x=0.01, ha="left", fontsize=13)
    _save(figure, path)


def _without_shares_above_1(axes: Axes) -> None:
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= min(1, axes.get_ylim()[1])])


def _move_legend(axes: Axes, place: Place, columns: int = 1, title: str | None = None) -> None:
    """Where the curves are not; of several columns above them."""
    if axes.get_legend() is None:
        return
    if columns > 1:
        axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    legend = axes.legend(
        framealpha=0.9, edgecolor="none", fontsize=9, loc=place, ncols=columns, title=title, title_fontsize=9
    )
    legend.set_in_layout(False)  # a wide one takes no room from the panels


def _histograms(axes: Axes, values: Mapping[str, Floats], what: str) -> None:
    """Steps over a logarithmic axis, the same bins for each split; zeros stand in the lowest bin."""
    everything = np.concatenate([np.zeros(0), *values.values()])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        return
    positive = everything[everything > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    margin = max(1.1, 2 / np.sqrt(high / low))  # a factor of 4 at least, or there is nothing to read on the axis
    edges = np.geomspace(low / margin, high * margin, 31)
    for (name, each), colour in zip(values.items(), COLOURS, strict=False):
        if len(each):
            weights = np.full(len(each), 1 / len(each))
            same = f", all {each[0]:,.4g}" if each.min() == each.max() else ""
            shown, label = each.clip(edges[0], edges[-1]), f"{name}: {len(each):,} {what}{same}"
            axes.hist(shown, edges.tolist(), weights=weights, label=label, color=colour, lw=1.6, histtype="step")
    _logarithmic(axes, float(edges[0]), float(edges[-1]))


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    inside = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(inside if len(inside) > 1 else [low, high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _mark_sizes(axes: Axes, anchors: AnchorFigures) -> None:
    low, high = axes.get_xlim()
    for (stride, sizes), colour in zip(anchors.sizes.items(), COLOURS[2:], strict=False):
        for number, size in enumerate(each for each in sizes if low <= each <= high):
            label = f"anchors at stride {stride}" if number == 0 else None
            axes.axvline(size, color=colour, lw=1.4, ls="--", label=label)


def _shares_above(axes: Axes, values: Mapping[str, Floats]) -> None:
    thresholds = np.linspace(0.01, 1, 100)
    for (name, each), colour in zip(values.items(), COLOURS, strict=False):
        if len(each):
            axes.plot(thresholds, _above(each, thresholds), color=colour, lw=1.8, label=name)
    _mark_ious(axes, (0.3, 0.5))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)


def _mark_ious(axes: Axes, thresholds: tuple[float, float]) -> None:
    for number, threshold in enumerate(thresholds):
        label = None if number else f"IoU {thresholds[0]:g} and {thresholds[1]:g}"
        axes.axvline(threshold, color="grey", lw=0.8, ls=":", label=label)


def _above(values: Floats, thresholds: Floats) -> Floats:
    share: Floats = 1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values)
    return share


def _classes(axes: Axes, splits: Mapping[str, DataFigures]) -> None:
    """Bars of the largest classes, as shares of each split."""
    total: dict[str, int] = {}
    for split in splits.values():
        for name, count in split.classes.items():
            total[name] = total.get(name, 0) + count
    names = sorted(total, key=lambda name: -total[name])
    shown, others = names[:_MOST_CLASSES], names[_MOST_CLASSES:]
    labels = [name if len(name) <= 16 else f"{name[:15]}…" for name in shown] + [f"{len(others)} others"] * bool(others)
    height = 0.8 / max(len(splits), 1)
    for number, (split_name, split) in enumerate(splits.items()):
        counts = [split.classes.get(name, 0) for name in shown]
        counts += [sum(split.classes.get(name, 0) for name in others)] * bool(others)
        places = np.arange(len(labels)) + (number - (len(splits) - 1) / 2) * height
        shares = np.array(counts, float) / max(sum(counts), 1)
        bars = axes.barh(places, shares, 0.9 * height, color=COLOURS[number], label=split_name)
        axes.bar_label(bars, [f" {count:,}" for count in counts], fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(max(len(labels), 3) + 0.2, -0.5)  # room for the legend
    ticks = axes.get_xticks()
    axes.set_xlim(0, 1.2 * axes.get_xlim()[1])  # room for the numbers
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= 1])
    _finish(axes, "Classes, with their numbers of objects", "share of the objects", "", legend="upper right")


def _ious(axes: Axes, anchors: Sequence[AnchorFigures]) -> None:
    thresholds = np.linspace(0, 1, 101)
    for each, colour in zip(anchors, _set_colours(anchors), strict=True):
        if len(each.ious):
            label = f"{each.name}: {(each.ious >= 0.5).mean():.1%}"
            axes.plot(thresholds, _above(each.ious, thresholds), color=colour, lw=1.8, label=label)
    _mark_ious(axes, (0.5, 0.7))
    axes.set_xlim(0, 1)


def _matched_by_size(axes: Axes, anchors: Sequence[AnchorFigures], sizes: Floats) -> None:
    if not len(sizes):
        return
    edges = np.unique(np.percentile(sizes, np.linspace(0, 100, 15)))  # as many objects in each
    bins = np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, max(len(edges) - 2, 0))
    members = np.bincount(bins)
    for each, colour in zip(anchors, _set_colours(anchors), strict=True):
        matched = np.bincount(bins, each.ious >= 0.5) / np.maximum(members, 1)
        centres = np.bincount(bins, sizes) / np.maximum(members, 1)
        known = members > 0
        axes.plot(centres[known], matched[known], "o-", color=colour, lw=1.8, ms=4, label=each.name)
    _logarithmic(axes, float(sizes.min()) / 1.1, float(sizes.max()) * 1.1)


def _set_colours(anchors: Sequence[AnchorFigures]) -> list[str]:
    """The last ones, which are proposed, in green; the others before it in grey, orange ..."""
    before = ("#777777", COLOURS[4], COLOURS[3])
    return [*(before[number % 3] for number in range(len(anchors) - 1)), *[COLOURS[2]] * bool(anchors)]
