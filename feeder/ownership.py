"""One feeder for each feed: it owns the feed while it holds a lock on Dolt, and writes nothing before."""

import importlib.metadata
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from beads_dispatch import log, settings, store
from beads_dispatch.log import Action
from beads_dispatch.store.databases import open_store
from feeder.emitter import Backoff

logger = log.get("feeder")

WAIT_SECONDS = 15.0  # for a feeder that is stopping: it does so within 10
_ASK_SECONDS = 600.0  # an idle connection is asked so often; Dolt ends one after 8 hours
_POLL_SECONDS = 1.0


class Taken(Exception):
    """The feed belongs to another feeder. The text names it."""


class Owner:
    """Takes the lock, and takes it again when its connection was lost. For one thread at a time, `beat` aside."""

    def __init__(
        self,
        dolt: settings.DoltSettings,
        stop: threading.Event,
        sink_accepts: Callable[[], bool] = lambda: True,
        wait_seconds: float = WAIT_SECONDS,
        ticks: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """`sink_accepts`: whether the sink accepted the last event; `ticks`: see store.Beat."""
        self._lock = store.FeedLock(dolt)
        self._asked_for: set[str] = set()  # the databases whose lock was asked for
        self._store = open_store(dolt)
        self._stop = stop
        self._sink_accepts = sink_accepts
        self._wait_seconds = wait_seconds
        self._ticks = ticks
        self._beat = store.Beat(
            instance=str(uuid.uuid4()),
            user=dolt.user,
            host=socket.gethostname(),
            process=os.getpid(),
            version=importlib.metadata.version("beads-dispatch"),
            sink_accepts=True,
            replica=secrets.token_hex(4),
        )

    def close(self) -> None:
        """Give the feed up."""
        self._lock.close()
        self._store.close()

    def beat(self) -> store.Beat:
        """What is to be reported now."""
        return replace(self._beat, sink_accepts=self._sink_accepts(), ticks=self._ticks())

    def report(self) -> None:
        """Store a connection's first beat, and take over the copy's id, which outlives the loss of its row then.

        Raises StoreError.
        """
        self._store.feed_state.report(self.beat())
        found = self._store.feeders.find()
        if found is not None:
            self._beat = replace(self._beat, replica=found.beat.replica)

    def take(self) -> bool:
        """Wait, but not for long, until no other feeder owns the feed. False when the process is to stop.

        Raises Taken, StoreError.
        """
        deadline = time.monotonic() + self._wait_seconds
        while taken := self._lock.take(self._databases()):
            found = self._store.feeders.find(taken)
            ours = found is not None and found.beat.instance == self._beat.instance
            # Our own connection of before, which the server has not noticed to be dead, is not another feeder.
            if time.monotonic() >= deadline and not ours:
                raise Taken(_words(taken, found))
            if self._stop.wait(_POLL_SECONDS):
                return False
        return True

    def run(self) -> None:
        """Take the lock again whenever its connection is lost, until `stop` is set. Raises Taken."""
        backoff, asked = Backoff(), time.monotonic()
        while not self._stop.is_set():
            try:
                if self._lock.is_quiet(_POLL_SECONDS) and time.monotonic() - asked < _ASK_SECONDS:
                    self._take_new_ones()
                    continue
                if not self._lock.holds() and self.take():
                    self.report()
                asked = time.monotonic()
                backoff.reset()
            except store.StoreError as exc:
                message = f"{exc}; the feed's lock is taken again as soon as that is possible"
                self._stop.wait(min(backoff.failed(message, Action.OWNER), _POLL_SECONDS))

    def _databases(self) -> set[str]:
        self._asked_for = {*self._store.databases()}
        return self._asked_for

    def _take_new_ones(self) -> None:
        """The lock of each database that came since. One that a feeder of its own has is served by both, which is said:
        to end for it would hold up the others. Raises StoreError."""
        for database in {*self._store.databases()} - self._asked_for:
            self._asked_for.add(database)
            if not self._lock.add(database):
                text = (
                    f"the database {database} has a feeder of its own, and both publish its changes: stop that one, or"
                    " name the other databases in DOLT_DATABASE"
                )
                logger.error(text, extra=log.context(action=Action.OWNER, database=database))


def _words(feed: str, found: store.FeederReport | None) -> str:
    other = "which has not reported yet"
    if found is not None:
        other = f"{found.owner}, last report {int(found.age.total_seconds())} s ago"
    return (
        f"the feed {feed!r} belongs to another feeder: {other}. Stop that one; or, where two deployments on one"
        " database are meant, give this one, and its functions, another FEED_NAME."
    )
