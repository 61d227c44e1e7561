"""Ctrl-C, SIGTERM and SIGHUP: the first begins the stop, and nothing cuts the stop short. For the main thread."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_once(message: str = "") -> None:
    """Make the first signal print `message` and raise KeyboardInterrupt; those that follow are ignored."""

    def interrupt(number: int, frame: object) -> None:
        ignore()
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), message.encode())  # not print, which the signal may have interrupted
        raise KeyboardInterrupt

    _handle(interrupt)


def exit_once() -> None:
    """Make the first signal end this process, with everything that it started; those that follow are ignored."""

    def leave(number: int, frame: object) -> None:
        ignore()
        sys.exit(128 + number)

    _handle(leave)


def ignore() -> None:
    """From now on the stop is in progress."""
    _handle(lambda number, frame: None)  # not SIG_IGN, which children would inherit


def _handle(handler: Callable[[int, object], None]) -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)
