"""Keeps the feed's position in Dolt, and how each bead was seen last, beside the feed and not in its way."""

import threading
import time
from collections.abc import Mapping

from beads_dispatch import store
from feeder.binlog import Position

BUSY_SECONDS = 0.5  # after an event was told: a crash repeats at most what was told in this time
QUIET_SECONDS = 60.0  # after transactions that told nothing: a restart reads at most this much again


class Checkpointer:
    """Stores the newest position that was published_to, no more often than needed. `save` is for any thread."""

    def __init__(self, beads: store.Store, gtid_set: str) -> None:
        self._beads = beads
        self._lock = threading.Lock()
        self._saving = threading.Lock()  # one connection, and the order of what is stored
        self._published_to = self._stored = gtid_set
        self._seen: dict[str, PublishedState | None] = {}
        self._was_reset = False
        self._due = float("inf")
        self.unstored_since: float | None = None  # by time.monotonic; None when all that was published_to is stored

    def advance(self, gtid_set: str, seen: Mapping[str, PublishedState | None], *, told: bool) -> None:
        """Everything in `gtid_set` is done with, and beads were seen. Only call this at the end of a transaction."""
        with self._lock:
            self._published_to = gtid_set
            self._seen.update(seen)
            self.unstored_since = self.unstored_since or time.monotonic()
            self._due = min(self._due, time.monotonic() + (BUSY_SECONDS if told else QUIET_SECONDS))

    def reset(self, gtid_set: str) -> None:
        """Begin anew from a position that may be no later than the stored one, after a gap."""
        with self._lock:
            self._published_to, self._was_reset, self._due = gtid_set, True, 0.0

    def save_if_due(self) -> None:
        """Store the position when its time has come. Raises StoreError."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Store what is not stored yet. Raises StoreError; then it is tried again when due."""
        with self._saving:
            with self._lock:
                published_to, seen, was_reset, since = (
                    self._published_to,
                    self._seen,
                    self._was_reset,
                    self.unstored_since,
                )
                self._seen, self._was_reset, self._due, self.unstored_since = {}, False, float("inf"), None
            if published_to == self._stored and not seen:
                return
            position = Position(published_to)
            self._beads.refresh()  # a connection that died in an outage would make a second one of it
            try:
                self._beads.feed_state.set_position(
                    published_to, seen, lambda stored: was_reset or position.covers(stored)
                )
            except BaseException:  # whatever it was: a position without what was seen until it would be told again
                with self._lock:
                    self._seen = {**seen, **self._seen}
                    self._was_reset = self._was_reset or was_reset
                    self.unstored_since = since
                    self._due = min(self._due, time.monotonic() + BUSY_SECONDS)
                raise
            self._stored = published_to
