"""Progress display of training."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from maskrcnn.training.loop import Training


class ProgressDisplay:
    """Progress bar below the printed lines; without the bar if `hidden` or if the output is not a terminal.

    Use it as a context manager; pass `print` to `RunLog` and `on_step` to `Callbacks`.
    """

    def __init__(self, hidden: bool = False, console: Console | None = None) -> None:
        self.console = console or Console()
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        disable = hidden or not self.console.is_terminal
        self._progress = Progress(*columns, console=self.console, disable=disable, transient=True)
        self._task = self._progress.add_task("training", total=1.0, epoch="-", loss="-")

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def print(self, line: str) -> None:
        """Print a line above the bar, without markup."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_step(self, training: Training) -> None:
        """Update the bar."""
        epoch, loss = str(training.state.epoch + 1), f"{training.losses['loss']:.3f}"
        self._progress.update(self._task, completed=training.fraction(), epoch=epoch, loss=loss)
