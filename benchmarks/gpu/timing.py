"""Times of steps on a GPU, where its kernels' share goes, and what makes the host wait."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

WAITING_CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READING_OPERATORS = ("aten::_local_scalar_dense", "aten::nonzero")  # would make the host wait for a GPU


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(step: Callable[[], None], device: torch.device, seconds: float, warmup: int, limit: int = 100) -> float:
    """Median seconds per step, after `warmup` steps; at least one is timed, at most `limit` or for `seconds`."""
    for _ in range(warmup):
        step()
    synchronize(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < limit and time.perf_counter() < end):
        started = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def profile_steps(step: Callable[[], None], device: torch.device, step_seconds: float, count: int) -> dict[str, Any]:
    """Share of the time in kernels, how often the host waits per step, and the largest kernels.

    `step_seconds` is the time of a step without the profiler, which slows the host down, not the kernels.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(count):
            step()
        synchronize(device)
    averages = profiler.key_averages()
    calls = {event.key: event.count for event in averages}
    if not on_gpu:
        return {"reads_per_step": sum(calls.get(name, 0) for name in READING_OPERATORS) / count}
    on_device = [event for event in averages if event.device_type == DeviceType.CUDA]
    kernels = [event for event in on_device if not event.is_user_annotation]  # those enclose kernels counted already
    total = sum(event.self_device_time_total for event in kernels) / 1e6
    largest = sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]
    waits = sum(calls.get(name, 0) for name in WAITING_CALLS) - 1  # the last one is ours
    return {
        "kernel_share": total / count / step_seconds,
        "synchronizations_per_step": waits / count,
        "kernel_launches_per_step": sum(event.count for event in kernels) / count,
        "largest_kernels": [
            {"name": event.key[:120], "milliseconds_per_step": event.self_device_time_total / 1e3 / count}
            for event in largest
        ],
    }


def find_waits(step: Callable[[], None], device: torch.device) -> list[dict[str, Any]]:
    """The lines of Python that make the host wait for the GPU in one step, the most frequent first."""
    if device.type != "cuda":
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    counts = Counter(
        f"{each.filename.split('site-packages/')[-1]}:{each.lineno}"
        for each in caught
        if "synchroniz" in str(each.message).lower()
    )
    return [{"line": line, "times": times} for line, times in counts.most_common(20)]
