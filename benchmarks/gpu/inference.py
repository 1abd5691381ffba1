"""Step h: images per second at inference, and tiles per second on an image of 10,000² with 50,000 objects."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from benchmarks.gpu.quality import WEIGHTS
from benchmarks.gpu.scenes import Trainee, free_memory, make_batch, peak_gigabytes, run_unless_too_large
from benchmarks.gpu.throughput import machine_of
from benchmarks.gpu.timing import synchronize, time_steps
from benchmarks.slices import make_scene_image
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.views import tiles
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.model.presets import torchvision
from maskrcnn.structures.instances import Instances
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.machine import Machine

TILE, OVERLAP = 512, 0.1
TRAINING_SECONDS = 10.0  # where step e left no weights


def measure_inference(context: Context) -> None:
    """Rows of images per second, then the large image."""
    machine = machine_of(context)
    detector, origin = trained_detector(context, machine)
    context.report(weights=origin)
    side, size = (64, 2) if context.quick else (256, 64)
    measure(context, machine, f"default, {side}², batch {size}", detector, 48, side, size)
    if not context.is_late("the default detector", needed=3.0):
        side, size = (64, 1) if context.quick else (800, 8)
        preset = torchvision("batch")
        large = Detector(replace(preset, image=replace(preset.image, min_size=side)), 1, "mask_rcnn")
        name = f"torchvision preset, {side}², batch {size}, random weights"
        measure(context, machine, name, large, 100, side, size)
    if not context.is_late("images", needed=5.0):
        measure_tiles(context, machine, detector)


def trained_detector(context: Context, machine: Machine) -> tuple[Detector, str]:
    """The default detector with the weights of step e, or after a few seconds on scenes made here."""
    torch.manual_seed(0)
    detector = Detector(DetectorConfig(), 1, "mask_rcnn")
    if (context.folder / WEIGHTS).is_file():
        detector.load_state_dict(load_checkpoint(context.folder / WEIGHTS)["model"])
        machine.place(detector)
        return detector, "those of step e"
    images, instances = make_batch(48, 256, 8, machine.device)
    trainee = Trainee(detector, images, instances, machine)
    trainee.optimizer = torch.optim.AdamW(detector.parameters(), 1e-3, fused=True)
    end = time.time() + (0.0 if context.quick else min(TRAINING_SECONDS, 0.3 * context.left()))
    steps = 0
    while not steps or time.time() < end:
        trainee.step()
        steps += 1
    return detector, f"{steps} steps on scenes of step h"


def measure(
    context: Context, machine: Machine, name: str, detector: Detector, count: int, side: int, batch_size: int
) -> None:
    """Images per second of whole images."""
    images, _ = make_batch(count, side, batch_size, machine.device)
    machine.place(detector).eval()
    found: list[Instances] = []

    def detect() -> None:
        with machine.autocast():
            found[:] = detector.detect(images)

    def work() -> dict[str, Any]:
        free_memory(machine.device)
        seconds = time_steps(detect, machine.device, 0.0 if context.quick else 3.0, 0 if context.quick else 3)
        return {
            "images_per_second": batch_size / seconds,
            "detections_per_image": sum(map(len, found)) / batch_size,
            "peak_gigabytes": peak_gigabytes(machine.device),
        }

    context.add("rows", {"model": name} | run_unless_too_large(work, machine.device))
    describe(context)


def measure_tiles(context: Context, machine: Machine, detector: Detector) -> None:
    """Tiles per second of a large image that lies in memory, merging included; stops early where time runs out."""
    started = time.perf_counter()
    parts, part_side = (1, 600) if context.quick else (4, 2500)
    image, count = make_scene_image(parts, part_side)
    made = time.perf_counter() - started
    views = tiles((parts * part_side,) * 2, TILE, OVERLAP)
    first: list[float] = []

    def detect(batch: Sequence[Tensor]) -> list[Instances]:
        if not first:
            first.append(time.perf_counter())
        with machine.autocast():
            return detector.detect(batch)

    done = [0]

    def progress(number: int, total: int) -> None:
        done[0] = number
        if context.is_late(f"{number} of {total} tiles"):
            raise TimeoutError

    machine.place(detector).eval()
    row: dict[str, Any] = {"image": f"{parts * part_side:,}²", "objects": count, "tiles": len(views), "tile": TILE}
    started = time.perf_counter()
    free_memory(machine.device)
    try:
        found = predict(
            detect, image, views, batch_size=4 if context.quick else 16, device=machine.device, progress=progress
        )
        row["found"] = len(found)
    except TimeoutError:
        pass
    synchronize(machine.device)
    seconds = time.perf_counter() - started
    row |= {"tiles_done": done[0], "tiles_per_second": done[0] / seconds, "seconds": seconds, "seconds_to_draw": made}
    context.report(tiles=row | {"peak_gigabytes": peak_gigabytes(machine.device)})
    describe(context)


def describe(context: Context) -> None:
    """The headline of what is known so far."""
    rows = context.contents.get("rows", [])
    words = [f"{row['model']}: {row['images_per_second']:.0f}/s" for row in rows if "images_per_second" in row]
    if "tiles" in context.contents:
        row = context.contents["tiles"]
        words.append(f"{row['image']}: {row['tiles_per_second']:.1f} tiles/s, {row['seconds']:.0f} s")
    context.report(headline="; ".join(words))
