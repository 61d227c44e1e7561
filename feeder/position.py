"""Keeps the feed's position in Dolt, beside the feed and not in its way."""

import threading
import time

from beads import log, store
from feeder.binlog import Position

logger = log.get("feeder")

BUSY_SECONDS = 0.5  # after an event was told: a crash repeats at most what was told in this time
QUIET_SECONDS = 60.0  # after transactions that told nothing: a restart reads at most this much again


class Keeper:
    """Stores the newest position that was marked, no more often than needed.

    The stored Dolt commit holds nothing newer than the stored GTID set: HEAD is looked at together with the
    GTIDs executed by then, and stored once those have all been read.
    """

    def __init__(self, beads: store.Store, gtid_set: str, commit: str) -> None:
        self._beads = beads
        self._commit = commit
        self._candidate: tuple[str, str] | None = None
        self._lock = threading.Lock()
        self._marked = self._stored = gtid_set
        self._due = float("inf")

    @property
    def commit(self) -> str:
        """The Dolt commit from which history is read when the binlog has a gap."""
        return self._commit

    def mark(self, gtid_set: str, *, told: bool) -> None:
        """Everything in `gtid_set` is done with. Only call this at the end of a transaction."""
        with self._lock:
            self._marked = gtid_set
            self._due = min(self._due, time.monotonic() + (BUSY_SECONDS if told else QUIET_SECONDS))

    def restart(self, gtid_set: str, commit: str) -> None:
        """Begin anew from a position whose commit is known, after a gap was filled."""
        with self._lock:
            self._marked, self._commit, self._candidate, self._due = gtid_set, commit, None, 0.0

    def save_if_due(self) -> None:
        """Store the position when its time has come. Raises StoreError."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Store the position now, if it is not stored yet. Raises StoreError."""
        with self._lock:
            marked, self._due = self._marked, float("inf")
        if marked == self._stored:
            return
        try:
            self._promote(marked)
            self._beads.set_position(marked, self._commit)
        except store.StoreError:
            with self._lock:
                self._due = min(self._due, time.monotonic() + BUSY_SECONDS)
            raise
        self._stored = marked

    def _promote(self, marked: str) -> None:
        if self._candidate is not None and Position(marked).covers(self._candidate[0]):
            self._commit, self._candidate = self._candidate[1], None
        if self._candidate is None:
            self._candidate = self._beads.head()
