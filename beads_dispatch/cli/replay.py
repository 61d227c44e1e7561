"""beads-dispatch replay: what would have been dispatched, beside what was. Reads only.

Two halves: `Walk` goes through Dolt's commits and keeps what was eligible when, and what really happened; `simulate`
(pure) dispatches from that with the limits that are asked about.
"""

import contextlib
import heapq
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median

from beads_dispatch import settings, store
from beads_dispatch.bead import Bead, Status
from beads_dispatch.cli import history, terminal
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Commit, Snapshot, Store

UNKNOWN = (
    "the hold and the PingSources' switches have no history: replayed as if nothing was held or suspended",
    "what else the agent service had at work is in no history: slots are counted by our claims alone",
)

_MATTERS = frozenset({"issues", "dependencies", "custom_statuses", "config"})  # what may make a bead eligible, or not
_ALL = 1_000_000  # beads
_SAY_EACH = 250  # commits; some seconds


@dataclass(frozen=True)
class Look:
    """What was eligible from a moment on, in the order of dispatch."""

    at: datetime
    beads: Sequence[Bead]


@dataclass
class Run:
    """A real dispatch: from the claim to the moment at which it held no slot any more."""

    claimed_at: datetime
    active_at: datetime  # the last change of the bead so far
    slot_until: datetime | None = None  # None: still held at the end


@dataclass(frozen=True)
class ReplayedBead:
    """One bead's turn: when it could go, when it would have gone, when it went."""

    bead: str
    title: str
    priority: int
    attempt: int
    eligible_at: datetime | None  # None where the limits that are asked about never made it eligible
    would_at: datetime | None
    went_at: datetime | None
    note: str = ""


@dataclass(frozen=True)
class Silence:
    """A bead in progress that was silent for too long."""

    bead: str
    silent_since: datetime
    would_block_at: datetime
    blocked_at: datetime | None  # when the reaper really did


@dataclass(frozen=True)
class SuspensionFrom:
    """What bd's config said of the switch, from a commit on."""

    at: datetime
    dispatch: str | None
    reap: str | None


@dataclass(frozen=True)
class Replay:
    """The answer."""

    start: datetime
    end: datetime
    commits: int
    limits: DispatchLimits
    rows: Sequence[ReplayedBead]
    silences: Sequence[Silence]
    switches: Sequence[SuspensionFrom]
    unknown: Sequence[str]


@dataclass
class Record:
    """What really happened in the range. Keys are a bead and its number of claims before this one."""

    looks: list[Look] = field(default_factory=list)
    runs: dict[tuple[str, int], Run] = field(default_factory=dict)
    at_start: dict[str, Run] = field(default_factory=dict)  # claims that were at work when the range began
    silent: dict[tuple[str, datetime], datetime] = field(default_factory=dict)
    blocked: dict[str, list[datetime]] = field(default_factory=dict)
    switches: list[SuspensionFrom] = field(default_factory=list)
    versioned: bool = True


def run(
    dolt: settings.DoltSettings,
    present: Store,
    limits: DispatchLimits,
    first: tuple[Commit, datetime],
    last: tuple[Commit, datetime],
    say: Callable[[str], None],
) -> Replay:
    """Replay from one commit and moment to another; `say` is told how far it is. Raises StoreError."""
    commits = present.history.commits_between(first[0].hash, last[0].hash)
    past = Snapshot(dolt, first[0].hash, first[1])
    with contextlib.closing(past):
        record = _Walk(past, limits, last[1], say).walk(first, commits)
    unknown = list(UNKNOWN)
    if not record.versioned:
        unknown.append("events and heartbeats have no history here: silence is counted from a bead's own changes")
    return Replay(
        start=first[1],
        end=last[1],
        commits=len(commits),
        limits=limits,
        rows=simulate(record, limits, last[1]),
        silences=_silences(record),
        switches=record.switches,
        unknown=unknown,
    )


class _Walk:
    """One walk through the commits of a range."""

    def __init__(self, past: Snapshot, limits: DispatchLimits, end: datetime, say: Callable[[str], None]) -> None:
        self._past = past
        self._limits = limits
        self._end = end
        self._say = say
        self._silence = timedelta(minutes=limits.slot_silence_minutes)
        self._threshold = timedelta(minutes=limits.reap_after_minutes)
        self._open: dict[str, Run] = {}  # the real runs that hold a slot, by bead
        self._wakes: Sequence[datetime] = ()  # when a retry or a deferral ends, while the beads stay as they are
        self._beads: dict[Bead, Bead] = {}  # each state of a bead once, however many looks it is in
        self._record = Record()

    def walk(self, start: tuple[Commit, datetime], commits: Sequence[Commit]) -> Record:
        """Look at each state, and at the moments in between at which something ends by itself."""
        before, at = start[0].hash, start[1]
        if self._past.has_beads():
            self._begin(at)
            self._look(before, at, commits[0].at if commits else self._end, _MATTERS)
        for number, commit in enumerate(commits):
            until = commits[number + 1].at if number + 1 < len(commits) else self._end
            tables, new_schema = self._past.history.tables_between(before, commit.hash)
            if "issues" in tables:
                self._happened(commit, before)
            self._past.move(commit.hash, commit.at, same_schema=not new_schema)
            if not new_schema:
                self._look(commit.hash, commit.at, until, tables)
            elif self._past.has_beads():
                self._look(commit.hash, commit.at, until, _MATTERS)
            before = commit.hash
            if number % _SAY_EACH == _SAY_EACH - 1:
                self._say(f"{number + 1} of {len(commits)} commits")
        for bead in list(self._open):
            self._fell_silent(bead, self._end)
        return self._record

    def _begin(self, at: datetime) -> None:
        """What was at work already."""
        for bead, sign in self._past.activity.in_progress(self._limits.assignee):
            if bead.record.claim:
                self._open[bead.id] = self._record.at_start[bead.id] = Run(at, sign.at)

    def _look(self, commit: str, at: datetime, until: datetime, tables: Set[str]) -> None:
        """A state, from `at` to `until`; `tables` are those that are new in it."""
        past, assignee = self._past, self._limits.assignee
        moments = []
        if tables & _MATTERS:
            self._wakes = past.eligible.due_moments(assignee, at, self._end)
            moments = [at]
        for moment in [*moments, *(wake for wake in self._wakes if at < wake < until)]:
            past.move(commit, moment, same_schema=True)
            found = past.eligible.first(assignee, moment, _ALL)
            self._record.looks.append(Look(moment, [self._beads.setdefault(bead, bead) for bead in found]))
        if "config" in tables:
            self._look_at_switch(at)
        self._record.versioned = self._record.versioned and past.has_all_activity()
        for bead in past.activity.inactive(assignee, until - self._threshold):
            since = bead.last_activity or bead.updated_at
            self._record.silent.setdefault((bead.id, since), max(at, since + self._threshold))

    def _look_at_switch(self, at: datetime) -> None:
        found = self._past.control.configured()
        told = SuspensionFrom(at, found.dispatch, found.reap)
        known = self._record.switches[-1] if self._record.switches else SuspensionFrom(at, None, None)
        if (told.dispatch, told.reap) != (known.dispatch, known.reap):
            self._record.switches.append(told)

    def _happened(self, commit: Commit, before: str) -> None:
        """What a commit says of real claims and their ends."""
        for row in self._past.history.changes_between(before, commit.hash):
            bead, was, now = row["id"], history.record(row["from_metadata"]), history.record(row["to_metadata"])
            if bead in self._open:
                self._fell_silent(bead, commit.at)
            if now.claim and now.claim != was.claim:
                self._open[bead] = self._record.runs[bead, now.attempt - 1] = Run(commit.at, commit.at)
            elif bead in self._open:
                self._open[bead].active_at = commit.at
            if bead in self._open and row["to_status"] != Status.IN_PROGRESS:
                self._open.pop(bead).slot_until = commit.at
            if commit.author == store.REAPER and row["to_status"] == Status.BLOCKED != row["from_status"]:
                self._record.blocked.setdefault(bead, []).append(commit.at)

    def _fell_silent(self, bead: str, by: datetime) -> None:
        """A run that was silent for too long by then held no slot from then on."""
        silent_at = self._open[bead].active_at + self._silence
        if silent_at < by:
            self._open.pop(bead).slot_until = silent_at


def simulate(record: Record, limits: DispatchLimits, end: datetime) -> list[ReplayedBead]:
    """What would have gone when, and what went, in the order of the first of the two. Pure."""
    simulation = _Simulation(record, limits)
    for look in record.looks:
        simulation.look(look)
    simulation.go_on_to(end)
    return simulation.rows()


class _Simulation:
    """Dispatches from what was eligible, with slots of its own."""

    def __init__(self, record: Record, limits: DispatchLimits) -> None:
        self._record = record
        self._limits = limits
        self._queue: dict[str, Bead] = {}
        self._rows: dict[tuple[str, int], ReplayedBead] = {}
        self._ends: list[datetime] = []  # when the slots that are taken come free; a heap
        self._taken = 0
        for run in record.at_start.values():
            self._take(run.slot_until)

    def look(self, look: Look) -> None:
        """Go on to the next state: first what comes free before it, then what it changes."""
        self.go_on_to(look.at)
        self._update(look)
        self._dispatch(look.at)

    def go_on_to(self, moment: datetime) -> None:
        """Dispatch in the slots that come free until a moment."""
        while self._ends and self._ends[0] <= moment:
            at = heapq.heappop(self._ends)
            self._taken -= 1
            self._dispatch(at)

    def rows(self) -> list[ReplayedBead]:
        """The turns so far; real dispatches that had no turn here are among them."""
        found = dict(self._rows)
        for (bead, claims), run in self._record.runs.items():
            if (bead, claims) in found:
                found[bead, claims] = replace(found[bead, claims], went_at=run.claimed_at)
            else:
                note = "not eligible with these limits"
                found[bead, claims] = ReplayedBead(bead, "", 0, claims + 1, None, None, run.claimed_at, note)
        return sorted(
            found.values(), key=lambda row: (min(filter(None, (row.would_at, row.went_at, row.eligible_at))), row.bead)
        )

    def _update(self, look: Look) -> None:
        there = {bead.id: bead for bead in look.beads}
        for bead in list(self._queue.values()):
            if bead.id not in there and not self._really_went(bead, look.at):
                del self._queue[bead.id]
                self._note(bead, f"no longer eligible at {terminal.moment(look.at)}")
        for bead in there.values():
            key = (bead.id, bead.record.attempt)
            row = self._rows.get(key)
            if row is None:
                self._rows[key] = ReplayedBead(
                    bead.id, bead.title, bead.priority, bead.record.attempt + 1, look.at, None, None
                )
            if row is None or row.would_at is None:
                before = self._queue.get(bead.id)
                if before is not None and before.record.attempt != bead.record.attempt:
                    self._note(before, "still waited when its next attempt came")
                self._queue[bead.id] = bead

    def _really_went(self, bead: Bead, by: datetime) -> bool:
        """Whether it is gone from what is eligible only because it was really dispatched: here it still waits."""
        run = self._record.runs.get((bead.id, bead.record.attempt))
        return run is not None and run.claimed_at <= by

    def _dispatch(self, at: datetime) -> None:
        while self._queue and self._taken < self._limits.max_in_flight:
            bead = min(self._queue.values(), key=lambda one: (one.priority, one.updated_at, one.id))
            del self._queue[bead.id]
            key = (bead.id, bead.record.attempt)
            self._rows[key] = replace(self._rows[key], would_at=at, note="")
            run = self._record.runs.get(key)
            if run is None:
                # Nobody knows how long it would have worked: as long as a silent bead holds its slot.
                self._take(at + timedelta(minutes=self._limits.slot_silence_minutes))
                self._note(bead, f"never went; its slot is counted for {self._limits.slot_silence_minutes:g} min")
            else:
                self._take(at + (run.slot_until - run.claimed_at) if run.slot_until else None)

    def _take(self, until: datetime | None) -> None:
        self._taken += 1
        if until is not None:
            heapq.heappush(self._ends, until)

    def _note(self, bead: Bead, note: str) -> None:
        key = (bead.id, bead.record.attempt)
        self._rows[key] = replace(self._rows[key], note=note)


def _silences(record: Record) -> list[Silence]:
    """What would have been blocked for its silence, beside what was."""
    left = {bead: list(moments) for bead, moments in record.blocked.items()}
    found = []
    for (bead, since), at in sorted(record.silent.items(), key=lambda one: one[1]):
        really = next((moment for moment in left.get(bead, ()) if moment >= since), None)
        if really is not None:
            left[bead].remove(really)
        found.append(Silence(bead, since, at, really))
    return found


def lines(found: Replay, paint: terminal.Paint) -> list[str]:
    """The answer as people read it."""
    limits = found.limits
    written = [
        f"{terminal.moment(found.start)} to {terminal.moment(found.end)}, {found.commits} commits;"
        f" assignee {terminal.text(limits.assignee)}, at most {limits.max_in_flight} at once,"
        f" reap after {limits.reap_after_minutes:g} min",
        *(paint(f"  {one}", "dim") for one in found.unknown),
        "",
    ]
    header = ("bead", "attempt", "priority", "eligible", "would go", "went", "would wait", "waited", "")
    rows = [_cells(row) for row in found.rows]
    written += terminal.table(header, rows, indent="") if rows else ["No bead was eligible, and none was dispatched."]
    written += ["", _summary(found.rows)]
    if found.silences:
        written += ["", "Silent for too long:"]
        written += terminal.table(
            ("bead", "silent since", "would block", "was blocked"),
            [
                (
                    terminal.text(one.bead),
                    terminal.moment(one.silent_since),
                    terminal.moment(one.would_block_at),
                    terminal.moment(one.blocked_at) if one.blocked_at else "-",
                )
                for one in found.silences
            ],
        )
    if found.switches:
        written += ["", "bd's switch, as far as it was committed:"]
        written += [
            f"  {terminal.moment(told.at)}  dispatch {'suspended' if told.dispatch else 'on'},"
            f" reap {'suspended' if told.reap else 'on'}"
            for told in found.switches
        ]
    return written


def _cells(row: ReplayedBead) -> tuple[str, ...]:
    def at(moment: datetime | None) -> str:
        return terminal.moment(moment) if moment else "-"

    def wait(moment: datetime | None) -> str:
        return terminal.span(moment - row.eligible_at) if moment and row.eligible_at else "-"

    priority = f"P{row.priority}" if row.eligible_at else "-"
    name = terminal.text(row.bead)
    return (
        name, str(row.attempt), priority, at(row.eligible_at), at(row.would_at), at(row.went_at), wait(row.would_at),
        wait(row.went_at), row.note,
    )  # fmt: skip


def _summary(rows: Sequence[ReplayedBead]) -> str:
    would = [row.would_at - row.eligible_at for row in rows if row.would_at and row.eligible_at]
    waited = [row.went_at - row.eligible_at for row in rows if row.went_at and row.eligible_at]
    went = sum(row.went_at is not None for row in rows)

    def typical(waits: Sequence[timedelta]) -> str:
        return f", median wait {terminal.span(timedelta(seconds=middle(waits)))}" if waits else ""

    def middle(waits: Sequence[timedelta]) -> float:
        return median(wait.total_seconds() for wait in waits)

    return f"{len(would)} would have gone{typical(would)}; {went} went{typical(waited)}."
