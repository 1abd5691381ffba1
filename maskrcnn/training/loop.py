"""The training loop: epochs of steps, then what is measured and kept after each."""

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
from maskrcnn.training.budget import EvaluationCost, evaluation_interval, total_steps
from maskrcnn.training.checkpoint import (
    check_same_configuration,
    first_not_finite,
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
    key_seed,
    num_steps_per_epoch,
    training_batches,
)
from maskrcnn.training.machine import Machine
from maskrcnn.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from maskrcnn.training.runlog import RunLog

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Metrics = dict[str, float]
IN_LINE = ("validation_loss", "box_ap", "box_ap50", "mask_ap", "mask_ap50", "ar_100", "f1")  # others: metrics.jsonl
MAX_LINES = 100  # of epochs that are not evaluated; metrics.jsonl has all
SAVING_SHARE = 0.05  # at epoch ends, save only if that takes less than this share of the time since the last saving


class TrainingError(UserError):
    """Training cannot go on: a loss, the gradient or a weight is not finite."""


@dataclass
class TrainingState:
    """How far a run is. Saved in every checkpoint."""

    epoch: int = 0  # complete epochs: trained, and evaluated where they were due
    step: int = 0  # steps taken
    seconds: float = 0.0  # spent in steps, loading included, evaluation and saving left out
    learning_rate: float = 0.0  # of the last step
    finished: bool = False
    best: float | None = None  # value of the best metric
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # losses of the running epoch, summed over its steps
    steps_in_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation


@dataclass(frozen=True)
class Callbacks:
    """What a program adds to training; its time is not counted as training.

    `evaluate(model, epoch)` gives metrics by name, of validation images; `validation` batches give the validation loss.
    Both run at intervals (see `evaluation_interval`, which asks for their `cost`) and after the last epoch, and choose
    the best weights. `on_step` and `on_epoch` see the run after each.
    """

    evaluate: Callable[[nn.Module, int], Metrics] | None = None
    validation: Iterable[Batch] | None = None
    on_step: Callable[[Training], None] | None = None
    on_epoch: Callable[[Training], None] | None = None
    cost: EvaluationCost = field(default_factory=EvaluationCost)


class Training:
    """One run: a model on its way through its epochs.

    `about` is saved with the weights (plain values: head, class names), `experiment` is the whole configuration,
    which a resumed run is compared with (default: `config`), as it is with `data`: `identify` of each part (default: of
    the training images). `clock` gives seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: KeyedSamples,
        config: TrainingConfig,
        machine: Machine,
        log: RunLog,
        callbacks: Callbacks = Callbacks(),
        about: Mapping[str, Any] | None = None,
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
        self.about = dict(about or {})
        self.experiment = experiment or config
        self.data = {"training": identify(samples.dataset)} if data is None else dict(data)
        self.clock = clock
        self.optimizer = make_optimizer(model, config)
        self.state = TrainingState()
        self.steps_per_epoch = num_steps_per_epoch(len(samples), config.batch_size)
        self.total_steps = total_steps(config, self.steps_per_epoch)
        self.eval_interval = evaluation_interval(config, self.steps_per_epoch, callbacks.cost)  # epochs
        num_epochs = (self.total_steps or 0) / self.steps_per_epoch
        self.line_interval = math.ceil(num_epochs / MAX_LINES) or 1  # epochs
        self.losses: Metrics = {}  # of the last step
        self.stopped_by: int | None = None  # the signal that ended `run` before the end of the budget
        self._saved_at = 0.0
        self._seconds_to_save = 0.0

    # ---- the loop

    def run(self) -> TrainingState:
        """Train to the end of the budget, or until Ctrl-C or SIGTERM.

        Then `state.finished` is False, `stopped_by` is the signal, and all is saved.

        Raises:
            TrainingError: a loss is not finite.
            LoadingError: a batch cannot be loaded; all steps before are saved.
        """
        state = self.state
        self._saved_at = self.clock()
        if state.step == 0:
            self.save()  # so that a run can be resumed from its first step on, and a full disk shows at once
        loading = training_batches(self.samples, self.config.batch_size, state.step, self.config.num_threads)
        with stop_on_signal() as stop, closing(loading) as batches:
            while not state.finished:
                self.model.train()
                for _ in range(state.step, (state.epoch + 1) * self.steps_per_epoch):
                    if stop.made or self.fraction() >= 1.0:
                        break
                    try:
                        self.take_step(batches)
                    except LoadingError:
                        if stop.made:  # the signal has ended the workers, too
                            break
                        self.save()
                        raise
                    self.after_step()
                if stop.made:
                    self.save()
                    self.stopped_by = stop.signal
                    break
                self.close_epoch()
        return state

    def take_step(self, batches: Iterator[Batch]) -> None:
        """Load a batch, compute losses and gradients, and change the weights. What it draws is keyed by its number."""
        started = self.clock()
        batch = next(batches).to(self.machine.device)
        torch.manual_seed(key_seed(self.config.seed, "step", self.state.epoch, self.state.step))
        self.state.learning_rate = learning_rate(self.config, self.state.step, self.fraction())
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
        """How much of the budget is used, from 0 to 1."""
        if self.total_steps is None:
            return min(1.0, self.state.seconds / (60.0 * (self.config.minutes or 0.0)))
        return min(1.0, self.state.step / self.total_steps)

    def check_finite(self, batch: Batch) -> None:
        """Stop before the weights are spoilt; `TrainingError` names the losses, the place and the images."""
        if all(math.isfinite(value) for value in self.losses.values()):
            return
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        images = ", ".join(self.samples.names(batch.ids))
        raise TrainingError(
            f"not finite in epoch {self.state.epoch + 1}, step {self.state.step + 1}: {values}; images of the batch: "
            f"{images}; look at these images, or lower --learning_rate (now {self.state.learning_rate:.3g})"
        )

    # ---- after a step, after an epoch

    def after_step(self) -> None:
        """Keep count of the losses, tell the program, and save if the last time is long ago."""
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

    def close_epoch(self) -> None:
        """Write the epoch's figures, evaluate if due, keep the best weights, and save."""
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
            self.log.say(self.epoch_line(means, measured))
        state.finished = last
        if self.callbacks.on_epoch is not None:
            self.callbacks.on_epoch(self)
        self.save_epoch(last)

    def evaluate(self) -> Metrics:
        """Validation loss and metrics of this epoch, recorded; the weights are kept if they are the best so far."""
        state, measured = self.state, {}
        if self.callbacks.validation is not None:
            losses = validation_loss(self.model, self.callbacks.validation, self.machine, self.config.seed)
            self.record("validation", state.epoch, losses, "validation")
            measured["validation_loss"] = losses["loss"]
        if self.callbacks.evaluate is not None:
            metrics = self.callbacks.evaluate(self.model, state.epoch)
            self.record("evaluation", state.epoch, metrics, "validation")
            measured |= metrics
        state.metrics = measured
        name = best_metric_name(self.config.best_metric, measured)
        if name is not None and is_better(name, measured[name], state.best):
            state.best, state.best_epoch = measured[name], state.epoch
            self.write("best.pt", self.contents())
        return measured

    def epoch_line(self, means: Metrics, measured: Metrics) -> str:
        """One readable line: where the run is, its losses, its metrics."""
        budget = f"/{math.ceil(self.total_steps / self.steps_per_epoch)}" if self.total_steps is not None else ""
        losses = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in means.items())
        names = (name for name in IN_LINE if name in measured)
        metrics = "  ".join(f"{name.removeprefix('validation_')} {measured[name]:.3f}" for name in names)
        line = f"epoch {self.state.epoch}{budget}  {self.state.seconds:.0f} s  {losses}"
        return f"{line}  |  validation: {metrics}" if metrics else line

    def record(self, kind: str, epoch: int, values: Metrics, split: str | None = None) -> None:
        """Write figures to the run's log, with the place in the run and the training time."""
        self.log.record(kind, epoch=epoch, step=self.state.step, split=split, seconds=self.state.seconds, **values)

    # ---- saving and going on

    def contents(self) -> dict[str, Any]:
        """What weights are saved with: all that is needed to build the model and to know where it comes from."""
        where = {
            "state": asdict(self.state),
            "config": to_dict(self.experiment),
            "num_images": self.samples.num_images,
        }
        return self.about | where | {"model": self.model.state_dict()}

    def check_weights(self) -> None:
        """Raise `TrainingError` where a weight is not finite, so that such weights are never saved."""
        layer = first_not_finite(self.model.state_dict())
        if layer is not None:
            raise TrainingError(
                f"layer {layer} is not finite in epoch {self.state.epoch + 1}, after step {self.state.step}; the "
                f"weights saved before stay as they are; lower --learning_rate (now {self.state.learning_rate:.3g})"
            )

    def write(self, name: str, contents: Mapping[str, Any]) -> None:
        """Save a checkpoint in the run's folder, after what was recorded before it."""
        self.log.sync()
        save_checkpoint(self.log.weights / name, contents)

    def save(self) -> None:
        """Write `weights/last.pt`, with the optimiser's state."""
        self.check_weights()
        started = self.clock()
        self.write("last.pt", self.contents() | {"optimizer": self.optimizer.state_dict(), "data": self.data})
        self._saved_at = self.clock()
        self._seconds_to_save = self._saved_at - started

    def save_epoch(self, last: bool) -> None:
        """Save at the end of an epoch if that is cheap or due; keep a copy every `save_model_every_n_epochs`.

        The copy comes first: a run that is killed in between then trains this epoch again, and writes both.
        """
        every = self.config.save_model_every_n_epochs
        if every > 0 and self.state.epoch % every == 0:
            self.write(f"epoch-{self.state.epoch:04d}.pt", self.contents())
        if last or self.clock() - self._saved_at >= self._seconds_to_save / SAVING_SHARE:
            self.save()

    def resume(self, may_differ: Collection[str] = ()) -> None:
        """Go on from `weights/last.pt` of the run's folder; what was recorded after it is forgotten.

        `may_differ`: dotted keys or sections of `experiment` that need not be as they were. `UserError` where the
        file is missing, of another architecture, of another configuration, or of other data.
        """
        path = self.log.weights / "last.pt"
        saved = load_checkpoint(path)
        if "optimizer" not in saved:
            raise UserError(f"{path} holds weights without an optimiser's state; a run cannot be resumed from it")
        check_same_configuration(saved["config"], self.experiment, path, may_differ)
        notices = check_same_data(saved.get("data", {}), self.data, path)
        load_weights(self.model, saved["model"], path)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = TrainingState(**saved["state"])
        self.log.cut_back(self.state.epoch, self.state.step)
        _remove_unfinished_files(self.log.weights)
        for notice in notices:
            self.log.say(notice)
        self.log.say(f"resumed after epoch {self.state.epoch}, step {self.state.step}")


def _remove_unfinished_files(weights: Path) -> None:
    """What a killed program was writing: hidden files beside the weights, as large as they."""
    for path in weights.glob(".*.pt"):
        path.unlink(missing_ok=True)


# ---- measuring


@torch.no_grad()
def validation_loss(model: nn.Module, batches: Iterable[Batch], machine: Machine, seed: int = 0) -> Metrics:
    """Mean losses over `batches`, weighted by images, in evaluation mode; `loss` is their sum.

    The samplers' draws are keyed by the batch, so that epochs and runs can be compared. The model keeps its mode.
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


def best_metric_name(wanted: str, measured: Mapping[str, float]) -> str | None:
    """The metric that decides which weights are the best; None when nothing was measured.

    `UserError` where `wanted` is not among the metrics.
    """
    if not measured:
        return None
    if wanted == "auto":
        preferred = ("mask_ap", "box_ap", "validation_loss", *measured)
        return next(name for name in preferred if name in measured)
    if wanted not in measured:
        raise UserError(f"best_metric: there is no metric '{wanted}' here; use auto, {', '.join(measured)}")
    return wanted


def is_better(name: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best`: losses should be small, all else large; not-a-number never wins."""
    if not math.isfinite(value):
        return False
    return best is None or (value < best if "loss" in name else value > best)
