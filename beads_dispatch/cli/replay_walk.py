"""One walk through Dolt's commits: what was eligible when, and what really happened. Reads only."""

from collections.abc import Callable, Sequence, Set
from datetime import datetime

from beads_dispatch import reaper, store
from beads_dispatch.bead import Bead, DispatchRecord, Status
from beads_dispatch.cli.replay_simulation import QueueState, Recording, SlotUse, SuspensionFrom
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Commit, Snapshot

# The tables that can make a bead eligible, or not.
_RELEVANT = frozenset({"issues", "dependencies", "custom_statuses", "config"})

_record = DispatchRecord.from_metadata


class Walk:
    """One walk. Every method raises StoreError."""

    def __init__(
        self, past: Snapshot, limits: DispatchLimits, end: datetime, report: Callable[[int, int], None]
    ) -> None:
        self._past = past
        self._limits = limits
        self._end = end
        self._report = report
        self._open: dict[str, SlotUse] = {}  # the real dispatches that take a slot, by bead
        self._due: Sequence[datetime] = ()  # when a retry delay or a deferral ends, while the beads stay as they are
        self._beads: dict[Bead, Bead] = {}  # each state of a bead once, however many queue states it is in
        self._recording = Recording()

    def run(self, first: Commit, at: datetime, commits: Sequence[Commit]) -> Recording:
        """Read each state from `at` on, and the moments in between at which something ends by itself."""
        before = first.hash
        if self._past.has_beads():
            self._begin(at)
            self._read(before, at, commits[0].at if commits else self._end, _RELEVANT)
        for number, commit in enumerate(commits, 1):
            until = commits[number].at if number < len(commits) else self._end
            tables, new_schema = self._past.history.tables_between(before, commit.hash)
            if "issues" in tables:
                self._read_changes(commit, before)
            self._past.move(commit.hash, same_schema=not new_schema)
            if not new_schema or self._past.has_beads():
                self._read(commit.hash, commit.at, until, _RELEVANT if new_schema else tables)
            before = commit.hash
            self._report(number, len(commits))
        for bead in list(self._open):
            self._end_if_inactive(bead, self._end)
        return self._recording

    def _begin(self, at: datetime) -> None:
        """What was in progress already."""
        for bead, activity in self._past.activity.in_progress(self._limits.assignee, at):
            if bead.record.claim:
                self._open[bead.id] = self._recording.at_start[bead.id] = SlotUse(at, activity.at)

    def _read(self, commit: str, at: datetime, until: datetime, tables: Set[str]) -> None:
        """A state, from `at` to `until`; `tables` are those that changed with it."""
        past, assignee = self._past, self._limits.assignee
        moments = []
        if tables & _RELEVANT:
            self._due = past.eligible.due_moments(assignee, at, self._end)
            moments = [at]
        for moment in [*moments, *(due for due in self._due if at < due < until)]:
            found = past.eligible.first(assignee, moment, None)
            self._recording.queue.append(QueueState(moment, [self._beads.setdefault(bead, bead) for bead in found]))
        if "config" in tables:
            self._read_suspension(at)
        self._recording.has_all_activity = self._recording.has_all_activity and past.has_all_activity()
        for bead in reaper.inactive(past, self._limits, until):
            since = bead.last_activity or bead.updated_at
            self._recording.inactive.setdefault((bead.id, since), max(at, since + self._limits.reap_after))

    def _read_suspension(self, at: datetime) -> None:
        found, known = self._past.control.configured(), self._recording.suspensions
        if (found.dispatch, found.reap) != ((known[-1].dispatch, known[-1].reap) if known else (None, None)):
            known.append(SuspensionFrom(at, found.dispatch, found.reap))

    def _read_changes(self, commit: Commit, before: str) -> None:
        """The real claims and their ends in a commit."""
        for row in self._past.history.changes_between(before, commit.hash):
            bead, was, now = row["id"], _record(row["from_metadata"]), _record(row["to_metadata"])
            if bead in self._open:
                self._end_if_inactive(bead, commit.at)
            if now.claim and now.claim != was.claim:
                self._open[bead] = self._recording.dispatched[bead, now.attempt - 1] = SlotUse(commit.at, commit.at)
            elif bead in self._open:
                self._open[bead].active_at = commit.at
            if bead in self._open and row["to_status"] != Status.IN_PROGRESS:
                self._open.pop(bead).slot_until = commit.at
            if commit.author == store.REAPER and row["to_status"] == Status.BLOCKED != row["from_status"]:
                self._recording.blocked.setdefault(bead, []).append(commit.at)

    def _end_if_inactive(self, bead: str, by: datetime) -> None:
        """A dispatch that was inactive for too long by then took no slot from then on."""
        inactive_at = self._open[bead].active_at + self._limits.slot_silence
        if inactive_at < by:
            self._open.pop(bead).slot_until = inactive_at
