"""How long a run trains and how often it is evaluated: from counts, so that no clock chooses the best weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maskrcnn.training.config import DEFAULT_NUM_EPOCHS, DEFAULT_NUM_STEPS, TrainingConfig

MAX_EVALUATIONS = 10  # of a run, where the interval is not given
EVALUATION_SHARE = 0.2  # of the run's time
STEPS_PER_EVALUATION = 5.0  # what an evaluation costs beside its images: the best weights are saved, metrics computed
COST_PER_PIXEL = 4.5  # measured: evaluating and drawing an image takes as long as training on so many of its size


@dataclass(frozen=True)
class EvaluationCost:
    """What one evaluation of the validation images and the final one of the test images cost, in training steps."""

    validation: float = STEPS_PER_EVALUATION
    test: float = 0.0


def estimate_cost(num_pixels: float, pixels_per_step: float) -> float:
    """Estimate what an evaluation costs, in training steps.

    Args:
        num_pixels: of all images (and views) that the detector sees.
        pixels_per_step: of the crops in one training batch.
    """
    return STEPS_PER_EVALUATION + COST_PER_PIXEL * num_pixels / pixels_per_step


def total_steps(config: TrainingConfig, steps_per_epoch: int) -> int | None:
    """The steps of the whole run; None where it ends by the clock."""
    if config.minutes is not None:
        return None
    if config.num_steps is not None:
        return config.num_steps
    if config.num_epochs is not None:
        return config.num_epochs * steps_per_epoch
    return max(DEFAULT_NUM_STEPS, DEFAULT_NUM_EPOCHS * steps_per_epoch)


def evaluation_interval(config: TrainingConfig, steps_per_epoch: int, cost: EvaluationCost) -> int:
    """Epochs between two evaluations; -1 or 0: only after the last.

    Where `eval_every_n_epochs` is not set, evaluation takes about `EVALUATION_SHARE` of the time at most, that of the
    test images included, and there are at most `MAX_EVALUATIONS`. The last epoch is always evaluated.
    """
    if config.eval_every_n_epochs is not None:
        return config.eval_every_n_epochs
    steps_per_cost = (1.0 - EVALUATION_SHARE) / EVALUATION_SHARE
    steps = total_steps(config, steps_per_epoch)
    if steps is None:
        return math.ceil(steps_per_cost * cost.validation / steps_per_epoch)
    affordable = (steps / steps_per_cost - cost.test) / cost.validation
    number = max(1, min(MAX_EVALUATIONS, math.floor(affordable)))
    return math.ceil(math.ceil(steps / steps_per_epoch) / number)
