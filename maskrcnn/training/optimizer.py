"""Parameter groups, optimizer, and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.training.config import TrainingConfig


def compute_learning_rate(config: TrainingConfig, step: int, fraction: float) -> float:
    """Compute the learning rate of a step.

    The schedule is a linear warm-up times a half cosine from 1 to `final_lr_factor` (Loshchilov and Hutter, SGDR, eq.
    5, without restarts).

    Args:
        config: options.
        step: step, from 0.
        fraction: fraction of the budget that is used, in [0, 1].
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return config.learning_rate * warmup
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, fraction)))
    return config.learning_rate * warmup * (config.final_lr_factor + (1.0 - config.final_lr_factor) * cosine)


def make_parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Group trainable parameters by learning-rate factor and weight decay.

    Biases and parameters of normalization layers have no weight decay. If the model has a method
    `pretrained_parameters() -> names`, the learning rate of these parameters is multiplied by `pretrained_lr_factor`; a
    factor of 0 freezes them.
    """
    pretrained = _pretrained_names(model)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.pretrained_lr_factor if name in pretrained else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": members, "lr_factor": factor, "weight_decay": decay} for (factor, decay), members in groups.items()
    ]


def _pretrained_names(model: nn.Module) -> set[str]:
    method = getattr(model, "pretrained_parameters", None)
    names: Iterable[str] = method() if method is not None else ()
    return set(names)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Create AdamW or SGD, fused because there are many small tensors."""
    groups = make_parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, config.momentum, fused=True)
    return torch.optim.AdamW(groups, config.learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group to `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
