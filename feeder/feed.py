"""The feed: from the stored position, for ever: read a transaction, tell it, move on.

What can be lost is only time. The position moves after the sink's 2xx, so a crash repeats events with the
same ids; what the binlog does not tell is found by comparing; requests for work are sent beside the feed, and the
tick makes good for one that is lost.
"""

import threading
import uuid

from beads_dispatch import log, settings, store
from beads_dispatch.log import Action
from feeder import binlog, changes, gap_recovery, metrics, preflight
from feeder.checkpoint import Checkpointer
from feeder.eligibility_check import PendingRequest
from feeder.emitter import Backoff, Emitter, retry_until_accepted
from feeder.health import HealthState

logger = log.get("feeder")

_GAP_AT = 4  # refusals of the position in a row: a false alarm (1 in 8 connects at worst) is none by then
_REFUSED_WAIT_SECONDS = 0.2
_SAVE_POLL_SECONDS = 0.25


class Unfit(Exception):
    """The server cannot be tailed; the text says what to set."""


class ChangeFeed:
    """Runs in a thread of its own; `stop` ends it, `close` wakes it for that."""

    def __init__(
        self,
        dolt: settings.DoltSettings,
        assignee: str,
        emitter: Emitter,
        pending: PendingRequest,
        health: HealthState,
        stop: threading.Event,
    ) -> None:
        self._dolt = dolt
        self._assignee = assignee
        self._emitter = emitter
        self._pending = pending
        self._health = health
        self._stop = stop
        self._store = store.Store(dolt)
        self._keeper_store = store.Store(dolt)
        self._gap_recovery = gap_recovery.GapRecovery(self._store, stop.wait)
        self._stream: binlog.Stream | None = None
        self._unfit = ""  # what was said last of the server's settings
        self._position: binlog.Position
        self._checkpointer: Checkpointer

    def prepare(self) -> bool:
        """Wait for Dolt, check that it can be tailed, find the position. False when told to stop.

        Raises Unfit.
        """
        backoff = Backoff()
        while not self._stop.is_set():
            self._health.touch()
            try:
                self._find_position()
            except store.StoreError as exc:
                self._say_once(backoff, f"{exc}; waiting for it")
                self._stop.wait(backoff.next_seconds())
            else:
                if backoff.reset():
                    logger.warning("Dolt is back", extra=log.context(action=Action.DOLT_UP))
                # What came up while nobody was looking has no event of its own.
                self._pending.ask(changes.RequestReason("resume", f"start-{uuid.uuid4()}"))
                return True
        return False

    def run(self) -> None:
        """Read and tell until told to stop."""
        backoff, refused = Backoff(), 0
        while not self._stop.is_set():
            self._health.touch()
            try:
                if refused >= _GAP_AT:
                    self._jump()
                    refused = 0
                self._read(backoff)
            except binlog.PositionRefused as exc:
                refused += 1
                logger.info(
                    f"position refused: {exc}", extra=log.context(action=Action.POSITION_REFUSED, times=refused)
                )
                self._stop.wait(_REFUSED_WAIT_SECONDS)
                continue
            except Unfit as exc:
                if str(exc) != self._unfit:
                    logger.error(f"the feed cannot go on: {exc}", extra=log.context(action=Action.UNFIT))
                self._unfit = str(exc)
                self._stop.wait(backoff.next_seconds())
            except (binlog.StreamLost, store.StoreError) as exc:
                if not self._stop.is_set():
                    self._say_once(backoff, f"the feed is interrupted: {exc}; reading on as soon as it can be")
                    self._stop.wait(backoff.next_seconds())
            refused = 0

    def keep_position(self) -> None:
        """Store the position as it moves, until told to stop; then once more. For a thread of its own."""
        while not self._stop.wait(_SAVE_POLL_SECONDS):
            self._save(last=False)
        self._save(last=True)

    def close(self) -> None:
        """Wake a reader that waits for the next event; for use after `stop` is set."""
        if self._stream is not None:
            self._stream.close()

    def _find_position(self) -> None:
        self._require_fit()
        self._store.feed_state.prepare()
        stored = self._store.feed_state.position()
        if stored is None:
            executed = self._store.feed_state.executed()
            self._store.feed_state.start_position(executed, f"start-{uuid.uuid4()}")
            logger.info("no stored position, starting from now", extra=log.context(action=Action.POSITION))
        self._position = binlog.Position(executed if stored is None else stored)
        self._checkpointer = Checkpointer(self._keeper_store, str(self._position))
        self._health.position = str(self._position)

    def _require_fit(self) -> None:
        """Raises Unfit. Asked at each connect: the server may have been restarted with other settings."""
        found = preflight.findings(self._store.feed_state.server_variables())
        if found:
            raise Unfit(" ".join(found))

    def _read(self, backoff: Backoff) -> None:
        """Read one connection to its end."""
        self._require_fit()
        self._unfit = ""
        if not self._position.within(self._store.feed_state.executed()):
            # Such a server would say nothing at all until it has executed as much as we have read.
            raise binlog.PositionRefused("the server has not executed all that was read: it was restored or replaced")
        self._gap_recovery.begin()
        self._stream = binlog.Stream(self._dolt, self._position)
        if self._stop.is_set() or not self._recover_gap(idle=False):
            return
        silent = False
        try:
            for item in self._stream:
                self._health.touch(connected=True)
                if backoff.reset():
                    logger.warning("the feed reads on", extra=log.context(action=Action.FEED_UP))
                if isinstance(item, changes.Transaction) and not self._publish(item):
                    return
                # One heartbeat may come before what is waiting to be sent; not two without anything between them.
                was_silent, silent = silent, isinstance(item, binlog.Heartbeat)
                if self._gap_recovery.comes and not self._recover_gap(idle=silent and was_silent):
                    return
        finally:
            self._health.disconnected()
            self._stream.close()

    def _publish(self, transaction: changes.Transaction) -> bool:
        """Ask for work beside the feed, tell the changes in order, move on. False when told to stop."""
        cause = changes.request_reason_in(transaction, self._assignee)
        if cause:
            self._pending.ask(cause)
        told = False
        for change in changes.changes_in(transaction):
            if not self._emit(change):
                return False
            told = True
        self._position.add(transaction.gtid)
        self._health.position = str(self._position)
        seen = changes.seen_in(transaction)
        self._gap_recovery.told(seen)
        # Storing the position is itself a transaction: it moves no position, or it would never end.
        if transaction.database != store.STATE_DATABASE:
            self._checkpointer.advance(str(self._position), seen, told=told)
        return True

    def _recover_gap(self, *, idle: bool) -> bool:
        """Tell what the binlog did not, as soon as that is known. False when told to stop."""
        number = 0
        for change in self._gap_recovery.missed(self._position, self._checkpointer.save, idle=idle):
            if changes.is_published(change):
                if not self._emit(change):
                    return False
                number += 1
            self._checkpointer.advance(
                str(self._position), changes.seen(change.id, change.bead, change.after), told=True
            )
        if number:
            self._pending.ask(changes.RequestReason("change", f"missed-{uuid.uuid4()}"))
            logger.warning(
                f"told {number} changes that the binlog does not hold",
                extra=log.context(action=Action.GAP_RECOVERED, changes=number),
            )
        return True

    def _emit(self, change: changes.Change) -> bool:
        event = changes.to_event(change, self._dolt.database)
        told = retry_until_accepted(lambda: self._emitter.send(event), self._stop.wait, self._health.touch)
        if told:
            metrics.CHANGES.labels(str(change.recovered).lower()).inc()
        return told

    def _jump(self) -> None:
        """The binlog does not go on from our position: begin from now. What was gap_recovery, the comparison finds."""
        self._position = binlog.Position(self._store.feed_state.executed())
        self._checkpointer.reset(str(self._position))
        self._health.position = str(self._position)
        logger.warning(
            "the binlog does not go on from where the feed was (it was purged, or the server was restored or replaced);"
            " going on from now, and telling how the beads differ from what was told",
            extra=log.context(action=Action.GAP),
        )

    def _save(self, *, last: bool) -> None:
        try:
            if last:
                self._checkpointer.save()
            else:
                self._checkpointer.save_if_due()
        except store.StoreError as exc:
            # Dolt is away; the reader says so. A position that is not stored is repeated, not lost.
            logger.debug(str(exc), extra=log.context(action=Action.POSITION))
        self._health.unstored(self._checkpointer.unstored_since)

    def _say_once(self, backoff: Backoff, message: str) -> None:
        if backoff.first:
            logger.warning(message, extra=log.context(action=Action.FEED_DOWN))
