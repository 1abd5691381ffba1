"""Histograms of the measured difficulty factors of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from maskrcnn.files import atomic_write
from maskrcnn.plotting.curves import COLORS

_BINS = 40
_COLUMNS = 5
_MIN_LOG_RATIO = 50
_UNITS = {"size": "px", "distance": "px", "angle": "degrees"}
_LENGTHS = ("size", "visible_pixels", "distance", "snr")


def get_factor_label(name: str) -> str:
    """Return the label of a measured factor, which differs from the names of options."""
    return f"measured {name}" if name == "contrast" else name


def plot_factors(factors: Mapping[str, NDArray[np.float64]], path: str | os.PathLike[str]) -> None:
    """Plot one histogram per factor with its median.

    The axis of a length is logarithmic if its 5th and 95th percentile differ by more than a factor of 50.

    Args:
        factors: values by factor, float `[N]` each, NaN if not measurable.
        path: PNG file to write.
    """
    rows = math.ceil(len(factors) / _COLUMNS)
    figure = Figure(figsize=(3.0 * _COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, factors.items(), strict=False):
        finite = values[np.isfinite(values)]
        title = get_factor_label(name)
        axis.set_title(f"{title} ({_UNITS[name]})" if name in _UNITS else title, fontsize=10)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        if not len(finite):
            continue
        low, high = np.percentile(finite, [5, 95]).tolist()
        if low == high and finite.min() == finite.max():
            axis.set_xticks([])
            axis.set_xlabel(f"all {low:.4g}", fontsize=9)
            continue
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.ticklabel_format(useOffset=False)
        if name in _LENGTHS and finite.min() > 0 and high > _MIN_LOG_RATIO * low:
            axis.hist(finite, bins=np.geomspace(finite.min(), finite.max(), _BINS).tolist(), color=COLORS[0])
            axis.set_xscale("log")
        else:
            axis.hist(finite, bins=_BINS, color=COLORS[0])
        axis.axvline(float(np.median(finite)), color=COLORS[1], linewidth=1.5)
        axis.set_xlabel(f"median {np.median(finite):.4g}", fontsize=9)
    for axis in axes[len(factors) :]:
        axis.set_axis_off()
    FigureCanvasAgg(figure)
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=100)
