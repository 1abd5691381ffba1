"""Step f: whether deterministic runs repeat to the last bit, also after a kill, and what that costs."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.context import Context
from benchmarks.gpu.requirements import ROOT

KILLED_AT = 0.6  # of the steps


@dataclass(frozen=True)
class Variant:
    """One training run, or one that is killed and resumed."""

    name: str
    model: str = "ours"
    deterministic: bool = True
    kill: bool = False


VARIANTS = (
    Variant("first"),
    Variant("second"),
    Variant("killed and resumed", kill=True),
    Variant("not deterministic", deterministic=False),
    Variant("torchvision, deterministic", model="torchvision"),
    Variant("torchvision, not deterministic", model="torchvision", deterministic=False),
)

NOT_IN_QUICK = ("second", "torchvision, not deterministic")  # runs like others


def check_determinism(context: Context) -> None:
    """Three deterministic runs must end with the same weights; the others say what determinism costs."""
    from benchmarks.gpu.quality import make_data

    side = 64 if context.quick else 256
    make_data(context.folder / "ellipses-f", *((4, 1, side) if context.quick else (32, 1, side)))
    rows: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS:
        if context.quick and variant.name in NOT_IN_QUICK:
            continue
        if context.is_late(f"{len(rows)} of {len(VARIANTS)} runs", needed=4.0):
            break
        rows[variant.name] = run_variant(context, variant)
        context.add("rows", {"run": variant.name, **rows[variant.name]})
        context.report(headline=describe(rows))
    ours = [rows[variant.name] for variant in VARIANTS[:3] if variant.name in rows]
    errors = [row["error"] for row in ours if "error" in row]
    if errors:
        context.report(failure=f"a deterministic run failed: {errors[0]}")
    elif len({row["sha256"] for row in ours}) > 1:
        context.report(failure="deterministic runs differ: " + ", ".join(row["sha256"][:12] for row in ours))


def describe(rows: dict[str, dict[str, Any]]) -> str:
    """The hash and the cost per step in a line."""
    ours = [rows[variant.name].get("sha256", "failed") for variant in VARIANTS[:3] if variant.name in rows]
    words = [f"{len(ours)} runs, {len(set(ours))} SHA-256 ({ours[0][:12]})"]
    for model, slow, fast in (("ours", "first", "not deterministic"), ("torchvision", *(v.name for v in VARIANTS[4:]))):
        times = [1e3 * rows[name]["step_seconds"] for name in (slow, fast) if "step_seconds" in rows.get(name, {})]
        if len(times) == 2:
            words.append(f"{model} {times[0]:.0f} ms deterministic, {times[1]:.0f} ms not")
    return "; ".join(words)


def run_variant(context: Context, variant: Variant) -> dict[str, Any]:
    """A run in a process of its own, which is killed on the way and resumed where the variant says so."""
    folder = context.folder / variant.name.replace(" ", "-").replace(",", "")
    if variant.kill:
        killed = start(context, variant, folder, "kill")
        if killed.returncode != -signal.SIGKILL:
            return {"error": last_line(killed.stderr) or "the run was not killed"}
    finished = start(context, variant, folder, "resume" if variant.kill else "run")
    if finished.returncode:
        return {"error": last_line(finished.stderr) or f"exit code {finished.returncode}"}
    result: dict[str, Any] = json.loads(finished.stdout.strip().split("\n")[-1])
    return result


def start(context: Context, variant: Variant, folder: Path, mode: str) -> "subprocess.CompletedProcess[str]":
    """Run this module as a program."""
    settings = {
        "data": str(context.folder / "ellipses-f"), "folder": str(folder), "device": context.device, "mode": mode,
        "model": variant.model, "deterministic": variant.deterministic, "quick": context.quick,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.gpu.determinism", json.dumps(settings)]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(5.0, context.left()))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no time left")


def last_line(text: str) -> str:
    """The last line with text, cut to a readable length."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[-1][:300] if lines else ""


def train(
    data: str, folder: str, device: str, mode: str, model: str, deterministic: bool, quick: bool
) -> dict[str, Any] | None:
    """Train without evaluation. `mode`: run, kill (SIGKILL on the way), or resume."""
    from augment.config import AugmentConfig
    from augment.training import make_training_transform
    from benchmarks.peers import TorchvisionMaskRCNN
    from benchmarks.time_to_quality import MAX_INSTANCES, MIN_CONFIDENCE, make_detector
    from datasets.registry import open_dataset
    from maskrcnn.training.config import TrainingConfig
    from maskrcnn.training.loading import KeyedSamples
    from maskrcnn.training.loop import Callbacks, Training
    from maskrcnn.training.machine import set_up_machine
    from maskrcnn.training.runlog import RunLog

    config = TrainingConfig(
        num_epochs=2, device=device, deterministic=deterministic, checkpoint_every_n_seconds=0.0,
        amp=False if device == "cpu" else None,
    )  # fmt: skip
    machine = set_up_machine(config)
    torch.manual_seed(0)
    detector = make_detector() if model == "ours" else TorchvisionMaskRCNN(1, MAX_INSTANCES, MIN_CONFIDENCE)
    train_data = open_dataset("ellipses", data, "train")
    samples = KeyedSamples(train_data, make_training_transform(AugmentConfig(), train_data), config.seed)
    (Path(folder) / "weights").mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, console=lambda line: None, tensorboard=False)
    times: list[float] = []

    def on_step(training: Training) -> None:
        times.append(training.state.seconds)
        if mode == "kill" and training.state.step >= KILLED_AT * (training.total_steps or 0):
            os.kill(os.getpid(), signal.SIGKILL)

    training = Training(detector, samples, config, machine, log, Callbacks(on_step=on_step))
    if mode == "resume":
        training.resume()
    training.run()
    late = times[len(times) // 2 :] if len(times) > 3 else times
    seconds = (late[-1] - late[0]) / max(1, len(late) - 1)
    return {"sha256": hash_weights(detector), "step_seconds": seconds, "steps": training.state.step}


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of all weights, name by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(train(**json.loads(sys.argv[1]))))
