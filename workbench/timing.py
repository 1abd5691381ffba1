"""Times that a busy machine does not spoil: medians, with the load beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any


def median_step_seconds(metrics: Iterable[Mapping[str, Any]]) -> float | None:
    """The median time of a training step, from the lines of `metrics.jsonl`; None with fewer than two lines of steps.

    Each pair of neighboring lines gives the mean of the steps in between. Evaluation is not counted.
    """
    lines = [(line["step"], line["seconds"]) for line in metrics if line.get("kind") == "step"]
    spans = [(after - before) / (end - start) for (start, before), (end, after) in pairwise(lines) if end > start]
    return median(spans) if spans else None


def load_average() -> float | None:
    """Processes that ran or waited for a core in the last minute; None where the system does not count them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_times(num_cores: int | None = os.cpu_count()) -> str:
    """What the columns of times in a table are."""
    load = f"; load: processes per minute on {num_cores} cores, ours included" if load_average() is not None else ""
    return f"train s: median step × steps; ms/image: median{load}"
