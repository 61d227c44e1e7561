"""A limit for a whole exchange over a socket. The socket's own timeout limits each wait, not their sum: a peer that
trickles its answer never reaches it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def ended_after(seconds: float, connected: Callable[[], Any]) -> Iterator[None]:
    """Shut down the socket that `connected` returns, so many seconds after the block began; the block then finds it
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
