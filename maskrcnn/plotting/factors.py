"""Histograms of the factors of difficulty: what the objects of a data set came to be."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from maskrcnn.files import written_beside
from maskrcnn.plotting.curves import COLOURS

_BINS = 40
_COLUMNS = 5
_WIDE = 50
_UNITS = {"size": "px", "distance": "px", "angle": "degrees"}
_LENGTHS = ("size", "visible_pixels", "distance", "snr")


def plot_factors(factors: Mapping[str, NDArray[np.float64]], path: str | os.PathLike[str]) -> None:
    """One histogram a factor, float [N] each, nan where there was nothing to measure; the median is marked.

    The axis of lengths whose middle nine tenths spread over more than a factor of 50 is logarithmic.
    """
    rows = math.ceil(len(factors) / _COLUMNS)
    figure = Figure(figsize=(3.0 * _COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for place, (name, values) in zip(axes, factors.items(), strict=False):
        seen = values[np.isfinite(values)]
        place.set_title(f"{name} ({_UNITS[name]})" if name in _UNITS else name, fontsize=10)
        place.set_yticks([])
        place.spines[["top", "right", "left"]].set_visible(False)
        if not len(seen):
            continue
        low, high = np.percentile(seen, [5, 95]).tolist()
        if low == high and seen.min() == seen.max():
            place.set_xticks([])
            place.set_xlabel(f"all {low:.4g}", fontsize=9)
            continue
        place.xaxis.set_major_locator(MaxNLocator(4))
        place.ticklabel_format(useOffset=False)
        if name in _LENGTHS and seen.min() > 0 and high > _WIDE * low:
            place.hist(seen, bins=np.geomspace(seen.min(), seen.max(), _BINS).tolist(), color=COLOURS[0])
            place.set_xscale("log")
        else:
            place.hist(seen, bins=_BINS, color=COLOURS[0])
        place.axvline(float(np.median(seen)), color=COLOURS[1], linewidth=1.5)
        place.set_xlabel(f"median {np.median(seen):.4g}", fontsize=9)
    for place in axes[len(factors) :]:
        place.set_axis_off()
    FigureCanvasAgg(figure)
    with written_beside(path) as beside:
        figure.savefig(beside, format="png", dpi=100)
