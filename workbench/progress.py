"""Progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar if stderr is a terminal; yield a function to call with (done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def iterate_with_bar(items: Iterable[Item], title: str) -> Iterator[Item]:
    """Iterate over items with a progress bar."""
    total = len(items) if isinstance(items, Sized) else None
    with progress_bar(title) as show:
        for done, item in enumerate(items):
            show(done, total)
            yield item
