"""What a step is given, and where it reports."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskrcnn.files import write_text


class SkippedError(Exception):
    """The step cannot run here, which is not a fault; the message is the reason."""


@dataclass
class Context:
    """A step's settings and its results so far.

    `started` and `deadline` are times of `time.time()`; what is reported by the deadline is kept. `folder` is shared by
    the steps of one run. `result` is the JSON file that the results are written to after each report.
    """

    device: str
    quick: bool
    started: float
    deadline: float
    folder: Path
    result: Path
    contents: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def left(self) -> float:
        """Seconds to the deadline."""
        return self.deadline - time.time()

    def is_late(self, done: str, needed: float = 0.0) -> bool:
        """Whether less than `needed` seconds are left; then the results say that the step stopped after `done`."""
        if self.left() >= needed:
            return False
        self.report(stopped=f"stopped by the time limit after {done}")
        return True

    def report(self, **values: Any) -> None:
        """Set values of the results. `headline` is what the summary shows, `failure` makes the step a failed one."""
        self.contents.update(values)
        write_text(self.result, json.dumps(self.contents, default=str) + "\n")

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Append a row to a table of the results, and print it."""
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
        self.report(**{name: [*self.contents.get(name, []), row]})


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
