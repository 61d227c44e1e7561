"""A limit for a whole exchange over a socket: its own timeout limits each wait, not their sum, and a peer that trickles
its answer would never reach it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def ended_after(seconds: float, connected: Callable[[], Any]) -> Iterator[None]:
    """End the socket that `connected` gives under the block, after so many seconds; whoever waits for it then finds it
    closed. `connected` may raise AttributeError while there is none."""

    def end() -> None:
        with contextlib.suppress(OSError, AttributeError):
            connected().shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
