"""A toy detector, its data, and a program that trains it: what the tests of maskrcnn.training train.

`python training_toy.py FOLDER [--resume] [--kill-at STEP | --interrupt-at STEP]`
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.structures.instances import Instances
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loading import KeyedSamples, load_evaluation_batches
from maskrcnn.training.loop import Callbacks, Training
from maskrcnn.training.machine import set_up_machine
from maskrcnn.training.runlog import RunLog, read_metrics

CONFIG = TrainingConfig(
    num_epochs=4,
    batch_size=2,
    learning_rate=0.05,
    warmup_steps=2,
    device="cpu",
    torch_threads=1,  # runs in this process and in others are compared bit for bit
    eval_every_n_epochs=2,
    log_every_n_steps=1,
)  # 7 images: 4 steps an epoch, the last with one image


class ToyDetector(nn.Module):
    """The detector's calling convention, with everything that a resume must bring back: buffers and random draws."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, images: list[Tensor], instances: list[Instances] | None = None) -> Any:
        features = [self.norm(self.body(image.float()[None] / 255)).mean((2, 3)) for image in images]
        boxes = self.head(torch.cat(features)).float()
        if instances is None:
            sizes = [(image.shape[-2], image.shape[-1]) for image in images]
            ones = torch.ones(1)
            return [Instances(size, box[None], ones.long(), ones) for size, box in zip(sizes, boxes, strict=True)]
        target = torch.stack([each.boxes.mean(0) for each in instances]) / 8
        sampled = torch.rand(boxes.shape, device=boxes.device)  # what a sampler of anchors does
        return {
            "loss_box_reg": ((boxes - target) ** 2 * sampled).mean(),
            "loss_objectness": boxes.square().mean() * 0.1,
        }


class ToyImages:
    """Seven images of 8 x 8 with two objects each."""

    class_names = ("thing",)

    def __init__(self, length: int = 7) -> None:
        self.image_ids = [100 + index for index in range(length)]
        self.image_names = [f"toy-{index}.png" for index in range(length)]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 8, 8), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0 + index % 3], [2.0, 2.0, 8.0, 8.0]])
        return image, Instances((8, 8), boxes, torch.ones(2, dtype=torch.int64))


def jitter(image: Tensor, instances: Instances, generator: torch.Generator) -> tuple[Tensor, Instances]:
    """Noise on the image, and a shift of the boxes."""
    noise = torch.randint(0, 20, image.shape, generator=generator)
    shift = torch.rand((), generator=generator)
    return (image.int() + noise).clamp(0, 255).to(torch.uint8), replace(instances, boxes=instances.boxes + shift)


class StepClock:
    """A clock that moves by a second each time it is read, so that tests decide when a checkpoint is due."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def toy_training(
    folder: Path, config: TrainingConfig = CONFIG, model: nn.Module | None = None, **callbacks: Any
) -> Training:
    """A run in `folder` (made if it is not there), not started."""
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    samples = KeyedSamples(ToyImages(), jitter, config.seed)
    validation = load_evaluation_batches(KeyedSamples(ToyImages(3)), 2)
    callbacks = dict[str, Any](evaluate=toy_metrics, validation=validation) | callbacks
    log = RunLog(folder, console=lambda line: None, tensorboard=False)
    machine = set_up_machine(config)
    about = {"head": "toy", "class_names": ["thing"]}
    model = model or ToyDetector()
    return Training(model, samples, config, machine, log, Callbacks(**callbacks), about, clock=StepClock())


def toy_metrics(model: nn.Module, epoch: int) -> dict[str, float]:
    """A figure that depends on the weights."""
    return {"box_ap": float(sum(parameter.detach().sum() for parameter in model.parameters()))}


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, through dicts and lists; times aside."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_runs(a: Path, b: Path) -> None:
    for name in ("last.pt", "best.pt"):
        saved, other = load_checkpoint(a / "weights" / name), load_checkpoint(b / "weights" / name)
        saved.pop("config"), other.pop("config")
        assert_equal(saved, other, name)
    assert_equal(read_metrics(a / "metrics.jsonl"), read_metrics(b / "metrics.jsonl"), "metrics")


def main() -> None:
    folder, *options = sys.argv[1:]
    at = int(options[-1]) if options and options[-1].isdecimal() else -1

    def on_step(training: Training) -> None:
        if training.state.step == at:
            os.kill(os.getpid(), signal.SIGKILL if "--kill-at" in options else signal.SIGINT)

    config = replace(CONFIG, checkpoint_every_n_seconds=8.0)  # by the clock above: in the middle of an epoch
    training = toy_training(Path(folder), config, on_step=on_step)
    if "--resume" in options:
        training.resume()
    state = training.run()
    print("finished" if state.finished else "interrupted", state.step)


if __name__ == "__main__":
    main()
