"""Handling of Ctrl-C and SIGTERM: the current step finishes, so that the run can be saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

MESSAGE = b"\nstopping after this step, then saving; Ctrl-C again stops at once and loses what is not saved\n"
MAX_DUPLICATE_DELAY = 0.3  # seconds; `timeout` and job schedulers send a signal to a process and then to its group


@dataclass
class StopRequest:
    """Request to stop a run.

    Attributes:
        signal: number of the signal that requested it; None if none did.
    """

    signal: int | None = None

    @property
    def made(self) -> bool:
        """Whether the run was asked to stop."""
        return self.signal is not None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Record the first SIGINT, SIGTERM, or SIGHUP in the context; a second SIGINT raises `KeyboardInterrupt`.

    The previous handlers are restored afterwards. Does nothing outside the main thread, where Python allows no
    handlers.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.made:
            if number == signal.SIGINT and time.monotonic() - first > MAX_DUPLICATE_DELAY:
                raise KeyboardInterrupt
            return
        request.signal, first = number, time.monotonic()
        with suppress(OSError, ValueError):
            os.write(
                sys.__stderr__.fileno() if sys.__stderr__ else 2, MESSAGE
            )  # not print(), which may have been interrupted

    before = {number: signal.signal(number, handle) for number in _stopping_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stopping_signals() -> list[int]:
    """Return the handled signals, without SIGHUP if it is ignored, as with `nohup`."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    hangups = [] if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else [hangup]
    return [signal.SIGINT, signal.SIGTERM, *hangups]
