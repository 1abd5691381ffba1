"""Robust timing on busy machines: medians, and the load average."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any


def compute_median_step_seconds(metrics: Iterable[Mapping[str, Any]]) -> float | None:
    """Compute the median time of a training step from the lines of `metrics.jsonl`.

    Each pair of consecutive lines gives the mean of the steps in between. Evaluation is not counted.

    Returns:
        Time in seconds; None if there are fewer than two lines of steps.
    """
    lines = [(line["step"], line["seconds"]) for line in metrics if line.get("kind") == "step"]
    spans = [(after - before) / (end - start) for (start, before), (end, after) in pairwise(lines) if end > start]
    return median(spans) if spans else None


def get_load_average() -> float | None:
    """Return the load average of the last minute; None if the system does not measure it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_times(num_cores: int | None = os.cpu_count()) -> str:
    """Describe the columns of times in a table."""
    load = f"; load: processes per minute on {num_cores} cores, ours included" if get_load_average() is not None else ""
    return f"train s: median step × steps; ms/image: median{load}"
