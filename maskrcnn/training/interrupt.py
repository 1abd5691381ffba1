"""Handling of Ctrl-C and SIGTERM: the current step finishes, so that the run can be saved."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

MESSAGE = b"\nstopping after this step, then saving; Ctrl-C again stops at once and loses what is not saved\n"
GRACE = 1.0  # seconds that a second Ctrl-C waits for the running operation
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
def stop_on_signal(clean_up: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Record the first SIGINT, SIGTERM, or SIGHUP in the context; a second SIGINT raises `KeyboardInterrupt`.

    If native code keeps Python from raising it for more than `GRACE` seconds, the process ends with exit code 130
    after `clean_up` was called, in another thread. The previous handlers are restored afterwards. Does nothing outside
    the main thread, where Python allows no handlers.
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
        with _exit_at_second_interrupt(clean_up):
            yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _exit_at_second_interrupt(clean_up: Callable[[], None]) -> Iterator[None]:
    """End the process after a second SIGINT if the context does not end within `GRACE` seconds.

    Python calls its handlers between operations of the main thread only. The bytes that it writes for each signal, to
    the socket of `set_wakeup_fd`, arrive at once.
    """
    ended = threading.Event()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        first: float | None = None
        while numbers := receiver.recv(1):
            if numbers[0] not in _stopping_signals():
                continue
            if first is None:
                first = time.monotonic()
            elif numbers[0] == signal.SIGINT and time.monotonic() - first > MAX_DUPLICATE_DELAY:
                if not ended.wait(GRACE):
                    with suppress(Exception):
                        clean_up()
                    os._exit(128 + signal.SIGINT)
                return

    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        sender.close()  # ends the watcher
        watcher.join()
        receiver.close()


def _stopping_signals() -> list[int]:
    """Return the handled signals, without SIGHUP if it is ignored, as with `nohup`."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    hangups = [] if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else [hangup]
    return [signal.SIGINT, signal.SIGTERM, *hangups]
