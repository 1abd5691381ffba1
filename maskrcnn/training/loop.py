"""Training loop: steps, evaluation, and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maskrcnn.config import UserError, to_dict
from maskrcnn.training.budget import EvaluationCost, compute_evaluation_interval, compute_total_steps
from maskrcnn.training.checkpoint import (
    check_same_configuration,
    find_nonfinite_tensor,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.identity import Identity, check_same_data, identify
from maskrcnn.training.interrupt import stop_on_signal
from maskrcnn.training.loading import (
    Batch,
    KeyedSamples,
    LoadingError,
    count_steps_per_epoch,
    key_seed,
    load_training_batches,
)
from maskrcnn.training.lock import remove_locks
from maskrcnn.training.machine import Machine
from maskrcnn.training.optimizer import compute_learning_rate, make_optimizer, set_learning_rate
from maskrcnn.training.runlog import RunLog
from maskrcnn.training.validation import Metrics, choose_best_metric, compute_validation_loss, is_better

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOGGED_METRICS = (
    "validation_loss",
    "box_ap",
    "box_ap50",
    "mask_ap",
    "mask_ap50",
    "ar_100",
    "f1",
)  # metrics in the lines of epochs; the others are in metrics.jsonl
MAX_LINES = 100  # of epochs that are not evaluated; metrics.jsonl has all
MAX_SAVING_FRACTION = 0.05  # at the end of an epoch, save if it takes less than this fraction of the time since then


class TrainingError(UserError):
    """Training cannot continue, because a loss, the gradient, or a weight is not finite."""


@dataclass
class TrainingState:
    """State of a run, saved in every checkpoint."""

    epoch: int = 0  # complete epochs, including their evaluation
    step: int = 0  # number of steps
    seconds: float = 0.0  # time of all steps, including loading, excluding evaluation and saving
    learning_rate: float = 0.0  # of the last step
    finished: bool = False
    best: float | None = None  # value of the best metric
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # sums of losses over the steps of the current epoch
    steps_in_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of a program; their time does not count as training time.

    Attributes:
        evaluate: called with the model and the epoch, returns metrics of the validation images by name.
        validation: batches for the validation loss. Both are evaluated at intervals (see
            `compute_evaluation_interval`) and after the last epoch, and select the best weights.
        on_step: called after each step.
        on_epoch: called after each epoch.
        cost: cost of evaluations, for their interval.
    """

    evaluate: Callable[[nn.Module, int], Metrics] | None = None
    validation: Iterable[Batch] | None = None
    on_step: Callable[[Training], None] | None = None
    on_epoch: Callable[[Training], None] | None = None
    cost: EvaluationCost = field(default_factory=EvaluationCost)


class Training:
    """Training run of one model.

    Args:
        model: returns losses by name for images and instances.
        samples: samples of the training set.
        config: options.
        machine: device and precision.
        log: log of the run.
        callbacks: callbacks of the program.
        metadata: plain values that are saved with the weights, such as head and class names.
        experiment: whole configuration, which must be the same for a resumed run (default: `config`).
        data: identity of each part of the data, which must be the same for a resumed run (default: of the training
            images).
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: KeyedSamples,
        config: TrainingConfig,
        machine: Machine,
        log: RunLog,
        callbacks: Callbacks = Callbacks(),
        metadata: Mapping[str, Any] | None = None,
        experiment: DataclassInstance | None = None,
        data: Mapping[str, Identity] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = machine.place(model)
        self.samples = samples
        self.config = config
        self.machine = machine
        self.log = log
        self.callbacks = callbacks
        self.metadata = dict(metadata or {})
        self.experiment = experiment or config
        self.data = {"training": identify(samples.dataset)} if data is None else dict(data)
        self.clock = clock
        self.optimizer = make_optimizer(model, config)
        self.state = TrainingState()
        self.steps_per_epoch = count_steps_per_epoch(len(samples), config.batch_size)
        self.total_steps = compute_total_steps(config, self.steps_per_epoch)
        self.eval_interval = compute_evaluation_interval(config, self.steps_per_epoch, callbacks.cost)  # epochs
        num_epochs = (self.total_steps or 0) / self.steps_per_epoch
        self.line_interval = math.ceil(num_epochs / MAX_LINES) or 1  # epochs
        self.losses: Metrics = {}  # of the last step
        self.stopped_by: int | None = None  # the signal that ended `run` before the end of the budget
        self._saved_at = 0.0
        self._seconds_to_save = 0.0

    # ---- loop

    def run(self) -> TrainingState:
        """Train to the end of the budget, or until Ctrl-C or SIGTERM.

        After a signal, the run is saved, `state.finished` is False, and `stopped_by` is the signal.

        Raises:
            TrainingError: If a loss is not finite.
            LoadingError: If a batch cannot be loaded; the previous steps are saved.
        """
        state = self.state
        self._saved_at = self.clock()
        if state.step == 0:
            self.save()  # so that the run can be resumed from the start, and a full disk is detected at once
        loading = load_training_batches(self.samples, self.config.batch_size, state.step, self.config.num_workers)
        with stop_on_signal(self.clean_up) as stop, closing(loading) as batches:
            while not state.finished:
                self.model.train()
                for _ in range(state.step, (state.epoch + 1) * self.steps_per_epoch):
                    if stop.made or self.fraction() >= 1.0:
                        break
                    try:
                        self.take_step(batches)
                    except LoadingError:
                        if stop.made:  # the signal also ended the workers
                            break
                        self.save()
                        raise
                    self.after_step()
                if stop.made:
                    self.save()
                    self.stopped_by = stop.signal
                    break
                self.finish_epoch()
        return state

    def take_step(self, batches: Iterator[Batch]) -> None:
        """Load a batch, compute losses and gradients, and update the weights; the random seed depends on the step."""
        started = self.clock()
        batch = next(batches).to(self.machine.device)
        torch.manual_seed(key_seed(self.config.seed, "step", self.state.epoch, self.state.step))
        self.state.learning_rate = compute_learning_rate(self.config, self.state.step, self.fraction())
        set_learning_rate(self.optimizer, self.state.learning_rate)
        with self.machine.autocast():
            losses: dict[str, torch.Tensor] = self.model(batch.images, batch.instances)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf)
        numbers = torch.stack([loss.detach(), *(value.detach().float() for value in losses.values()), norm]).tolist()
        self.losses = dict(zip(["loss", *losses, "gradient_norm"], numbers, strict=True))
        self.check_finite(batch)
        self.optimizer.step()
        self.state.step += 1
        self.state.seconds += self.clock() - started

    def fraction(self) -> float:
        """Return the fraction of the budget that is used, in [0, 1]."""
        if self.total_steps is None:
            return min(1.0, self.state.seconds / (60.0 * (self.config.minutes or 0.0)))
        return min(1.0, self.state.step / self.total_steps)

    def check_finite(self, batch: Batch) -> None:
        """Raise `TrainingError` before an update with losses or a gradient that are not finite."""
        if all(math.isfinite(value) for value in self.losses.values()):
            return
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        images = ", ".join(self.samples.names(batch.ids))
        raise TrainingError(
            f"not finite in epoch {self.state.epoch + 1}, step {self.state.step + 1}: {values}; images of the batch: "
            f"{images}; check these images, or lower --learning_rate (now {self.state.learning_rate:.3g})"
        )

    def clean_up(self) -> None:
        """Remove what a process that ends at once would leave in the folder, beside the last checkpoint."""
        _remove_unfinished_files(self.log.weights)
        remove_locks()

    # ---- after a step, after an epoch

    def after_step(self) -> None:
        """Record losses, call `on_step`, and save if the last checkpoint is old enough."""
        state, every = self.state, self.config.log_every_n_steps
        for name, value in self.losses.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        state.steps_in_epoch += 1
        if every and state.step % every == 0:
            self.record("step", state.epoch + 1, self.losses | {"learning_rate": state.learning_rate})
        if self.callbacks.on_step is not None:
            self.callbacks.on_step(self)
        if self.clock() - self._saved_at >= self.config.checkpoint_every_n_seconds:
            self.save()

    def finish_epoch(self) -> None:
        """Record the losses of the epoch, evaluate if due, and save."""
        self.check_weights()
        state = self.state
        state.epoch += 1
        last = self.fraction() >= 1.0
        means = {name: total / state.steps_in_epoch for name, total in state.sums.items()}
        state.sums, state.steps_in_epoch = {}, 0
        self.record("train", state.epoch, means | {"learning_rate": state.learning_rate})
        due = last or (self.eval_interval > 0 and state.epoch % self.eval_interval == 0)
        measured = self.evaluate() if due else {}
        if due or state.epoch % self.line_interval == 0:
            self.log.info(self.format_epoch(means, measured))
        state.finished = last
        if self.callbacks.on_epoch is not None:
            self.callbacks.on_epoch(self)
        self.save_epoch(last)

    def evaluate(self) -> Metrics:
        """Compute and record validation loss and metrics, and save the weights if they are the best so far."""
        state, measured = self.state, {}
        if self.callbacks.validation is not None:
            losses = compute_validation_loss(self.model, self.callbacks.validation, self.machine, self.config.seed)
            self.record("validation", state.epoch, losses, "validation")
            measured["validation_loss"] = losses["loss"]
        if self.callbacks.evaluate is not None:
            metrics = self.callbacks.evaluate(self.model, state.epoch)
            self.record("evaluation", state.epoch, metrics, "validation")
            measured |= metrics
        state.metrics = measured
        name = choose_best_metric(self.config.best_metric, measured)
        if name is not None and is_better(name, measured[name], state.best):
            state.best, state.best_epoch = measured[name], state.epoch
            self.write("best.pt", self.contents())
        return measured

    def format_epoch(self, means: Metrics, measured: Metrics) -> str:
        """Format a line with the epoch, its losses, and its metrics."""
        budget = f"/{math.ceil(self.total_steps / self.steps_per_epoch)}" if self.total_steps is not None else ""
        losses = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in means.items())
        names = (name for name in LOGGED_METRICS if name in measured)
        metrics = "  ".join(f"{name.removeprefix('validation_')} {measured[name]:.3f}" for name in names)
        line = f"epoch {self.state.epoch}{budget}  {self.state.seconds:.0f} s  {losses}"
        return f"{line}  |  validation: {metrics}" if metrics else line

    def record(self, kind: str, epoch: int, values: Metrics, split: str | None = None) -> None:
        """Record values with step and training time."""
        self.log.record(kind, epoch=epoch, step=self.state.step, split=split, seconds=self.state.seconds, **values)

    # ---- checkpoints

    def contents(self) -> dict[str, Any]:
        """Return the contents of a checkpoint: the weights, and all that is needed to build the model."""
        progress = {
            "state": asdict(self.state),
            "config": to_dict(self.experiment),
            "num_images": self.samples.num_images,
        }
        return self.metadata | progress | {"model": self.model.state_dict()}

    def check_weights(self) -> None:
        """Raise `TrainingError` if a weight is not finite, so that such weights are never saved."""
        layer = find_nonfinite_tensor(self.model.state_dict())
        if layer is not None:
            raise TrainingError(
                f"layer {layer} is not finite in epoch {self.state.epoch + 1}, after step {self.state.step}; the "
                f"last checkpoints are kept; lower --learning_rate (now {self.state.learning_rate:.3g})"
            )

    def write(self, name: str, contents: Mapping[str, Any]) -> None:
        """Save a checkpoint in the folder of the run, after syncing the log."""
        self.log.sync()
        save_checkpoint(self.log.weights / name, contents)

    def save(self) -> None:
        """Save `weights/last.pt`, with the state of the optimizer."""
        self.check_weights()
        started = self.clock()
        self.write("last.pt", self.contents() | {"optimizer": self.optimizer.state_dict(), "data": self.data})
        self._saved_at = self.clock()
        self._seconds_to_save = self._saved_at - started

    def save_epoch(self, last: bool) -> None:
        """Save at the end of an epoch if it is cheap, and a copy every `save_model_every_n_epochs`.

        The copy is saved first. If the run is killed in between, this epoch is trained again, and both are saved.
        """
        every = self.config.save_model_every_n_epochs
        if every > 0 and self.state.epoch % every == 0:
            self.write(f"epoch-{self.state.epoch:04d}.pt", self.contents())
        if last or self.clock() - self._saved_at >= self._seconds_to_save / MAX_SAVING_FRACTION:
            self.save()

    def resume(self, may_differ: Collection[str] = ()) -> None:
        """Resume from `weights/last.pt` of the run, and discard what was recorded after it.

        Args:
            may_differ: dotted keys or sections of `experiment` that may differ.

        Raises:
            UserError: If the file is missing, or architecture, options, or data differ.
        """
        path = self.log.weights / "last.pt"
        saved = load_checkpoint(path)
        if "optimizer" not in saved:
            raise UserError(f"{path} has no optimizer state; a run cannot be resumed from it")
        check_same_configuration(saved["config"], self.experiment, path, may_differ)
        notices = check_same_data(saved.get("data", {}), self.data, path)
        load_weights(self.model, saved["model"], path)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = TrainingState(**saved["state"])
        self.log.truncate(self.state.epoch, self.state.step)
        _remove_unfinished_files(self.log.weights)
        for notice in notices:
            self.log.info(notice)
        self.log.info(f"resumed after epoch {self.state.epoch}, step {self.state.step}")


def _remove_unfinished_files(weights: Path) -> None:
    """Remove temporary files that a killed program left in the weights folder."""
    for path in weights.glob(".*.pt"):
        path.unlink(missing_ok=True)
