"""Is the feeder alive, and is it ready?"""

import time

from feeder.binlog import STALL_SECONDS

# An event, a heartbeat or a try to reconnect was seen in this time. Twice the stall limit: a stall is the
# reader's to mend, and a process that is killed mends nothing faster.
ALIVE_SECONDS = 2 * STALL_SECONDS


class HealthState:
    """Set by the feed, read by the health checks."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._connected = False
        self._ready = False
        self._unstored_since: float | None = None
        self.position: str | None = None  # the GTID set of what was read and told; None until it is known

    def touch(self, *, connected: bool = False) -> None:
        """A sign of life; `connected` when it came from the binlog."""
        self._beat = time.monotonic()
        self._connected = self._connected or connected

    def disconnected(self) -> None:
        self._connected = False

    def unstored(self, since: float | None) -> None:
        """Since when (by time.monotonic) the stored position has not been `position`; None when it is."""
        self._unstored_since = since

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
    def unstored_seconds(self) -> float:
        """For how long the stored position has not been that of all that was read and told; 0 when it is."""
        return 0.0 if self._unstored_since is None else time.monotonic() - self._unstored_since

    @property
    def connected(self) -> bool:
        """Whether the binlog is being read now."""
        return self._connected
