"""Is the feeder alive, and is it ready?"""

import time

from feeder.binlog import STALL_SECONDS

# An event, a heartbeat or an attempt to connect was seen in this time. Twice the stall limit: the reader ends a stall
# itself, and killing the process would end it no sooner.
ALIVE_SECONDS = 2 * STALL_SECONDS


class HealthState:
    """Written by the feed's threads, read by the HTTP endpoint."""

    def __init__(self) -> None:
        self.ready = False  # Dolt was reached and passed the preflight
        self.connected = False  # the binlog is being read now
        self.position: str | None = None  # the GTID set published so far; None until it is known
        self.unstored_since: float | None = None  # by time.monotonic; None when `position` is stored
        self._touched = time.monotonic()
        self._ticks: dict[str, float] = {}

    def touch(self) -> None:
        """The feed is active: it read something, or it tries again."""
        self._touched = time.monotonic()

    def tick(self, name: str) -> None:
        """A tick of a PingSource came."""
        self._ticks[name] = time.monotonic()

    def ticks(self) -> dict[str, float]:
        """How many seconds ago the last tick of each PingSource came, of those that have."""
        return {name: time.monotonic() - at for name, at in self._ticks.copy().items()}

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._touched < ALIVE_SECONDS

    @property
    def unstored_seconds(self) -> float:
        """For how long the stored position has been behind `position`; 0 when it is not."""
        return 0.0 if self.unstored_since is None else time.monotonic() - self.unstored_since
