"""How long a run is, and how often it is evaluated."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs_toy import fail, succeed
from training_toy import CONFIG, toy_training

from examples.train import main as train
from maskrcnn.config import UserError
from maskrcnn.training.budget import EvaluationCost, compute_evaluation_interval, compute_total_steps, estimate_cost
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loop import Training
from maskrcnn.training.runlog import read_metrics
from workbench.config import load_config


@pytest.mark.parametrize(
    ("settings", "steps_per_epoch", "steps"),
    [
        ({}, 64, 640),  # the default data: ten epochs of 128 images
        ({}, 4, 640),  # eight images
        ({}, 1000, 10_000),
        ({"num_steps": 7}, 64, 7),
        ({"num_epochs": 3}, 64, 192),
        ({"minutes": 2.0}, 64, None),
    ],
)
def test_the_budget_in_steps(settings: dict[str, Any], steps_per_epoch: int, steps: int | None) -> None:
    assert compute_total_steps(TrainingConfig(**settings), steps_per_epoch) == steps


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.1, 1e4), st.floats(0, 1e4))
def test_evaluation_takes_a_fifth_of_the_time_at_most(
    steps: int, steps_per_epoch: int, validation: float, test: float
) -> None:
    config = TrainingConfig(num_steps=steps)
    interval = compute_evaluation_interval(config, steps_per_epoch, EvaluationCost(validation, test))
    num_epochs = math.ceil(steps / steps_per_epoch)
    number = num_epochs // interval + (num_epochs % interval > 0)
    assert 1 <= number <= 10
    cost = number * validation + test
    assert number == 1 or cost <= 0.2 * (steps + cost) * (1 + 1e-9)


def test_the_interval_that_is_set_wins_and_the_default_data_is_evaluated_twice() -> None:
    per_step = 2 * 256 * 256
    costs = [estimate_cost(count * 256 * 256, per_step) for count in (16, 32)]
    assert compute_evaluation_interval(TrainingConfig(), 64, EvaluationCost(*costs)) == 5
    for every in (-1, 0, 1, 3):
        assert (
            compute_evaluation_interval(TrainingConfig(eval_every_n_epochs=every), 64, EvaluationCost(*costs)) == every
        )
    by_clock = compute_evaluation_interval(TrainingConfig(minutes=5.0), 64, EvaluationCost(*costs))
    assert by_clock * 64 >= 4 * costs[0] > (by_clock - 1) * 64


@pytest.mark.parametrize("steps", [1, 4, 5, 10, 16])
def test_a_run_of_so_many_steps_ends_there_at_the_end_of_the_cosine(tmp_path: Path, steps: int) -> None:
    config = replace(CONFIG, num_epochs=None, num_steps=steps)  # 4 steps an epoch
    rates: list[float] = []
    training = toy_training(tmp_path, config, on_step=lambda t: rates.append(t.state.learning_rate))
    state = training.run()
    assert (state.step, state.epoch, state.finished) == (steps, math.ceil(steps / 4), True)
    evaluated = [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert evaluated[-1] == state.epoch
    if steps == 16:
        whole: list[float] = []
        toy_training(tmp_path / "epochs", CONFIG, on_step=lambda t: whole.append(t.state.learning_rate)).run()
        assert rates == whole, "four epochs of four steps"


def test_a_run_of_steps_resumes_within_its_last_epoch_bit_for_bit(tmp_path: Path) -> None:
    from test_training_resume import assert_same_runs, interrupt_at

    config = replace(CONFIG, num_epochs=None, num_steps=10, eval_every_n_epochs=None)
    toy_training(tmp_path / "whole", config).run()
    for step in (4, 9):
        folder = tmp_path / str(step)
        assert toy_training(folder, config, on_step=interrupt_at(step)).run().step == step
        training: Training = toy_training(folder, config)
        training.resume()
        assert training.run().finished
        assert_same_runs(tmp_path / "whole", folder)


def test_one_budget_may_be_set_and_the_later_layer_wins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--num_epochs and --minutes: give one of them"):
        TrainingConfig(num_epochs=3, minutes=1.0)
    file = tmp_path / "settings.toml"
    file.write_text("[training]\nnum_epochs = 7\n")
    assert load_config(file, environ={}).training.num_epochs == 7
    training = load_config(file, {"num_steps": "30"}, {}).training
    assert (training.num_steps, training.num_epochs, training.minutes) == (30, None, None)
    training = load_config(file, {"minutes": "2"}, {"SMALLOBJECTS_NUM_STEPS": "3"}).training
    assert (training.num_steps, training.num_epochs, training.minutes) == (None, None, 2.0)
    file.write_text("[training]\nnum_epochs = 7\nnum_steps = 5\n")
    with pytest.raises(UserError, match="--num_steps and --num_epochs: give one"):
        load_config(file, environ={})


def test_a_small_set_is_trained_for_many_epochs_and_a_small_budget_is_remarked(workplace: Path) -> None:
    error = fail(train, "--head=rpn", "--num_epochs=2", "--num_steps=5")
    assert "--num_steps and --num_epochs: give one of them" in error
    lines = succeed(train, "--head=rpn", "--num_steps=7")
    assert "7 steps (2.33 epochs), evaluated after the last epoch" in lines
    assert any(line.startswith("note: 7 steps are few for training from scratch") for line in lines)
    run = workplace / "runs/ellipses-rpn-1"
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"] == [3, 6, 7]
    assert "training.num_steps: 7 -> " in fail(train, "--resume", "--num_epochs=3")


def test_a_thousand_short_epochs_print_a_hundred_lines(tmp_path: Path) -> None:
    said: list[str] = []
    config = replace(CONFIG, num_epochs=None, num_steps=1000, eval_every_n_epochs=100)
    training = toy_training(tmp_path, config)  # 4 steps an epoch
    training.log.console = said.append
    training.run()
    assert 84 <= len(said) <= 102 and said[-1].startswith("epoch 250/250")
    evaluated = [line.split()[1] for line in said if "validation: " in line]
    assert evaluated == ["100/250", "200/250", "250/250"]
    lines = [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert lines == list(range(1, 251))
