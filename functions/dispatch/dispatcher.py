"""One dispatch pass: while slots are free, take the first eligible bead, claim it, POST it, record it.

An event is only a hint; everything is read from Dolt. A crash between any two steps loses nothing: the bead
is open, or it carries a claim that the reap pass takes back, or one whose POST was begun, which is never sent again.
"""

import functools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from beads import agent as agents
from beads import log, notes, slots, store
from beads.bead import Bead, Status
from beads.settings import Rules
from beads.trace import Trace, begun

logger = log.get("dispatch")

RETRY_MINUTES = (2, 5, 10, 30)  # after the 1st to 4th refusal in a row
BLOCK_AT = 5  # the refusal at which a bead is blocked
HOLD_SECONDS = 30  # the first hold; doubles with each failure of the service in a row
HOLD_LIMIT_SECONDS = 600
SLOT_WAIT_SECONDS = 15  # an agent's process ends a little after its bead
_SLOT_POLL_SECONDS = 0.1
_LOOK_AHEAD = 8  # beads among which one is taken after a lost race
_TRIES_PER_BEAD = 2  # a claim that was withdrawn is tried once more in the same pass


@dataclass(frozen=True)
class Suspended:
    """Somebody said stop."""

    why: str


@dataclass(frozen=True)
class Held:
    """The agent service failed lately; dispatching waits."""

    until: datetime
    reason: str


@dataclass(frozen=True)
class NoSlot:
    """As many beads at work as may be."""


@dataclass(frozen=True)
class NothingEligible:
    """No bead waits."""


@dataclass(frozen=True)
class LostRace:
    """Somebody else changed the bead before our claim."""

    bead: Bead


@dataclass(frozen=True)
class Withdrawn:
    """A person's change was merged with our claim; our part is undone."""

    bead: Bead
    why: str


@dataclass(frozen=True)
class Dispatched:
    """The agent service has a job for the bead."""

    bead: Bead
    job: str


@dataclass(frozen=True)
class Rejected:
    """The agent service refused this bead; it waits for its retry time, or is blocked."""

    bead: Bead
    code: int
    blocked: bool


@dataclass(frozen=True)
class ServiceFailed:
    """The agent service failed; dispatching is held. `bead` is None when none had been claimed yet."""

    bead: Bead | None
    why: str
    hold_seconds: int


@dataclass(frozen=True)
class OutcomeUnknown:
    """The POST was sent and no usable answer came; the job may run."""

    bead: Bead
    why: str


Stop = Suspended | Held | NoSlot | NothingEligible | ServiceFailed
Outcome = Stop | LostRace | Withdrawn | Dispatched | Rejected | OutcomeUnknown


@dataclass
class Dispatcher:
    """The collaborators of a pass. `clock` gives the present, UTC-aware; `sleep` takes seconds."""

    beads: store.Store
    agent: agents.AgentService
    rules: Rules
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    _hold: store.Hold = field(default_factory=store.Hold, init=False)  # as it was before the bead at hand
    _trace: Trace = field(default_factory=begun, init=False)  # of the pass at hand

    def run_once(self, trace: Trace | None = None, *, slot_freed: bool = False) -> list[Outcome]:
        """One pass; returns what happened, in order. The last outcome is the reason it stopped.

        `trace`: what the pass belongs to; without it one begins. `slot_freed`: wait a little for the slot. Raises
        StoreError when Dolt cannot be reached: the event is then worth sending again.
        """
        self.beads.refresh()
        self._trace = trace or begun()
        outcomes: list[Outcome] = []
        wait = SLOT_WAIT_SECONDS if slot_freed else 0
        while not outcomes or not isinstance(outcomes[-1], Stop):
            outcomes.append(self._next(outcomes, wait))
            wait = 0
        return outcomes

    def by_hand(self, bead: Bead) -> Outcome:
        """Dispatch one eligible bead because a person says so: asks neither switch, hold, slots nor its retry time."""
        self._hold, self._trace = self.beads.hold(), begun()
        return self._dispatch(bead, functools.partial(self.beads.claim, before_its_time=True))

    def _next(self, so_far: list[Outcome], wait: float) -> Outcome:
        stop = self._switch_or_hold()
        if stop:
            return stop
        # The slot comes first: to find the head of a long queue costs more than to ask whether anybody waits.
        try:
            if not slots.free(self.beads, self.agent, self.rules, self.clock()):
                if not self._anybody_waits():
                    return NothingEligible()
                # Who has waited reads everything anew: people may have acted meanwhile.
                return self._next(so_far, 0) if wait and self._slot_within(wait) else NoSlot()
        except agents.Unreachable as exc:
            # While nobody waits, an outage is nobody's: its hold would only delay who comes after it.
            return self._service_failed(None, str(exc)) if self._anybody_waits() else NothingEligible()
        bead = self._first_eligible(so_far)
        return self._dispatch(bead) if bead else NothingEligible()

    def _switch_or_hold(self) -> Stop | None:
        suspended = self.beads.switch().dispatch
        if suspended:
            return Suspended(suspended)
        self._hold = self.beads.hold()
        if self._hold.until is not None and self._hold.until > self.clock():
            return Held(self._hold.until, self._hold.reason)
        return None

    def _first_eligible(self, so_far: list[Outcome]) -> Bead | None:
        """The first eligible bead that this pass has not given up on.

        Who has lost a race takes one of the next few instead: dispatchers that met at the head of the queue would
        meet again at each bead, and all but one lose again.
        """
        lost = [outcome.bead.id for outcome in so_far if isinstance(outcome, LostRace)]
        withdrawn = [outcome.bead.id for outcome in so_far if isinstance(outcome, Withdrawn)]
        skip = {*lost, *(bead for bead in withdrawn if withdrawn.count(bead) >= _TRIES_PER_BEAD)}
        # While the service fails, another bead is tried each time: it may be the bead, and the others would wait.
        probe = self._hold.failures > 0
        found = self.beads.eligible(
            self.rules.assignee, self.clock(), _LOOK_AHEAD if lost else 1, sorted(skip), probe=probe
        )
        return random.choice(found) if found else None

    def _anybody_waits(self) -> bool:
        return self.beads.count_eligible(self.rules.assignee, self.clock(), 1) > 0

    def _slot_within(self, seconds: float) -> bool:
        """Whether a slot comes free in so many seconds."""
        deadline = self.clock() + timedelta(seconds=seconds)
        while self.clock() < deadline:
            self.sleep(_SLOT_POLL_SECONDS)
            if slots.free(self.beads, self.agent, self.rules, self.clock()):
                return True
        return False

    def _dispatch(self, bead: Bead, claim: Callable[[Bead, datetime], Bead] | None = None) -> Outcome:
        """Steps 2 to 4 for one bead: claim, mark, read back, POST, record."""
        try:
            with self.beads.turn():
                claimed = (claim or self.beads.claim)(bead, self.clock())
                # Before the read: what was changed before the mark is seen by it, what comes later comes after the POST
                # began. And a dispatcher that was asleep since its claim finds that it has been taken back.
                self.beads.mark_posting(claimed)
        except store.ClaimLost:
            return LostRace(bead)
        change = self._changed_since_claim(claimed)
        if change:
            self.beads.withdraw(claimed, change, self.clock())
            return Withdrawn(claimed, change)
        trace = self._trace.trace_id
        logger.info("claimed", extra=log.context(action="claim", trace=trace, **claimed.log_context()))
        try:
            job = self.agent.dispatch(claimed.id, self._trace.child().traceparent)
        except agents.Unreachable as exc:
            return self._service_failed(claimed, str(exc), note=notes.dispatch_failed(0, str(exc)))
        except agents.Refused as exc:
            note = notes.dispatch_failed(exc.code, exc.body)
            if exc.counts or self._only_this_one(claimed, exc.code):
                return self._rejected(claimed, exc.code, note)
            return self._service_failed(claimed, f"HTTP {exc.code}", note=note)
        except agents.NoAnswer as exc:
            self.beads.record_unknown(claimed, str(exc), self.clock())
            return OutcomeUnknown(claimed, str(exc))
        # Said before it is recorded: with Dolt gone by now, this line is where the job can be found.
        logger.info("dispatched", extra=log.context(action="dispatch", trace=trace, job=job, **claimed.log_context()))
        self.beads.record_dispatched(claimed, notes.one_line(job), self.clock())
        self._clear_hold()
        return Dispatched(claimed, job)

    def _changed_since_claim(self, claimed: Bead) -> str | None:
        """What a person changed between our claim and now, in words; None when the claim stands alone."""
        found = self.beads.read_back(claimed.id)
        if found is None:
            return "the bead was deleted"
        if found.record.claim != claimed.record.claim:
            return "another claim replaced it"
        if found.assignee != claimed.assignee:
            return f"the bead was assigned to {notes.one_line(found.assignee, 100) or 'nobody'}"
        if found.status != Status.IN_PROGRESS:
            return f"the bead became {notes.one_line(found.status, 100)}"
        if found.updated_at != claimed.updated_at or found.row_lock != claimed.row_lock:
            return "the bead was changed at the same moment"
        return None

    def _only_this_one(self, bead: Bead, code: int) -> bool:
        """Whether a failure of the service counts against the bead all the same: it failed with this bead before, and
        took another one in between."""
        return code >= 500 and bead.record.outages > 0 and not self._hold.failures

    def _rejected(self, bead: Bead, code: int, note: str) -> Rejected:
        """Roll back a bead that the service refused: a later retry, or `blocked` after the fifth in a row."""
        failures = bead.record.failures + 1
        if failures >= BLOCK_AT:
            # A person who opens it again gives it five new tries.
            record = replace(bead.record, failures=0, outages=0)
            note = f"{note}\n{notes.blocked_after(failures)}"
            status = Status.BLOCKED
        else:
            retry = self.clock() + timedelta(minutes=RETRY_MINUTES[failures - 1])
            record = replace(bead.record, failures=failures, retry_at=notes.timestamp(retry))
            status = Status.OPEN
        self.beads.roll_back(bead, note, record, self.clock(), actor=store.DISPATCHER, status=status)
        return Rejected(bead, code, blocked=status is Status.BLOCKED)

    def _service_failed(self, bead: Bead | None, why: str, note: str = "") -> ServiceFailed:
        """Hold all dispatching, then give the bead back without counting it."""
        failures = self._hold.failures
        seconds = min(HOLD_SECONDS * 2 ** min(failures, 10), HOLD_LIMIT_SECONDS)
        until = self.clock() + timedelta(seconds=seconds)
        self.beads.set_hold(self._hold, store.Hold(failures + 1, until, f"agent service: {why}"))
        if bead is not None:
            record = replace(bead.record, outages=bead.record.outages + 1)
            self.beads.roll_back(bead, note, record, self.clock(), actor=store.DISPATCHER)
        return ServiceFailed(bead, why, seconds)

    def _clear_hold(self) -> None:
        if self._hold.failures:
            self.beads.set_hold(self._hold, store.Hold())


def beads_by_outcome(outcomes: list[Outcome]) -> dict[str, list[str]]:
    """The ids of the beads of a pass, by what became of each: `dispatched`, `lost_race`, `rejected`, …"""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        bead = getattr(outcome, "bead", None)
        if bead is not None:
            kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(outcome).__name__)
            found.setdefault(kind.lower(), []).append(bead.id)
    return found


def describe(outcome: Outcome) -> str:
    """An outcome as a sentence for the log."""
    match outcome:
        case Suspended(why):
            return f"suspended: {why}"
        case Held(until, reason):
            return f"held until {notes.timestamp(until)}: {reason}"
        case LostRace(bead):
            return f"{bead.id}: somebody else changed it first"
        case Withdrawn(bead, why):
            return f"{bead.id}: claim withdrawn: {why}"
        case Rejected(bead, code, blocked):
            return f"{bead.id}: refused with HTTP {code}, {'blocked' if blocked else 'will be tried again'}"
        case ServiceFailed(bead, why, seconds):
            return f"agent service failed ({why}); no dispatching for {seconds} s" + (
                f", {bead.id} is open again" if bead else ""
            )
        case OutcomeUnknown(bead, why):
            return f"{bead.id}: outcome unknown: {why}"
        case Dispatched(bead, job):
            return f"{bead.id}: job {job}"
        case NoSlot():
            return "no slot is free"
        case NothingEligible():
            return "no bead waits"
