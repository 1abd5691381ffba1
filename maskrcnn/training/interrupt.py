"""Ctrl-C that lets the step finish."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

MESSAGE = b"\nstopping after this step, then saving; Ctrl-C again stops at once and loses what is not saved\n"


@dataclass
class StopRequest:
    """Whether the user has asked to stop."""

    made: bool = False


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Inside, the first SIGINT only sets `made`; the second raises `KeyboardInterrupt`. The old handler comes back.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.made:
            raise KeyboardInterrupt
        request.made = True
        with suppress(OSError, ValueError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, MESSAGE)  # print() may be what was interrupted

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
