"""A limit for a whole exchange over HTTP. The socket's own timeout limits each wait, not their sum: a peer that
trickles its answer never reaches it."""

import contextlib
import socket
import threading
import time
from typing import Any

_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")
_SENDING = "http11.send_request_headers.started"


class TooLate(Exception):
    """The time was over before anything was sent."""


class Exchange:
    """The limit of one request after the other, on one connection: a with block lasts as long as a request.

    Pass `trace` to httpx as the extension of that name. Then the socket is shut down so many seconds after the block
    began, and whoever reads from it finds it closed.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = 0.0  # time.monotonic()
        self._connection: Any = None  # httpx may keep it from one request to the next
        self._timer: threading.Timer | None = None
        self.sent = False  # whether anything of the request may have been sent

    def __enter__(self) -> "Exchange":
        self.sent = False
        self._ends = time.monotonic() + self._seconds
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._ends

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What httpx is doing. Raises TooLate where the connection alone took all the time: one address after the other
        is tried, each with the socket's timeout."""
        if event in _CONNECTED:
            self._connection = info["return_value"]
        elif event == _SENDING:
            if self.late:
                raise TooLate
            self.sent = True

    def _end(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            # Not SSLSocket's own shutdown, which makes a plain socket of it under the thread that reads.
            socket.socket.shutdown(self._connection.get_extra_info("socket"), socket.SHUT_RDWR)
