"""Kills a toy run with SIGKILL at given points and resumes it: `python killing_toy.py FOLDER TRIALS SEED`.

Points are what a run does to the disk: before and after each sync, rename and line of a log, and amid each file of
weights and each line. Every trial is a fork of this process, so that PyTorch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from training_toy import CONFIG, toy_training

from maskrcnn.training import runlog

# A checkpoint in the middle of an epoch, by the toy's clock, and a copy of every epoch.
KILLED = replace(CONFIG, checkpoint_every_n_seconds=8.0, save_model_every_n_epochs=1)


class Points:
    """Counts the points of a run, and kills the process at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0
        self.names: list[str] = []

    def reach(self, name: str, spoil: Callable[[], Any] = lambda: None) -> None:
        self.names.append(name)
        self.count += 1
        if self.count == self.at:
            spoil()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Put a point around every call that changes the disk."""
        sync, rename, save, append = os.fsync, os.replace, torch.save, runlog._append

        def fsync(descriptor: int) -> None:
            self.reach("before a sync")
            sync(descriptor)

        def replacing(old: Path, new: Path) -> None:
            self.reach(f"before the rename to {Path(new).name}")
            rename(old, new)
            self.reach(f"after the rename to {Path(new).name}")

        def saving(contents: Any, path: Path) -> None:
            save(contents, path)
            self.reach("amid a file of weights", lambda: os.truncate(path, path.stat().st_size // 2))

        def appending(path: Path, text: str) -> None:
            self.reach(f"amid a line of {path.name}", lambda: append(path, text[: len(text) // 2]))
            append(path, text)

        os.fsync, os.replace, torch.save, runlog._append = fsync, replacing, saving, appending  # type: ignore[assignment]


def run_in_fork(folder: Path, at: int) -> tuple[int, list[str]]:
    """Train or go on in a fork that is killed at a point (0: nowhere); its signal, and the points it reached."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        points = Points(at)
        points.watch()
        training = toy_training(folder, KILLED)
        if (folder / "weights" / "last.pt").exists():
            training.resume()
        training.run()
        os.write(writer, json.dumps(points.names).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else []


def main() -> None:
    folder, trials, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _, names = run_in_fork(folder / "whole", 0)
    draw = random.Random(seed)
    kinds: dict[str, list[int]] = {}
    for point, name in enumerate(names, start=1):
        kinds.setdefault(re.sub("[0-9]+", "N", name), []).append(point)
    points = [draw.choice(each) for each in kinds.values()]
    points += [draw.randrange(1, len(names) + 1) for _ in range(trials - len(points))]
    for number, point in enumerate(points):
        place = folder / f"trial-{number}"
        killed = [run_in_fork(place, point)[0], run_in_fork(place, draw.randrange(1, 30))[0]]
        assert killed[0] == -signal.SIGKILL, (point, names[point - 1], killed)
        assert run_in_fork(place, 0)[0] == 0, (point, names[point - 1])
        print(number, names[point - 1], killed)


if __name__ == "__main__":
    main()
