"""The learning rate over a run, and which parameters learn how."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from training_toy import ToyDetector

from maskrcnn.config import UserError
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.machine import choose_device
from maskrcnn.training.optimizer import compute_learning_rate, make_optimizer, make_parameter_groups, set_learning_rate

CONFIG = TrainingConfig(learning_rate=0.1, warmup_steps=0, final_lr_factor=0.2)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0.1), (1 / 3, 0.08), (0.5, 0.06), (1.0, 0.02), (1.5, 0.02)])
def test_cosine_falls_to_the_final_factor(fraction: float, expected: float) -> None:
    assert compute_learning_rate(CONFIG, 1000, fraction) == pytest.approx(expected)


def test_warmup_rises_linearly_and_ends() -> None:
    config = replace(CONFIG, warmup_steps=3, schedule="constant")
    assert [compute_learning_rate(config, step, 0.9) for step in range(5)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1]
    )


class Pretrained(ToyDetector):
    def pretrained_parameters(self) -> set[str]:
        return {"body.weight", "body.bias"}


def test_groups_split_decay_and_pretrained_parameters() -> None:
    model = Pretrained()
    model.norm.bias.requires_grad_(False)
    config = TrainingConfig(weight_decay=0.3, pretrained_lr_factor=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        (group["lr_factor"], group["weight_decay"]): {names[id(parameter)] for parameter in group["params"]}
        for group in make_parameter_groups(model, config)
    }
    assert groups == {
        (0.1, 0.3): {"body.weight"},
        (0.1, 0.0): {"body.bias"},
        (1.0, 0.3): {"head.weight"},
        (1.0, 0.0): {"norm.weight", "head.bias"},
    }


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_rate_reaches_every_group_with_its_factor(name: str) -> None:
    optimizer = make_optimizer(Pretrained(), TrainingConfig(optimizer=name, pretrained_lr_factor=0.5))
    set_learning_rate(optimizer, 0.2)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.1, 0.2]


def test_a_factor_of_zero_freezes_pretrained_parameters() -> None:
    model = Pretrained()
    before = model.body.weight.detach().clone()
    optimizer = make_optimizer(model, TrainingConfig(pretrained_lr_factor=0.0))
    set_learning_rate(optimizer, 0.1)
    nn.functional.mse_loss(model.body(torch.ones(1, 3, 8, 8)), torch.zeros(1, 4, 6, 6)).backward()
    optimizer.step()
    assert torch.equal(model.body.weight, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1", "several GPUs are not available yet"),
        ("gpu", "unknown device"),
        ("cuda:x", "unknown device"),
        ("99", "GPU"),
    ],
)
def test_a_device_that_does_not_exist_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_device(text)


def test_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = [choose_device(text) for text in ("auto", "0", "cuda", "1", "cuda:1", " CUDA:0 ")]
    assert [str(device) for device in devices] == ["cuda", "cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:0"]
