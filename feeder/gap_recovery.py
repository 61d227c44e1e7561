"""Finds the changes that the binlog does not hold, by comparing the beads with how they were published last.

The binlog shows no gap where it was switched off for a while, and none where a backup was restored. So at each connect,
after a change of the schema (a restored backup is one), and once an hour: once everything that the server had executed
is read, a bead that still differs from its published state has changed outside the binlog.

A comparison holds up change events for about a second at once: then what was committed meanwhile is read first.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from beads_dispatch import log, store
from beads_dispatch.log import Action
from feeder import changes, checkpoint
from feeder.binlog import Position
from feeder.changes import Change

logger = log.get("feeder")

AT_ONCE = 1000  # beads that differ, and are published before more are looked for: with a page, this bounds the memory
AT_ONCE_SECONDS = 1.0  # of comparing
SETTLE_SECONDS = 1.0  # a change can be read a moment before its GTID is in gtid_executed; far above that moment
EVERY_SECONDS = 3600.0  # a million beads take 11 s
_LOGGED = 100_000  # beads between two lines about the progress


class GapRecoveries:
    """The comparison of each database that the feed serves; one that cannot be compared holds up no other. For the
    feed's thread."""

    def __init__(self, beads: store.Store, make: Callable[[store.Store], "GapRecovery"]) -> None:
        """`beads` is of all of them; `make` is called with the Store of each."""
        self._beads = beads
        self._make = make
        self._of: dict[str, GapRecovery] = {}

    def begin(self, database: str | None = None) -> None:
        """Compare each database, or this one and those that are new, once everything that the server has executed by
        now is read. Raises StoreError."""
        known, databases = self._of, self._beads.databases()
        self._of = {name: known.get(name) or self._make(one) for name, one in databases.items()}
        begun = [one for name, one in self._of.items() if database in (None, name) or name not in known]
        if begun:
            executed = self._beads.feed_state.executed()  # of the server: a database may be unusable now
            for one in begun:
                one.begin(executed)

    @property
    def is_due(self) -> bool:
        """Whether the last comparison is so long ago that another one is due."""
        return not self.pending and any(one.is_due for one in self._of.values())

    @property
    def pending(self) -> bool:
        """Whether there is still something to compare or to publish."""
        return any(one.pending for one in self._of.values())

    def published(self, database: str, change: Change) -> None:
        """The binlog held this change of a bead of that database."""
        if database in self._of:
            self._of[database].published(change)

    def changes_at(self, position: Position, save: Callable[[], None], *, idle: bool) -> Iterator[tuple[str, Change]]:
        """As GapRecovery's, each with its database, as far as nothing has to be read first. Raises StoreError."""
        began = time.monotonic()
        for name, one in self._of.items():
            now_idle = idle
            while one.can_go_on(position, idle=now_idle):
                found = self._changes_of(name, position, save, idle=now_idle)
                if found is None:
                    break
                yield from ((name, change) for change in found)
                now_idle = False
            if time.monotonic() - began > AT_ONCE_SECONDS:
                self._read_first()
                began, idle = time.monotonic(), False

    def _changes_of(
        self, name: str, position: Position, save: Callable[[], None], *, idle: bool
    ) -> list[Change] | None:
        """None where the database cannot be compared now."""
        one = self._of[name]
        try:
            return self._beads.each(lambda _: list(one.changes_at(position, save, idle=idle)), [name]).get(name)
        except store.StoreError:
            raise
        except Exception as exc:
            one.abandon()
            text = f"the comparison of {name} failed, and is left to the next one: {type(exc).__name__}"
            logger.error(text, exc_info=exc, extra=log.context(action=Action.GAP, database=name))
            return None

    def _read_first(self) -> None:
        """Go on once everything that the server has executed by now is read."""
        executed = self._beads.feed_state.executed()
        for one in self._of.values():
            one.read_first(executed)


class GapRecovery:
    """Of one database: one comparison after each `begin`. For the feed's thread."""

    def __init__(
        self, beads: store.Store, wait: Callable[[float], bool], touch: Callable[[], None] = lambda: None
    ) -> None:
        """`beads` is its own. `wait(seconds)` returns True when the process is to stop; `touch` is called meanwhile."""
        self._beads = beads
        self._wait = wait
        self._touch = touch
        self._due: str | None = None  # compare once this GTID set has been read
        self._after = ""  # the bead up to which all are compared
        self._compared = 0  # beads
        self._begun_at = 0.0  # time.monotonic()
        self._settled = ""  # once this GTID set has been read, the binlog does not hold what is still suspected
        self._suspects: dict[str, Change] = {}  # by bead: the binlog may still bring them

    def begin(self, executed: str) -> None:
        """Compare once what the server had executed by now is read."""
        self._due, self._suspects = executed, {}
        self._after, self._compared, self._begun_at = "", 0, time.monotonic()

    def abandon(self) -> None:
        """Leave what is left of it to the next comparison."""
        self._due, self._suspects = None, {}

    def read_first(self, executed: str) -> None:
        """Where there is more to compare, read that GTID set first."""
        if self._due is not None:
            self._due = executed

    @property
    def is_due(self) -> bool:
        """Whether the last comparison is so long ago that another one is due."""
        return not self.pending and time.monotonic() - self._begun_at > EVERY_SECONDS

    @property
    def pending(self) -> bool:
        """Whether there is still something to compare or to publish."""
        return self._due is not None or bool(self._suspects)

    def published(self, change: Change) -> None:
        """The binlog held this change: as far as it explains a suspect, that is not a gap."""
        suspect = self._suspects.pop(change.bead, None)
        if suspect and suspect.after != change.after:
            self._suspects[change.bead] = replace(suspect, before=change.after)

    def can_go_on(self, position: Position, *, idle: bool) -> bool:
        """Whether there is something to compare or to publish at this position; see changes_at."""
        awaited = self._settled if self._suspects else self._due
        return awaited is not None and (idle or position.covers(awaited))

    def changes_at(self, position: Position, save: Callable[[], None], *, idle: bool) -> Iterator[Change]:
        """The changes that the binlog is known not to hold at this position: some of them, after AT_ONCE_SECONDS.

        `idle`: the server has had nothing to send for long. `save` is called before a comparison, to store the
        published states. Raises StoreError.
        """
        if self._due is not None and not self._suspects and (idle or position.covers(self._due)):
            self._compare(position, save)
            idle = False  # what was committed meanwhile is still to come
        if self._suspects and (idle or position.covers(self._settled)):
            yield from list(self._suspects.values())
            self._suspects = {}

    def _compare(self, position: Position, save: Callable[[], None]) -> None:
        """Suspect each bead that differs from its published state; the rest later where there is too much at once."""
        save()
        checkpoint.begin(self._beads, str(position), self._touch)  # a database that can be used only now
        rows: store.Rows = []
        began = time.monotonic()
        while True:
            found, end = self._beads.feed_state.unpublished(self._after)
            rows += found
            self._touch()
            self._progress()
            if end is None or len(rows) >= AT_ONCE or time.monotonic() - began > AT_ONCE_SECONDS:
                break
            self._after = end
            if self._wait(0):
                return self.abandon()
        if rows and self._wait(SETTLE_SECONDS):
            return self.abandon()
        self._settled = self._beads.feed_state.executed()
        sequence = changes.sequence_after(position.last)
        self._suspects = {change.bead: change for change in changes.recovered(rows, sequence)}
        self._after, self._due = (end, self._settled) if end is not None else ("", None)

    def _progress(self) -> None:
        self._compared += store.PAGE
        if self._compared % _LOGGED == 0:
            text = f"compared {self._compared} beads with how they were published last"
            logger.info(text, extra=log.context(action=Action.GAP))
