"""Step c: every operation on the GPU, ours beside torchvision's or the dense way."""

import statistics
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.costs import Cost, cost, cost_on_gpu, timed
from benchmarks.gpu.context import Context
from benchmarks.ops import CASES, Case, Run
from maskrcnn.ops._native import LOADED

SECONDS = 0.3  # for the runs of one way of a case
HOST_ONLY = ("decode_rle",)  # its function reads texts on the CPU


def measure_operations(context: Context) -> None:
    """A row per operation and size: seconds and peak memory of each, and the ratio of the peer's time to ours."""
    device = torch.device(context.device)
    context.report(kernels=sorted(LOADED))
    ratios: list[float] = []
    for cases in CASES:
        try:
            for case in cases(1 if context.quick else 3):
                if context.is_late(f"{len(context.contents.get('cases', []))} cases", needed=1.0):
                    return
                if not (context.on_gpu and case.operation in HOST_ONLY):
                    row = measure(case, device, context.quick)
                    ratios += [row["ratio"]] if row["ratio"] else []
                    context.add("cases", row)
        except ImportError as error:
            context.add("left_out", {"operations": cases.__name__.removesuffix("_cases"), "reason": str(error)})
        if ratios:
            middle = statistics.median(ratios)
            context.report(headline=f"{len(ratios)} cases beside a peer; median ratio of its time to ours {middle:.1f}")


def measure(case: Case, device: torch.device, quick: bool) -> dict[str, Any]:
    """One row; an operation that fails, or needs more memory than there is, has the error in place of its cost."""
    row: dict[str, Any] = {"operation": case.operation, "size": case.size}
    for way, run in (("ours", case.ours), ("peer", case.peer)):
        if run is not None:
            found = try_cost(run, device, quick)
            row[way] = asdict(found) if isinstance(found, Cost) else found
    seconds = [row[way]["seconds"] for way in ("ours", "peer") if isinstance(row.get(way), dict)]
    return row | {"ratio": seconds[1] / seconds[0] if len(seconds) == 2 else None}


def try_cost(run: Run, device: torch.device, quick: bool) -> Cost | str:
    """The cost of a run on `device`, or the first line of its error."""
    try:
        if device.type == "cuda":
            return cost_on_gpu(run.to(device), device, SECONDS)
        return Cost(timed(run), None) if quick else cost(run)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    except RuntimeError as error:
        if device.type == "cuda" and "CUDA error" in str(error):  # spoils the process: the step ends here
            raise
        return str(error).split("\n")[0]
