"""What the loop measures, keeps, writes and refuses."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from training_toy import CONFIG, ToyDetector, ToyImages, toy_metrics, toy_training

from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.training.checkpoint import load_checkpoint, load_weights
from maskrcnn.training.loading import KeyedSamples, load_evaluation_batches
from maskrcnn.training.loop import Training, TrainingError
from maskrcnn.training.machine import Machine
from maskrcnn.training.progress import ProgressDisplay
from maskrcnn.training.runlog import read_metrics
from maskrcnn.training.validation import choose_best_metric, compute_validation_loss, is_better


class Spoilt(ToyDetector):
    """Its loss (or only its gradient) is not finite from the sixth step on."""

    def __init__(self, gradient_only: bool) -> None:
        super().__init__()
        self.calls = 0
        self.gradient_only = gradient_only

    def forward(self, images: list[Tensor], instances: list[Instances] | None = None) -> Any:
        losses = super().forward(images, instances)
        self.calls += self.training
        if self.calls >= 6:
            zero = (self.head.bias * 0).sum()
            losses["loss_mask"] = zero.sqrt() if self.gradient_only else zero / 0
        return losses


@pytest.mark.parametrize(("gradient_only", "named"), [(False, "loss_mask nan"), (True, "gradient_norm nan")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(
    tmp_path: Path, gradient_only: bool, named: str
) -> None:
    training = toy_training(tmp_path, model=Spoilt(gradient_only))
    with pytest.raises(TrainingError, match="epoch 2, step 6") as caught:
        training.run()
    assert named in str(caught.value) and "loss_objectness 0." in str(caught.value)
    assert str(caught.value).count(".png") == 2
    assert training.state.step == 5
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())


def test_lines_of_a_run(tmp_path: Path) -> None:
    training = toy_training(tmp_path)
    said: list[str] = []
    training.log.console = said.append
    training.run()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    epochs = {kind: [line["epoch"] for line in lines if line["kind"] == kind] for kind in ("train", "validation")}
    assert epochs == {"train": [1, 2, 3, 4], "validation": [2, 4]}
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 17))
    steps = [line["loss"] for line in lines if line["kind"] == "step" and line["epoch"] == 3]
    train = next(line for line in lines if line["kind"] == "train" and line["epoch"] == 3)
    assert train["loss"] == pytest.approx(sum(steps) / 4)
    assert train["loss"] == pytest.approx(train["loss_box_reg"] + train["loss_objectness"])
    assert len(said) == 4 and said[1].startswith("epoch 2/4") and "box_ap" in said[1]
    assert [line.split("  ", 1)[1] for line in (tmp_path / "train.log").read_text().splitlines()] == said


def test_training_changes_nothing_between_two_runs_of_one_seed(tmp_path: Path) -> None:
    def with_draws(model: torch.nn.Module, epoch: int) -> dict[str, float]:
        torch.rand(5)  # evaluation may draw what it likes
        model.eval()
        return toy_metrics(model, epoch)

    first, second = toy_training(tmp_path / "a"), toy_training(tmp_path / "b", evaluate=with_draws)
    first.run()
    second.run()
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_best_weights_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    values = iter([0.2, 0.5, math.nan, 0.4])
    kept: list[Tensor] = []

    def evaluate(model: torch.nn.Module, epoch: int) -> dict[str, float]:
        kept.append(next(model.parameters()).detach().clone())
        return {"box_ap": 0.9 - epoch / 10, "mask_ap": next(values)}

    config = replace(CONFIG, eval_every_n_epochs=1, save_model_every_n_epochs=3)
    state = toy_training(tmp_path, config, evaluate=evaluate).run()
    assert (state.best, state.best_epoch) == (0.5, 2)
    best = load_checkpoint(tmp_path / "weights" / "best.pt")
    model = ToyDetector()
    load_weights(model, best["model"], "best.pt")
    assert torch.equal(next(model.parameters()), kept[1])
    assert (best["head"], best["class_names"]) == ("toy", ["thing"])
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["best.pt", "epoch-0003.pt", "last.pt"]


def test_without_evaluation_the_validation_loss_decides(tmp_path: Path) -> None:
    config = replace(CONFIG, eval_every_n_epochs=1)
    state = toy_training(tmp_path, config, evaluate=None).run()
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "validation"]
    assert state.best == min(losses)


def test_evaluation_only_after_the_last_epoch(tmp_path: Path) -> None:
    epochs: list[int] = []

    def evaluate(model: torch.nn.Module, epoch: int) -> dict[str, float]:
        epochs.append(epoch)
        return {"box_ap": 0.0}

    toy_training(tmp_path, replace(CONFIG, eval_every_n_epochs=-1), evaluate=evaluate).run()
    assert epochs == [4]


def test_a_budget_of_minutes_counts_steps_alone(tmp_path: Path) -> None:
    """Each step takes one second of the toy clock; all else is not counted."""
    training = toy_training(tmp_path, replace(CONFIG, num_epochs=None, minutes=0.1))
    rates: list[float] = []
    training.callbacks = replace(training.callbacks, on_step=lambda run: rates.append(run.state.learning_rate))
    state = training.run()
    assert (state.step, state.seconds, state.epoch, state.finished) == (6, 6.0, 2, True)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    expected = [0.05 * min(1, (step + 1) / 3) * (0.01 + 0.99 * cosine[step]) for step in range(6)]
    assert rates == pytest.approx(expected)


def test_unknown_metric_is_named() -> None:
    with pytest.raises(UserError, match="no metric 'ap' here; use auto, box_ap, mask_ap"):
        choose_best_metric("ap", {"box_ap": 0.1, "mask_ap": 0.2})
    assert choose_best_metric("auto", {"box_ap": 0.1, "mask_ap": 0.2}) == "mask_ap"
    assert choose_best_metric("auto", {"recall": 0.1}) == "recall"
    assert choose_best_metric("box_ap", {}) is None


def test_better_is_larger_except_for_losses() -> None:
    assert is_better("box_ap", 0.2, 0.1) and not is_better("box_ap", 0.1, 0.1)
    assert is_better("validation_loss", 0.1, 0.2) and is_better("box_ap", 0.0, None)
    assert not is_better("box_ap", math.nan, None)


def test_validation_loss_is_a_mean_over_images_and_leaves_the_model_alone() -> None:
    model, machine = ToyDetector().train(), Machine(torch.device("cpu"))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    losses = [
        compute_validation_loss(model, load_evaluation_batches(KeyedSamples(ToyImages(5)), 2), machine)
        for _ in range(2)
    ]
    assert losses[0] == losses[1]
    assert losses[0]["loss"] == pytest.approx(losses[0]["loss_box_reg"] + losses[0]["loss_objectness"])
    assert model.training and all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    alone = compute_validation_loss(model, load_evaluation_batches(KeyedSamples(ToyImages(5)), 1), machine)
    assert alone["loss_objectness"] == pytest.approx(losses[0]["loss_objectness"], rel=1e-5)


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_bfloat16_and_clipping_train(tmp_path: Path) -> None:
    config = replace(
        CONFIG, amp=True, channels_last=True, clip_norm=1e-3, optimizer="sgd", momentum=0.0, weight_decay=0.0
    )
    training = toy_training(tmp_path, config)
    before = flat(training.model)
    batches = iter(load_evaluation_batches(training.samples, 2))
    training.take_step(batches)
    moved = (flat(training.model) - before).norm()
    assert float(moved) == pytest.approx(1e-3 * training.state.learning_rate, rel=1e-2)


def test_progress_shows_lines_on_a_terminal_and_elsewhere(tmp_path: Path) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        with ProgressDisplay(console=Console(file=stream, force_terminal=is_terminal, width=80)) as display:

            def on_step(training: Training, display: ProgressDisplay = display) -> None:
                display.on_step(training)

            training = toy_training(tmp_path / str(is_terminal), on_step=on_step)
            training.log.console = display.print
            training.run()
        assert "epoch 4/4" in stream.getvalue()
        assert ("\x1b[" in stream.getvalue()) == is_terminal
