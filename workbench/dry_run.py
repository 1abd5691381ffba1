"""What a run would be: everything resolved, one batch forward and backward, and what it takes."""

from __future__ import annotations

import sys
import time

import click
import torch

from maskrcnn.config import to_toml
from maskrcnn.model.detector import Detector
from maskrcnn.text import escape, format_count
from maskrcnn.training.loading import load_training_batches
from maskrcnn.training.machine import Machine, set_up_machine
from workbench.config import ExperimentConfig
from workbench.data import Data
from workbench.evaluation import check_views
from workbench.experiment import build_detector, make_training_samples


def describe(config: ExperimentConfig, data: Data) -> None:
    """Print options, shapes, parameters, losses and time of one batch, and peak memory."""
    click.echo(to_toml(config, comments=False))
    machine = set_up_machine(config.training)
    detector = build_detector(config, data, click.echo)
    machine.place(detector)
    check_views(detector, config.views, data.test)
    detector.train()
    samples = make_training_samples(config, data)
    batch = next(load_training_batches(samples, config.training.batch_size)).to(machine.device)
    started = time.perf_counter()
    with machine.autocast():
        losses = detector.losses(batch.images, batch.instances)
    torch.stack([value.float() for value in losses.values()]).sum().backward()
    seconds = time.perf_counter() - started
    classes = ", ".join(data.class_names)
    click.echo(f"data         {data.counted()}, classes {classes}")
    for name, image, instances in zip(samples.names(batch.ids), batch.images, batch.instances, strict=True):
        click.echo(f"image        {escape(name)}: {list(image.shape)}, {format_count(len(instances), 'objects')}")
    image, instances = data.test[0]  # training images are read in the batch
    name, objects = escape(data.test.image_names[0]), format_count(len(instances), "objects")
    click.echo(f"test image   {name}: {list(image.shape)}, {objects}")
    for stride, x in zip(detector.strides, _maps(detector, machine, batch.images), strict=True):
        click.echo(f"features     stride {stride}: {list(x.shape)}")
    for name, module in detector.named_children():
        click.echo(f"parameters   {name}: {sum(p.numel() for p in module.parameters()):,}")
    click.echo(f"parameters   all: {sum(p.numel() for p in detector.parameters()):,}")
    for name, value in losses.items():
        click.echo(f"loss         {name}: {value.item():.4f}")
    click.echo(f"time         {seconds:.2f} s for the first step on {machine.device}, bfloat16 {machine.amp}")
    click.echo(f"peak memory  {describe_peak_memory(machine.device)}")


@torch.no_grad()
def _maps(detector: Detector, machine: Machine, images: list[torch.Tensor]) -> list[torch.Tensor]:
    with machine.autocast():
        return detector.features(images)


def describe_peak_memory(device: torch.device) -> str:
    """Describe the peak memory of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB on the GPU"
    if sys.platform == "win32":
        return "not measured on Windows"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB"
