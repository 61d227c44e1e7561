"""The change feed: from the stored position on, read a transaction, publish it, advance.

Nothing is lost, only late. The position advances after the sink's 2xx, so a crash repeats events with the same ids;
what the binlog does not hold is found by comparing. Passes are requested by others (feeder/requests.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from beads_dispatch import log, settings, store
from beads_dispatch.log import Action
from beads_dispatch.store.databases import open_store
from feeder import binlog, changes, checkpoint, metrics, preflight
from feeder.checkpoint import Checkpointer
from feeder.deaths import DeathCounter
from feeder.emitter import Backoff, Emitter, EventRefused, retry_until_accepted
from feeder.gap_recovery import GapRecoveries, GapRecovery
from feeder.health import HealthState

logger = log.get("feeder")

_GAP_AT = 4  # refusals of the position in a row; a false alarm (1 in 8 connects at worst) does not come as often
_REFUSED_WAIT_SECONDS = 0.2
_WRITING_SECONDS = 120.0  # for which a refusal because of a transaction that is being written does not count
_JUMP_AT = 2  # failures at the same transaction
_SECOND_TRY_SECONDS = 1.0  # before an event is tried again that failed as nobody expects


class ChangeFeed:
    """Runs in a thread of its own. `stop` ends it; call `close` after that, or it waits for the next event."""

    def __init__(
        self,
        dolt: settings.DoltSettings,
        checkpointer: Checkpointer,
        emitter: Emitter,
        health: HealthState,
        stop: threading.Event,
        on_restored: Callable[[], object] = lambda: None,
        on_published: Callable[[changes.Transaction], object] = lambda transaction: None,
    ) -> None:
        """`on_restored` is called when the database `beads_dispatch` was lost and has been made again; `on_published`
        with each transaction, once its changes are published."""
        self._dolt = dolt
        self._checkpointer = checkpointer
        self._emitter = emitter
        self._health = health
        self._stop = stop
        self._on_restored = on_restored
        self._on_published = on_published
        self._store = open_store(dolt)
        self._deaths = DeathCounter(self._store)
        self._gap_recovery = GapRecoveries(self._store, lambda one: GapRecovery(one, stop.wait, health.touch))
        self._position = binlog.Position(checkpointer.gtid_set)
        self._stream: binlog.Stream | None = None
        self._backoff = Backoff()
        self._refusals = 0  # of the position, in a row
        self._writing_since: float | None = None  # time.monotonic(): since when Dolt has been writing a transaction
        self._unfit = ""  # the text that was logged last
        self._failed_at = ("", 0)  # the transaction at which the feed failed last, and how often in a row
        health.position = str(self._position)

    def run(self) -> None:
        """Read and publish until `stop` is set."""
        while not self._stop.is_set():
            self._health.touch()
            try:
                self._read()
                self._refusals = 0
            except binlog.PositionRefused as exc:
                self._refused(exc)
                self._stop.wait(_REFUSED_WAIT_SECONDS)
            except (preflight.Unfit, binlog.StreamLost, store.StoreError) as exc:
                self._refusals, self._writing_since = 0, None
                self._wait_after(exc)
            except Exception as exc:  # noqa: BLE001 - whatever one transaction raises must not stop those after it
                self._failed(exc)
        self._checkpointer.try_save()  # what was published after `stop` was set
        with contextlib.suppress(store.StoreError):
            self._deaths.stopped()

    def close(self) -> None:
        """End a read that waits for the next event; for use after `stop` is set."""
        if self._stream is not None:
            self._stream.close()

    def _refused(self, exc: binlog.PositionRefused) -> None:
        """Count a refusal of the position, unless it is because of a transaction that is being written."""
        with contextlib.suppress(store.StoreError):
            if exc.is_being_written(self._store.feed_state.executed()):
                self._writing_since = self._writing_since or time.monotonic()
                if time.monotonic() - self._writing_since < _WRITING_SECONDS:
                    return
        self._refusals += 1
        fields = log.context(action=Action.POSITION_REFUSED, times=self._refusals)
        logger.info(f"position refused: {exc}", extra=fields)

    def _failed(self, exc: Exception) -> None:
        """Something that nobody expects: read the transaction again, and pass over it where that fails again. The
        comparison then publishes its net change."""
        gtid = self._stream.gtid if self._stream else ""
        times = self._failed_at[1] + 1 if self._failed_at[0] == gtid else 1
        self._failed_at = (gtid, times)
        what = f"reading or publishing the transaction {gtid or 'after ' + str(self._position)} failed"
        fields = log.context(action=Action.JUMP, gtid=gtid, times=times)
        logger.error(f"{what}: {type(exc).__name__}", exc_info=exc, extra=fields)
        self._stop.wait(self._backoff.next_seconds())

    def _wait_after(self, exc: Exception) -> None:
        """Log what interrupts the feed, once, and wait."""
        if self._stop.is_set():
            return
        if isinstance(exc, preflight.Unfit):
            if str(exc) != self._unfit:
                logger.error(f"the feed cannot continue: {exc}", extra=log.context(action=Action.UNFIT))
            self._unfit = str(exc)
            self._stop.wait(self._backoff.next_seconds())
        else:
            message = f"the feed is interrupted: {exc}; it continues as soon as it can"
            refused = isinstance(exc, store.StoreError) and exc.refused
            self._stop.wait(self._backoff.failed(message, Action.FEED_DOWN, refused=refused))

    def _read(self) -> None:
        """Read one connection to its end."""
        self._stream = None  # what fails before the next one is opened is no transaction's fault
        if self._failed_at[1] >= _JUMP_AT:
            self._jump(self._failed_at[0])
            self._failed_at = ("", 0)
        if self._refusals >= _GAP_AT:
            why = "it was purged, or the server was restored or replaced"
            self._restart_from_now(f"the binlog does not continue from the feed's position ({why})")
        # At each connect: the server may have been restarted with other settings, restored or replaced.
        preflight.require(self._store.server.variables())
        self._unfit = ""
        if not self._position.within(self._store.feed_state.executed()):
            # Such a server would send nothing until it has executed as much as we have read.
            raise binlog.PositionRefused("the server has not executed all that was read: it was restored or replaced")
        self._restore_state()
        if deaths := self._deaths.begin(self._checkpointer.gtid_set):
            return self._jump(deaths.large, f"{deaths.number} feeders died while they read it")
        self._gap_recovery.begin()
        self._stream = binlog.Stream(self._dolt, self._position, most_rows=binlog.MOST_ROWS, serves=self._store.serves)
        try:
            if not self._stop.is_set() and self._recover_gap(idle=False):
                self._follow(self._stream)
        finally:
            self._health.connected = False
            self._stream.close()

    def _follow(self, stream: binlog.Stream) -> None:
        """Publish what the stream brings, until it is lost or `stop` is set."""
        heartbeats = 0  # in a row
        for item in stream:
            self._health.touch()
            self._health.connected = True
            if self._backoff.reset():
                logger.warning("the feed continues", extra=log.context(action=Action.FEED_UP))
            heartbeats = heartbeats + 1 if isinstance(item, binlog.Heartbeat) else 0
            if isinstance(item, binlog.LargeTransaction):
                self._checkpointer.save()
                self._deaths.large(item.gtid, self._checkpointer.gtid_set)
            if isinstance(item, changes.Transaction) and not self._take(item):
                return
            if self._gap_recovery.is_due:
                self._gap_recovery.begin()
            # One heartbeat may overtake a transaction that is about to be sent; a second one does not.
            if self._gap_recovery.pending and not self._recover_gap(idle=heartbeats > 1):
                return

    def _take(self, transaction: changes.Transaction) -> bool:
        """Publish a transaction, unless it comes again. False when `stop` is set."""
        if self._position.has(transaction.gtid):
            return True
        if not self._publish(transaction):
            return False
        if not transaction.whole:
            self._passed_over(transaction.gtid, f"it has more than {binlog.MOST_ROWS} rows")
        if transaction.database == store.STATE_DATABASE and transaction.ddl:
            self._restore_state()
            self._gap_recovery.begin()
        elif transaction.ddl or not transaction.whole:
            self._store.find_databases()  # one may have been made, dropped or restored
            self._gap_recovery.begin(transaction.database)  # nothing where it is not served
        return True

    def _publish(self, transaction: changes.Transaction) -> bool:
        """Publish the changes in order, advance the position. False when `stop` is set."""
        published, states, database = False, {}, transaction.database
        for change in changes.changes_in(transaction):
            if changes.is_published(change):
                if not self._emit(change, database):
                    return False
                published = True
            states[database, change.bead] = change.published_state
            self._gap_recovery.published(database, change)
        self._position.add(transaction.gtid)
        self._health.position = str(self._position)
        # Storing the position is itself a transaction: advancing for it would never end.
        if transaction.database == store.STATE_DATABASE:
            self._checkpointer.pass_over(str(self._position))
        else:
            self._checkpointer.advance(str(self._position), states, published=published)
        self._on_published(transaction)
        return True

    def _recover_gap(self, *, idle: bool) -> bool:
        """Publish what the binlog does not hold, as soon as that is known. False when `stop` is set."""
        number = 0
        for database, change in self._gap_recovery.changes_at(self._position, self._checkpointer.save, idle=idle):
            if changes.is_published(change):
                if not self._emit(change, database):
                    return False
                number += 1
            states = {(database, change.bead): change.published_state}
            self._checkpointer.advance(str(self._position), states, published=True)
        if not self._gap_recovery.pending:
            self._deaths.caught_up()
        if number:
            logger.warning(
                f"published {number} changes that the binlog does not hold",
                extra=log.context(action=Action.GAP_RECOVERED, changes=number),
            )
        return True

    def _emit(self, change: changes.Change, database: str) -> bool:
        """Publish a change. One that the sink refuses for good is passed over, and one that fails twice as nobody
        expects: a comparison would fail at it again. False when `stop` is set."""
        fields = log.context(action=Action.SINK_DOWN, event=change.id, bead=change.bead, database=database)
        try:
            return self._send_twice(change, database, fields)
        except Exception as exc:  # noqa: BLE001 - whatever one change raises must not stop those after it
            metrics.REFUSED_EVENTS.inc()
            why = str(exc) if isinstance(exc, EventRefused) else type(exc).__name__
            logger.error(f"the change event {change.id} is passed over: {why}", extra=fields)
            return True

    def _send_twice(self, change: changes.Change, database: str, fields: dict[str, Any]) -> bool:
        try:
            return self._send(change, database)
        except EventRefused:
            raise
        except Exception as exc:
            text = f"publishing the change event {change.id} failed, trying once more: {type(exc).__name__}"
            logger.error(text, exc_info=exc, extra=fields)
            return not self._stop.wait(_SECOND_TRY_SECONDS) and self._send(change, database)

    def _send(self, change: changes.Change, database: str) -> bool:
        event = changes.to_event(change, database)
        if not retry_until_accepted(lambda: self._emitter.send(event), self._stop.wait, self._health.touch):
            return False
        metrics.CHANGES.labels(str(change.recovered).lower()).inc()
        return True

    def _restore_state(self) -> None:
        """Make our database again where somebody dropped it, or a part of it; begin to serve databases that are new.
        Raises StoreError."""
        self._store.find_databases()
        if checkpoint.restore(self._store, self._checkpointer.gtid_set, self._health):
            logger.warning(
                f"the feed's state in {store.STATE_DATABASE} was lost: it is made again, and every bead counts as"
                " published as it is now",
                extra=log.context(action=Action.POSITION),
            )
            self._on_restored()

    def _jump(self, gtid: str, why: str = "it cannot be read") -> None:
        self._restart_from_now(f"the transaction {gtid or 'after ' + str(self._position)} is passed over: {why}")
        metrics.count_jump(gtid)

    def _passed_over(self, gtid: str, why: str) -> None:
        metrics.count_jump(gtid)
        text = f"the transaction {gtid} is passed over: {why}; publishing how the beads differ from what was published"
        logger.warning(text, extra=log.context(action=Action.JUMP, gtid=gtid))

    def _restart_from_now(self, why: str) -> None:
        """Read on from the server's position. The comparison finds what is between. Raises StoreError."""
        self._position = binlog.Position(self._store.feed_state.executed())
        self._checkpointer.reset(str(self._position))
        self._health.position = str(self._position)
        self._refusals = 0
        logger.warning(
            f"{why}; continuing from now, and publishing how the beads differ from what was published",
            extra=log.context(action=Action.GAP),
        )
