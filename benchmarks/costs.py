"""Time and memory of calls, on the CPU and on a GPU."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LONGEST = 20.0  # seconds that the runs of one case together may take


@dataclass(frozen=True)
class Cost:
    """Median seconds, and memory at the peak beyond what was in use before, in MB (None: not known)."""

    seconds: float
    megabytes: float | None


def cost_on_gpu(run: Callable[[], Any], device: torch.device, longest: float) -> Cost:
    """Median time of a few runs by CUDA events, one run before them apart, and the memory that one adds at its peak.

    After `longest` seconds no further run begins.
    """
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    megabytes = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    times: list[float] = []
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() - began < longest):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
        if time.perf_counter() - began > LONGEST:
            break
    return Cost(statistics.median(times), megabytes)


def cost(run: Callable[[], Any]) -> Cost:
    """Median time of a few runs, and the resident memory that the first one adds at its peak (Linux only)."""
    gc.collect()
    if sys.platform == "linux":  # memory kept for later would hide what the run takes
        ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak()
    times = [timed(run)]
    megabytes = None if before is None else max(0.0, resident("VmHWM") - before) / 1e3
    while len(times) < 3 or (len(times) < 25 and sum(times) < 1.0):
        if sum(times) > LONGEST:
            break
        times.append(timed(run))
    return Cost(statistics.median(times), megabytes)


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def reset_peak() -> float | None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return resident("VmRSS")


def resident(field: str) -> float:
    """kB from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field)))


def describe(value: Cost | None) -> str:
    if value is None:
        return "-"
    memory = "" if value.megabytes is None else f" {value.megabytes:.0f} MB"
    return f"{value.seconds * 1e3:.2f} ms{memory}"
