"""Validation loss, and the choice of the best weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from maskrcnn.config import UserError
from maskrcnn.training.loading import Batch, key_seed
from maskrcnn.training.machine import Machine

Metrics = dict[str, float]


@torch.no_grad()
def compute_validation_loss(model: nn.Module, batches: Iterable[Batch], machine: Machine, seed: int = 0) -> Metrics:
    """Compute mean losses over batches, weighted by images, in evaluation mode.

    The random seed of the samplers depends on the batch, so that epochs and runs are comparable. The mode of the model
    is restored.

    Args:
        model: the model.
        batches: validation batches.
        machine: device and precision.
        seed: random seed.

    Returns:
        Losses by name, and `loss`, their sum.
    """
    was_training = model.training
    model.eval()
    sums: Metrics = {}
    num_images = 0
    for number, batch in enumerate(batches):
        torch.manual_seed(key_seed(seed, "validation", number))
        on_device = batch.to(machine.device)
        with machine.autocast():
            losses: dict[str, torch.Tensor] = model(on_device.images, on_device.instances)
        num_images += len(batch.ids)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(batch.ids)
    model.train(was_training)
    means = {name: total / max(1, num_images) for name, total in sums.items()}
    return {"loss": sum(means.values())} | means


def choose_best_metric(wanted: str, measured: Mapping[str, float]) -> str | None:
    """Return the metric that selects the best weights; None without metrics.

    Raises:
        UserError: If the `wanted` metric does not exist.
    """
    if not measured:
        return None
    if wanted == "auto":
        preferred = ("mask_ap", "box_ap", "validation_loss", *measured)
        return next(name for name in preferred if name in measured)
    if wanted not in measured:
        raise UserError(f"best_metric: no metric '{wanted}' here; use auto, {', '.join(measured)}")
    return wanted


def is_better(name: str, value: float, best: float | None) -> bool:
    """Return whether a value is better than the best so far: lower for losses, higher otherwise; never for NaN."""
    if not math.isfinite(value):
        return False
    return best is None or (value < best if "loss" in name else value > best)
