"""Step d: images per second in training, ours beside torchvision's operations and its own model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
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
    torchvision_model,
)
from benchmarks.gpu.timing import find_waits, profile_steps, time_steps
from benchmarks.time_to_quality import make_detector
from benchmarks.train_step import torchvision_operations
from maskrcnn.model.detector import Detector
from maskrcnn.model.presets import torchvision
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.machine import Machine, set_up_machine

Ways = dict[str, Callable[[], tuple[Trainee, AbstractContextManager[Any]]]]


def machine_of(context: Context) -> Machine:
    """As training chooses it on a GPU; plain float32 on a CPU, which the dry run is for."""
    return set_up_machine(TrainingConfig(device=context.device, amp=None if context.on_gpu else False))


def measure_training(context: Context) -> None:
    """Rows of images per second, with the share of kernels and what makes the host wait."""
    machine = machine_of(context)
    context.report(precision="bfloat16" if machine.amp else "float32")
    large = context.on_gpu and torch.cuda.get_device_properties(machine.device).total_memory > 60e9
    plan: list[tuple[str, Ways, int]] = []
    side, size = (64, 2) if context.quick else (256, 64)
    plan.append((f"default, {side}², batch {size}", default_ways(machine, side, size), size))
    side, size = (64, 1) if context.quick else (800, 16 if large else 8)
    plan.append((f"torchvision preset, {side}², batch {size}", preset_ways(machine, side, size, context.quick), size))
    left_ways = sum(len(ways) for _, ways, _ in plan)
    speeds: dict[str, dict[str, float]] = {}
    for model, ways, batch_size in plan:
        for way, make in ways.items():
            if context.is_late(f"{len(context.contents.get('rows', []))} rows", needed=2.0):
                return
            row = {"model": model, "way": way} | run_unless_too_large(
                lambda: measure(*make(), machine, batch_size, context.left() / left_ways, context.quick),  # noqa: B023
                machine.device,
            )
            left_ways -= 1
            context.add("rows", row)
            speeds.setdefault(model, {})[way] = row.get("images_per_second", 0.0)
            context.report(headline="; ".join(describe(*item) for item in speeds.items()))


def describe(model: str, speeds: dict[str, float]) -> str:
    """Images per second of every way."""
    return f"{model}: " + ", ".join(f"{way} {speed:.0f}/s" for way, speed in speeds.items())


def default_ways(machine: Machine, side: int, batch_size: int) -> Ways:
    """The default Mask R-CNN with our operations, and the same network with torchvision's."""
    images, instances = make_batch(48, side, batch_size, machine.device)

    def make() -> Trainee:
        return Trainee(make_detector(), images, instances, machine)

    return {
        "ours": lambda: (make(), nullcontext()),
        "same network, torchvision's operations": lambda: (make(), torchvision_operations()),
    }


def preset_ways(machine: Machine, side: int, batch_size: int, quick: bool) -> Ways:
    """torchvision's Mask R-CNN as our preset and as torchvision has it; images keep their size."""
    images, instances = make_batch(100, side, batch_size, machine.device)
    inputs = torchvision_inputs(images, instances)
    rois, proposals = (16, 50) if quick else (512, 2000)
    preset = torchvision("batch")
    preset = replace(
        preset,
        image=replace(preset.image, min_size=side),
        rpn=replace(preset.rpn, post_nms_top_n_training=proposals),
        box=replace(preset.box, rois_per_image=rois),
    )
    options = {"min_size": side, "rpn_post_nms_top_n_train": proposals, "box_batch_size_per_image": rois}

    def ours() -> Trainee:
        torch.manual_seed(0)
        return Trainee(Detector(preset, 1, "mask_rcnn"), images, instances, machine)

    return {
        "ours": lambda: (ours(), nullcontext()),
        "torchvision's maskrcnn_resnet50_fpn": lambda: (
            Trainee(torchvision_model(**options), *inputs, machine),
            nullcontext(),
        ),
    }


def measure(
    trainee: Trainee,
    around: AbstractContextManager[Any],
    machine: Machine,
    batch_size: int,
    seconds: float,
    quick: bool,
) -> dict[str, Any]:
    """One row in about `seconds`."""
    free_memory(machine.device)
    with around:
        step_seconds = time_steps(trainee.step, machine.device, 0.0 if quick else 0.4 * seconds, 0 if quick else 5)
        row = {
            "images_per_second": batch_size / step_seconds,
            "step_seconds": step_seconds,
            "peak_gigabytes": peak_gigabytes(machine.device),
        }
        count = 1 if quick else max(1, min(10, int(0.1 * seconds / step_seconds)))
        return (
            row
            | profile_steps(trainee.step, machine.device, step_seconds, count)
            | {"waits": find_waits(trainee.step, machine.device)}
        )
