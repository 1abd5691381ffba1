"""Quality over training time: shared code of the accuracy benchmarks."""

import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from augment.config import AugmentConfig
from augment.training import make_training_transform
from benchmarks.peers import TorchvisionMaskRCNN
from maskrcnn.evaluation.figures import evaluate
from maskrcnn.files import write_text
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loading import KeyedSamples
from maskrcnn.training.loop import Callbacks, Training
from maskrcnn.training.machine import set_up_machine
from maskrcnn.training.runlog import RunLog
from workbench.data import Data
from workbench.evaluation import predict

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Point:
    """Metrics after some seconds of training, without the time of evaluation."""

    seconds: float
    epoch: int
    metrics: dict[str, float]


def train_and_trace(
    name: str,
    model: Detector | TorchvisionMaskRCNN,
    data: Data,
    augment: AugmentConfig,
    config: TrainingConfig,
    until: float | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> list[Point]:
    """Train `model` and evaluate it on the test images every `eval_every_n_epochs`; print each point.

    Args:
        name: name to print.
        model: model to train.
        data: training and test images.
        augment: augmentation.
        config: training options.
        until: mask AP at which training stops.
        on_point: called with each point; may raise `Reached` to stop.

    Returns:
        The points.
    """
    machine = set_up_machine(config)
    test = KeyedSamples(data.test)
    targets = {image_id: data.test[i][1] for i, image_id in enumerate(data.test.image_ids)}
    points: list[Point] = []

    def measure(trained: nn.Module, epoch: int) -> dict[str, float]:
        detections = predict(model, test, machine, config.batch_size)
        metrics = evaluate(targets, detections, data.class_names, "mask_rcnn").metrics
        points.append(Point(training.state.seconds, epoch, metrics))
        print(f"{name:12s} {training.state.seconds:7.1f} s  epoch {epoch:4d}  {describe(metrics)}", flush=True)
        if on_point is not None:
            on_point(points[-1])
        if until is not None and metrics["mask_ap"] >= until:
            raise Reached
        return metrics

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights").mkdir()
        log = RunLog(folder, console=lambda line: None, tensorboard=False)
        samples = KeyedSamples(data.train, make_training_transform(augment, data.train, data.gray_levels), config.seed)
        training = Training(model, samples, config, machine, log, Callbacks(measure))
        with suppress(Reached):
            training.run()
    return points


class Reached(Exception):  # noqa: N818  # no error
    """Raised when training has reached its goal."""


def describe(metrics: dict[str, float]) -> str:
    """Format the main metrics."""
    names = ("mask_ap", "mask_ap50", "box_ap", "dsb_mean_precision")
    return "  ".join(f"{name} {metrics[name]:.3f}" for name in names if name in metrics)


def find_crossing(points: Sequence[Point], level: float, metric: str = "mask_ap") -> float | None:
    """Return the seconds at which the metric first reaches `level`, interpolated; None if it never does."""
    previous = Point(0.0, 0, {metric: 0.0})
    for point in points:
        if point.metrics[metric] >= level:
            low, high = previous.metrics[metric], point.metrics[metric]
            return previous.seconds + (point.seconds - previous.seconds) * (level - low) / max(high - low, 1e-9)
        previous = point
    return None


def write_results(name: str, command: str, contents: dict[str, object]) -> Path:
    """Write `results/NAME.json` with machine, versions, and command."""
    about = {
        "command": command,
        "machine": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_text(path, json.dumps(about | contents, indent=1) + "\n")
    return path


def to_rows(points: Sequence[Point]) -> list[dict[str, float]]:
    """Convert points to rows."""
    return [
        {"seconds": round(p.seconds, 1), "epoch": p.epoch} | {k: round(v, 4) for k, v in p.metrics.items()}
        for p in points
    ]
