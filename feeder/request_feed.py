"""Looks in the binlog for what may make work available. It has a stream of its own: a request never waits behind change
events, which a subscriber or the sink may hold up.

No position is stored: after each connect there is a reason to request a pass, so whatever it missed costs one query. So
it does not read a large transaction, but connects again. Until Dolt sends what comes after that, which may take it many
seconds, it is asked each second whether there is work.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping

from beads_dispatch import log, settings, store
from beads_dispatch.log import Action
from beads_dispatch.store.databases import open_store
from feeder import binlog, changes
from feeder.binlog import LargeTransaction
from feeder.changes import RequestReason, Transaction
from feeder.emitter import Backoff
from feeder.requests import PendingRequest

logger = log.get("feeder")

_UNSURE_SECONDS = 60.0  # after a connect, at most; without any change a heartbeat comes after 30
_MOST_ROWS = 1000  # of a transaction; a larger one is a reason by itself


class RequestFeed:
    """Runs in a thread of its own. `stop` ends it; call `close` after that, or it waits for the next event."""

    def __init__(
        self,
        dolt: settings.DoltSettings,
        pending: Mapping[str, PendingRequest],
        stop: threading.Event,
        begun: Mapping[str, threading.Event] | None = None,
        on_read: Callable[[Transaction], object] = lambda transaction: None,
    ) -> None:
        """`pending`, by the agent's name, gets the reasons; `begun` is set where a bead of the agent came to be in
        progress; `on_read` is called with each transaction that was read."""
        self._on_read = on_read
        self._dolt = dolt
        self._pending = pending
        self._begun = begun or {}
        self._stop = stop
        self._store = open_store(dolt)
        self._stream: binlog.Stream | None = None
        self._backoff = Backoff()
        self._was_live = True  # something came since Dolt was asked each second

    def run(self) -> None:
        """Add a reason for each change that may make work available, until `stop` is set."""
        while not self._stop.is_set():
            try:
                self._follow()
            except (binlog.StreamLost, store.StoreError) as exc:  # the change feed logs it
                logger.debug(str(exc), extra=log.context(action=Action.REQUEST))
            except Exception as exc:  # noqa: BLE001 - a transaction that cannot be read is behind the next connect
                text = f"a transaction cannot be read for requests ({type(exc).__name__}); reading on from now"
                logger.warning(text, extra=log.context(action=Action.REQUEST))
            self._stop.wait(self._backoff.next_seconds())

    def close(self) -> None:
        """End a read that waits for the next event; for use after `stop` is set."""
        if self._stream is not None:
            self._stream.close()

    def _follow(self) -> None:
        """Read one connection to its end, from now on."""
        self._store.refresh()
        position = binlog.Position(self._store.feed_state.executed())
        self._stream = binlog.Stream(self._dolt, position, most_rows=_MOST_ROWS, serves=self._store.serves)
        try:
            self._resume("connect")
            self._unsure()
            for item in self._stream:
                self._backoff.reset()
                self._live()
                if self._stop.is_set() or isinstance(item, LargeTransaction):
                    return  # reading it takes seconds; after another connect it is past
                if isinstance(item, Transaction):
                    self._look_at(item)
        finally:
            self._stream.close()

    def _look_at(self, transaction: Transaction) -> None:
        self._on_read(transaction)
        if transaction.ddl or not transaction.whole:
            # What a restored database holds is in no transaction.
            self._store.find_databases()
            if self._store.serves(transaction.database):
                self._resume(transaction.gtid)
            return
        for agent, pending in self._pending.items():
            reason = changes.request_reason_in(transaction, agent)
            if reason:
                pending.add(reason)
            if changes.moves_a_moment(transaction, agent):
                pending.add_moved()
            if agent in self._begun and changes.starts_a_job(transaction, agent):
                self._begun[agent].set()

    def _unsure(self) -> None:
        """Changes may not be seen for a while. Where nothing has come since the last time, that is an outage."""
        if self._was_live:
            self._was_live = False
            for pending in self._pending.values():
                pending.unsure_until = time.monotonic() + _UNSURE_SECONDS

    def _live(self) -> None:
        if not self._was_live:
            self._was_live = True
            for pending in self._pending.values():
                pending.unsure_until = 0.0

    def _resume(self, why: str) -> None:
        reason = RequestReason("resume", f"{why}-{uuid.uuid4()}")
        for pending in self._pending.values():
            pending.add(reason)
            pending.add_moved()
        for begun in self._begun.values():
            begun.set()
