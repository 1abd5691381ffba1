"""Ctrl-C and SIGTERM that let the step finish, so that the run can be saved."""

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
SAME_KEY_PRESS = 0.3  # seconds: `timeout` and job schedulers send a signal to a process, then to its group again


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop, and which."""

    signal: int | None = None

    @property
    def made(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP is only noted; a second SIGINT raises `KeyboardInterrupt`.

    The old handlers come back. Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.made:
            if number == signal.SIGINT and time.monotonic() - first > SAME_KEY_PRESS:
                raise KeyboardInterrupt
            return
        request.signal, first = number, time.monotonic()
        with suppress(OSError, ValueError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, MESSAGE)  # print() may be what was interrupted

    before = {number: signal.signal(number, handle) for number in _stopping_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stopping_signals() -> list[int]:
    """Not SIGHUP where it is ignored: `nohup` says so."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    hangups = [] if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else [hangup]
    return [signal.SIGINT, signal.SIGTERM, *hangups]
