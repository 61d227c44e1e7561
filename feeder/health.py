"""Is the feeder alive, and is it ready?"""

import time

from feeder.binlog import STALL_SECONDS

# An event, a heartbeat or a try to reconnect was seen in this time. Twice the stall limit: a stall is the
# reader's to mend, and a process that is killed mends nothing faster.
ALIVE_SECONDS = 2 * STALL_SECONDS


class Pulse:
    """Set by the feed, read by the health checks."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._connected = False
        self._ready = False

    def beat(self, *, connected: bool = False) -> None:
        """A sign of life; `connected` when it came from the binlog."""
        self._beat = time.monotonic()
        self._connected = self._connected or connected

    def disconnected(self) -> None:
        self._connected = False

    def prepared(self) -> None:
        """Dolt was reached and is fit: ticks can be answered and the feed can be read."""
        self._ready = True

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._beat < ALIVE_SECONDS

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def connected(self) -> bool:
        """Whether the binlog is being read now."""
        return self._connected
