"""What the binlog does not tell: found by comparing the beads with how they were seen last.

The binlog alone shows no gap where it was switched off for a while, and none where a backup was restored. So at each
connect, once everything that the server had executed has been read, a bead that still is not as it was seen last has
changed without the binlog.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from beads_dispatch import store
from feeder import changes
from feeder.binlog import Position
from feeder.changes import Change

AT_ONCE = 1000  # beads that are compared and told before the next: what keeps memory bounded
SETTLE_SECONDS = 1.0  # a change can be read a moment before its GTID is in gtid_executed; far above that moment


class GapRecovery:
    """One comparison after each connect. For the feed's thread; `beads` is its own. `wait` takes seconds, and says
    whether the process is to stop."""

    def __init__(self, beads: store.Store, wait: Callable[[float], bool]) -> None:
        self._beads = beads
        self._wait = wait
        self._due: str | None = None  # compare once this GTID set has been read
        self._settled = ""  # what the suspects may be explained by, until it has been read
        self._suspects: dict[str, Change] = {}

    def begin(self) -> None:
        """Ask for a comparison, once what the server has executed by now is read. Raises StoreError."""
        self._due, self._suspects = self._beads.feed_state.executed(), {}

    @property
    def comes(self) -> bool:
        """Whether there is anything to compare, or to tell of it."""
        return self._due is not None or bool(self._suspects)

    def told(self, seen: dict[str, store.PublishedState | None]) -> None:
        """The binlog told of these beads: what it told is not missed."""
        for bead in seen.keys() & self._suspects.keys():
            found = seen[bead]
            now = {"assignee": found.assignee or None, "status": found.status} if found else dict(changes.NO_BEAD)
            suspect = self._suspects[bead]
            if suspect.after == now:
                del self._suspects[bead]
            else:
                self._suspects[bead] = replace(suspect, before=now)

    def missed(self, position: Position, save: Callable[[], None], *, idle: bool) -> Iterator[Change]:
        """The changes that are known to be missed at this position. `idle`: the server has long had nothing to tell.

        `save` is called to store how the beads were seen last, before they are compared. Raises StoreError.
        """
        if self._due is not None and not self._suspects and (idle or position.covers(self._due)):
            self._compare(position, save)
            idle = False  # what has been committed meanwhile is still to come
        if self._suspects and (idle or position.covers(self._settled)):
            yield from list(self._suspects.values())
            self._suspects = {}

    def _compare(self, position: Position, save: Callable[[], None]) -> None:
        """Once for each connection, or as often as it takes where there are too many: a bead that is as it was seen
        last was not missed, and the others are suspects until the binlog tells them, or has nothing more to tell."""
        save()
        rows = self._beads.feed_state.unpublished(AT_ONCE)
        if rows and self._wait(SETTLE_SECONDS):
            return
        self._settled = self._beads.feed_state.executed()
        sequence = changes.sequence_after(position.last)
        self._suspects = {change.bead: change for change in changes.missed(rows, sequence)}
        self._due = self._settled if len(rows) >= AT_ONCE else None
