"""Dispatcher processes that compete: none is left at the end, and one that hangs is noticed."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from tools import world

_PATIENCE_SECONDS = 180  # nothing happens for so long, and dispatchers still run: something hangs


@contextlib.contextmanager
def killed(workers: list[Any]) -> Iterator[None]:
    """At the end of the block, whichever processes are in the list then."""
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


class Patience:
    """Notices that nothing happens any more."""

    def __init__(self) -> None:
        self._known: object = None
        self._moved = time.monotonic()

    def look(self, state: object, what: str) -> None:
        """Raises TimedOut, which says `what` did not happen, where `state` has been the same for too long."""
        if self._known != state:
            self._known, self._moved = state, time.monotonic()
        if time.monotonic() - self._moved > _PATIENCE_SECONDS:
            raise world.TimedOut(f"{what} for {_PATIENCE_SECONDS} s")
