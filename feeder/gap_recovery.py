"""Finds the changes that the binlog does not hold, by comparing the beads with how they were published last.

The binlog shows no gap where it was switched off for a while, and none where a backup was restored. So at each connect,
once everything that the server had executed is read, a bead that still differs from its published state has changed
outside the binlog.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from beads_dispatch import store
from feeder import changes
from feeder.binlog import Position
from feeder.changes import Change

AT_ONCE = 1000  # beads that are compared and published before the next ones: this bounds the memory
SETTLE_SECONDS = 1.0  # a change can be read a moment before its GTID is in gtid_executed; far above that moment


class GapRecovery:
    """One comparison after each connect. For the feed's thread."""

    def __init__(self, beads: store.Store, wait: Callable[[float], bool]) -> None:
        """`beads` is its own. `wait(seconds)` returns True when the process is to stop."""
        self._beads = beads
        self._wait = wait
        self._due: str | None = None  # compare once this GTID set has been read
        self._settled = ""  # once this GTID set has been read, the binlog does not hold what is still suspected
        self._suspects: dict[str, Change] = {}  # by bead: the binlog may still bring them

    def begin(self) -> None:
        """Compare once everything that the server has executed by now is read. Raises StoreError."""
        self._due, self._suspects = self._beads.feed_state.executed(), {}

    @property
    def pending(self) -> bool:
        """Whether there is still something to compare or to publish."""
        return self._due is not None or bool(self._suspects)

    def published(self, change: Change) -> None:
        """The binlog held this change: as far as it explains a suspect, that is not a gap."""
        suspect = self._suspects.pop(change.bead, None)
        if suspect and suspect.after != change.after:
            self._suspects[change.bead] = replace(suspect, before=change.after)

    def changes_at(self, position: Position, save: Callable[[], None], *, idle: bool) -> Iterator[Change]:
        """The changes that the binlog is known not to hold at this position.

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
        """Suspect each bead that differs from its published state; again later where there are too many at once."""
        save()
        rows = self._beads.feed_state.unpublished(AT_ONCE)
        if rows and self._wait(SETTLE_SECONDS):
            return
        self._settled = self._beads.feed_state.executed()
        sequence = changes.sequence_after(position.last)
        self._suspects = {change.bead: change for change in changes.recovered(rows, sequence)}
        self._due = self._settled if len(rows) >= AT_ONCE else None
