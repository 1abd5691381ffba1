"""Step g: peak memory and time of a training step by the number of objects per image."""

from typing import Any

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.scenes import (
    Trainee,
    free_memory,
    make_batch,
    peak_gigabytes,
    run_unless_too_large,
    torchvision_inputs,
)
from benchmarks.gpu.throughput import machine_of
from benchmarks.gpu.timing import time_steps
from benchmarks.peers import TorchvisionMaskRCNN
from benchmarks.time_to_quality import MAX_INSTANCES, MIN_CONFIDENCE, make_detector
from maskrcnn.training.machine import Machine

COUNTS = (20, 100, 500, 2_000, 10_000)
SIDE, BATCH_SIZE = 1024, 2


def measure_scaling(context: Context) -> None:
    """A row per number of objects and model; torchvision's stops where its memory does not suffice."""
    machine = machine_of(context)
    counts, side = ((5, 20), 64) if context.quick else (COUNTS, SIDE)
    context.report(image=f"{side}², batch {BATCH_SIZE}")
    ways = ["ours", "torchvision"]
    seen: dict[str, list[str]] = {way: [] for way in ways}
    for count in counts:
        for way in list(ways):
            if context.is_late(f"{len(context.contents.get('rows', []))} rows", needed=2.0):
                return
            row: dict[str, Any] = {"objects": count, "way": way} | run_unless_too_large(
                lambda: measure(way, count, side, machine, context.quick),  # noqa: B023
                machine.device,
            )
            context.add("rows", row)
            if "error" in row:
                ways.remove(way)
                seen[way].append(f"{row['error']} at {count:,}")
            else:
                memory = "" if row["peak_gigabytes"] is None else f", {row['peak_gigabytes']:.1f} GB"
                seen[way] = [f"{count:,} objects: {1e3 * row['step_seconds']:.0f} ms{memory}"]
            context.report(headline="; ".join(f"{name} {', '.join(words)}" for name, words in seen.items() if words))


def measure(way: str, count: int, side: int, machine: Machine, quick: bool) -> dict[str, Any]:
    """Seconds and memory of a training step on images with `count` objects."""
    free_memory(machine.device)
    images, instances = make_batch(count, side, BATCH_SIZE, machine.device)
    if way == "ours":
        trainee = Trainee(make_detector(), images, instances, machine)
    else:
        torch.manual_seed(0)
        model = TorchvisionMaskRCNN(1, MAX_INSTANCES, MIN_CONFIDENCE).model
        trainee = Trainee(model, *torchvision_inputs(images, instances), machine)
    seconds = time_steps(trainee.step, machine.device, 0.0 if quick else 1.0, 0 if quick else 3, limit=20)
    return {"step_seconds": seconds, "peak_gigabytes": peak_gigabytes(machine.device)}
