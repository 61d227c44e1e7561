"""What would have been dispatched when, from what was eligible when. Pure."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from beads_dispatch.bead import Bead
from beads_dispatch.cli import terminal
from beads_dispatch.settings import DispatchLimits


@dataclass(frozen=True)
class QueueState:
    """What was eligible from a moment on, in the order of dispatch."""

    at: datetime
    beads: Sequence[Bead]


@dataclass
class SlotUse:
    """A real dispatch: from the claim to the moment from which it took no slot."""

    claimed_at: datetime
    active_at: datetime  # the last change of the bead so far
    slot_until: datetime | None = None  # None: still taken at the end


@dataclass(frozen=True)
class SuspensionFrom:
    """What bd's config suspended, from a commit on."""

    at: datetime
    dispatch: str | None
    reap: str | None


@dataclass
class Recording:
    """What really happened in the range. Keys are a bead and its number of claims before this one."""

    queue: list[QueueState] = field(default_factory=list)
    dispatched: dict[tuple[str, int], SlotUse] = field(default_factory=dict)
    at_start: dict[str, SlotUse] = field(default_factory=dict)  # claims in progress when the range began
    inactive: dict[tuple[str, datetime], datetime] = field(default_factory=dict)
    blocked: dict[str, list[datetime]] = field(default_factory=dict)
    suspensions: list[SuspensionFrom] = field(default_factory=list)
    has_all_activity: bool = True


@dataclass(frozen=True)
class ReplayedAttempt:
    """One attempt of a bead: when it was eligible, when it would have been dispatched, when it was."""

    bead: str
    title: str
    priority: int
    attempt: int
    eligible_at: datetime | None  # None where it was never eligible with these limits
    would_dispatch_at: datetime | None
    dispatched_at: datetime | None
    note: str = ""


def simulate(recording: Recording, limits: DispatchLimits, end: datetime) -> list[ReplayedAttempt]:
    """What would have been dispatched, and what was, in the order of the first of the two."""
    simulation = _Simulation(recording, limits)
    for state in recording.queue:
        simulation.enter(state)
    simulation.advance(end)
    return simulation.attempts()


class _Simulation:
    """Dispatches from what was eligible, with slots of its own."""

    def __init__(self, recording: Recording, limits: DispatchLimits) -> None:
        self._recording = recording
        self._limits = limits
        self._queue: dict[str, Bead] = {}
        self._attempts: dict[tuple[str, int], ReplayedAttempt] = {}
        self._ends: list[datetime] = []  # when the slots that are taken come free; a heap
        self._taken = 0
        for use in recording.at_start.values():
            self._take(use.slot_until)

    def enter(self, state: QueueState) -> None:
        """Go on to the next state: first what comes free before it, then what it changes."""
        self.advance(state.at)
        self._update(state)
        self._dispatch(state.at)

    def advance(self, moment: datetime) -> None:
        """Dispatch in the slots that come free until a moment."""
        while self._ends and self._ends[0] <= moment:
            at = heapq.heappop(self._ends)
            self._taken -= 1
            self._dispatch(at)

    def attempts(self) -> list[ReplayedAttempt]:
        """The attempts so far; real ones that were never eligible here are among them."""
        found = dict(self._attempts)
        for (bead, claims), use in self._recording.dispatched.items():
            if (bead, claims) in found:
                found[bead, claims] = replace(found[bead, claims], dispatched_at=use.claimed_at)
            else:
                note = "not eligible with these limits"
                found[bead, claims] = ReplayedAttempt(bead, "", 0, claims + 1, None, None, use.claimed_at, note)
        return sorted(
            found.values(),
            key=lambda one: (min(filter(None, (one.would_dispatch_at, one.dispatched_at, one.eligible_at))), one.bead),
        )

    def _update(self, state: QueueState) -> None:
        eligible = {bead.id: bead for bead in state.beads}
        for bead in list(self._queue.values()):
            if bead.id not in eligible and not self._was_dispatched(bead, state.at):
                del self._queue[bead.id]
                self._note(bead, f"no longer eligible at {terminal.moment(state.at)}")
        for bead in eligible.values():
            claims = bead.record.attempt
            known = self._attempts.get((bead.id, claims))
            if known is None:
                self._attempts[bead.id, claims] = ReplayedAttempt(
                    bead.id, bead.title, bead.priority, claims + 1, state.at, None, None
                )
            if known is None or known.would_dispatch_at is None:
                before = self._queue.get(bead.id)
                if before is not None and before.record.attempt != claims:
                    self._note(before, "still queued when its next attempt came")
                self._queue[bead.id] = bead

    def _was_dispatched(self, bead: Bead, by: datetime) -> bool:
        """Whether it is no longer eligible only because it was really dispatched: here it is still in the queue."""
        use = self._recording.dispatched.get((bead.id, bead.record.attempt))
        return use is not None and use.claimed_at <= by

    def _dispatch(self, at: datetime) -> None:
        while self._queue and self._taken < self._limits.max_in_flight:
            bead = min(self._queue.values(), key=lambda one: (one.priority, one.updated_at, one.id))
            del self._queue[bead.id]
            key = (bead.id, bead.record.attempt)
            self._attempts[key] = replace(self._attempts[key], would_dispatch_at=at, note="")
            use = self._recording.dispatched.get(key)
            if use is None:
                # How long its job would have run is unknown: as long as an inactive bead keeps its slot.
                self._take(at + self._limits.slot_silence)
                self._note(bead, f"never dispatched; takes a slot for {self._limits.slot_silence_minutes:g} min here")
            else:
                self._take(at + (use.slot_until - use.claimed_at) if use.slot_until else None)

    def _take(self, until: datetime | None) -> None:
        self._taken += 1
        if until is not None:
            heapq.heappush(self._ends, until)

    def _note(self, bead: Bead, note: str) -> None:
        key = (bead.id, bead.record.attempt)
        self._attempts[key] = replace(self._attempts[key], note=note)
