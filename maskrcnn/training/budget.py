"""Length of training and interval of evaluation, computed from counts, so that timing does not affect the results."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maskrcnn.training.config import DEFAULT_NUM_EPOCHS, DEFAULT_NUM_STEPS, TrainingConfig

MAX_EVALUATIONS = 10  # per run, if the interval is not set
MAX_EVALUATION_FRACTION = 0.2  # of the training time
STEPS_PER_EVALUATION = 5.0  # cost of an evaluation in addition to its images: metrics, saving the best weights
COST_PER_PIXEL = (
    4.5  # measured: time to evaluate and draw an image, in units of a training step on an image of its size
)


@dataclass(frozen=True)
class EvaluationCost:
    """Cost of evaluations in training steps.

    Attributes:
        validation: cost of one evaluation of the validation images.
        test: cost of the final evaluation of the test images.
    """

    validation: float = STEPS_PER_EVALUATION
    test: float = 0.0


def estimate_cost(num_pixels: float, pixels_per_step: float) -> float:
    """Estimate the cost of an evaluation in training steps.

    Args:
        num_pixels: number of pixels of all images and views.
        pixels_per_step: number of pixels of a training batch.
    """
    return STEPS_PER_EVALUATION + COST_PER_PIXEL * num_pixels / pixels_per_step


def compute_total_steps(config: TrainingConfig, steps_per_epoch: int) -> int | None:
    """Compute the number of steps of the run; None if it is limited by time."""
    if config.minutes is not None:
        return None
    if config.num_steps is not None:
        return config.num_steps
    if config.num_epochs is not None:
        return config.num_epochs * steps_per_epoch
    return max(DEFAULT_NUM_STEPS, DEFAULT_NUM_EPOCHS * steps_per_epoch)


def compute_evaluation_interval(config: TrainingConfig, steps_per_epoch: int, cost: EvaluationCost) -> int:
    """Compute the number of epochs between evaluations; -1 or 0 evaluates only after the last epoch.

    If `eval_every_n_epochs` is not set, evaluations take at most about `MAX_EVALUATION_FRACTION` of the time, including
    that of the test images, and there are at most `MAX_EVALUATIONS`. The last epoch is always evaluated.

    Args:
        config: options.
        steps_per_epoch: number of steps per epoch.
        cost: cost of evaluations.
    """
    if config.eval_every_n_epochs is not None:
        return config.eval_every_n_epochs
    steps_per_cost = (1.0 - MAX_EVALUATION_FRACTION) / MAX_EVALUATION_FRACTION
    steps = compute_total_steps(config, steps_per_epoch)
    if steps is None:
        return math.ceil(steps_per_cost * cost.validation / steps_per_epoch)
    affordable = (steps / steps_per_cost - cost.test) / cost.validation
    number = max(1, min(MAX_EVALUATIONS, math.floor(affordable)))
    return math.ceil(math.ceil(steps / steps_per_epoch) / number)
