"""One dispatch pass: while slots are free, claim the first eligible bead, POST it, record the job.

An event is only a hint; everything is read from Dolt. A crash between any two steps loses nothing: the bead
is open, or it has an orphaned claim that the reap pass releases, or one whose POST was begun, which is never sent
again.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from beads_dispatch import agents, log, notes
from beads_dispatch.agents import slots
from beads_dispatch.bead import Bead, Status
from beads_dispatch.breaker import Breaker
from beads_dispatch.log import Action
from beads_dispatch.outcomes import (
    AgentFailed,
    Dispatched,
    GivenUp,
    Held,
    LostRace,
    NoSlot,
    NothingEligible,
    Outcome,
    OutcomeUnknown,
    PassEnded,
    Rejected,
    StillRunning,
    Stop,
    Suspended,
    Withdrawn,
)
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import DISPATCHER, REFUSES_ALL, ClaimLost, Diagnosis, Store, StoreError
from beads_dispatch.trace import Trace, begun

logger = log.get("dispatch")

SLOT_WAIT_SECONDS = 15  # an agent's process ends a little after its bead
_SLOT_POLL_SECONDS = 0.1
_LOOK_AHEAD = 8  # beads among which one is chosen after a lost race
# What a person may do to a bead between our claim and its POST, by the condition that fails then.
_NO_LONGER = {
    "type": "the bead became one of a type that is not dispatched",
    "pinned": "the bead was pinned",
    "template": "the bead became a template",
    "ephemeral": "the bead became ephemeral",
    "defer": "the bead was deferred",
    "acceptance": "the bead lost its acceptance criteria",
    "blocked": "the bead became blocked",
    "parent": "the bead's parent was deferred",
    "children": "the bead is an epic that got an open child",
}
PASS_SECONDS = 90  # then a pass ends, between two beads, and the next one goes on
_RELEASE_WAITS = (0, 1, 2, 4)  # seconds before each try to release a claim after Dolt failed: it may be restarting
_TRIES_PER_BEAD = 2  # a claim that was withdrawn is tried once more in the same pass


@dataclass
class Dispatcher:
    """The collaborators of a pass. `clock` gives the present, UTC-aware; `sleep` takes seconds; `stopping` says whether
    the process was asked to stop."""

    store: Store
    agent: agents.Backend
    limits: DispatchLimits
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    stopping: Callable[[], bool] = lambda: False
    _breaker: Breaker = field(init=False)
    _trace: Trace = field(default_factory=begun, init=False)  # of the pass at hand

    def __post_init__(self) -> None:
        self._breaker = Breaker(self.store, self.limits.assignee, self.clock)

    def run_once(self, trace: Trace | None = None, *, slot_freed: bool = False) -> list[Outcome]:
        """One pass; returns what happened, in order. The last outcome is the reason it stopped.

        `trace`: what the pass belongs to; without it one begins. `slot_freed`: wait a little for the slot. Raises
        StoreError when Dolt cannot be reached: then the event is to be sent again.
        """
        self.store.begin_pass()
        self._trace = trace or begun()
        outcomes: list[Outcome] = []
        wait = SLOT_WAIT_SECONDS if slot_freed else 0
        ends = self.clock() + timedelta(seconds=PASS_SECONDS)
        while not outcomes or not isinstance(outcomes[-1], Stop):
            outcomes.append(self._ended(ends) or self._next(outcomes, wait))
            wait = 0
        return outcomes

    def dispatch_one(self, bead: Bead) -> Outcome:
        """Dispatch one eligible bead for a person, whatever suspension, hold, slots, its retry delay and its number of
        jobs are."""
        self._breaker.read()
        self._trace = begun()
        bead = replace(bead, record=replace(bead.record, jobs=0))
        with self.store.slot_lock(self.limits.assignee) as counted_by_us:
            if not counted_by_us or not self._is_slot_free():
                return NoSlot()
            if slots.runs(self.agent, bead):
                return StillRunning(bead, bead.record.job or "")
            found = self._claim(bead, ignore_retry_delay=True)
        return self._start(found) if isinstance(found, Bead) else found

    def _ended(self, ends: datetime) -> PassEnded | None:
        """Whether the pass is to end before the next bead."""
        if self.stopping():
            return PassEnded("the process is asked to stop")
        return PassEnded(f"it took {PASS_SECONDS} s") if self.clock() >= ends else None

    def _next(self, so_far: list[Outcome], wait: float) -> Outcome:
        stop = self._suspended_or_held()
        if stop:
            return stop
        with self.store.slot_lock(self.limits.assignee) as counted_by_us:
            # Otherwise another process counts: for so long only because its backend is slow. It goes on with the queue.
            found = self._claim_next(so_far, wait) if counted_by_us else NoSlot()
        return self._start(found) if isinstance(found, Bead) else found

    def _claim_next(self, so_far: list[Outcome], wait: float) -> Bead | Outcome:
        """Claim the first eligible bead where a slot is free."""
        # The slot is checked first: to find the head of a long queue costs more than to know whether it is empty.
        try:
            if self._breaker.waits_for_a_job() or not self._is_slot_free(so_far):
                if not self._has_eligible():
                    return NothingEligible()
                if not wait or not self._slot_within(wait, so_far):
                    return NoSlot()
                # After a wait everything is read anew: people may have acted meanwhile.
                return self._suspended_or_held() or self._claim_next(so_far, 0)
            if self._breaker.hold.failures:
                self.agent.probe()  # it failed lately: find out by a request that costs no bead
            bead = self._first_eligible(so_far)
            if bead is None:
                return NothingEligible()
            if slots.runs(self.agent, bead):
                return StillRunning(bead, bead.record.job or "")
        except agents.Unreachable as exc:
            # While the queue is empty, an outage costs nothing: its hold would only delay the next bead.
            return self._agent_failed(None, str(exc)) if self._has_eligible() else NothingEligible()
        return self._claim(bead)

    def _is_slot_free(self, so_far: Sequence[Outcome] = ()) -> bool:
        """Jobs of beads that were opened again, which this pass has met, count where the backend does not."""
        others = sum(isinstance(outcome, StillRunning) for outcome in so_far)
        limits = replace(self.limits, max_in_flight=self.limits.max_in_flight - others)
        return slots.is_free(self.store, self.agent, limits, self.clock())

    def _suspended_or_held(self) -> Stop | None:
        suspended = self.store.control.suspension().dispatch
        if suspended:
            return Suspended(suspended)
        hold = self._breaker.read()
        if hold.until is not None and hold.active_at(self.clock()):
            return Held(hold.until, hold.reason)
        return None

    def _first_eligible(self, so_far: list[Outcome]) -> Bead | None:
        """The first eligible bead that this pass has not given up on.

        After a lost race one of the next few is chosen instead: dispatchers that met at the head of the queue would
        meet again at each bead, and all but one lose again.
        """
        lost = [outcome.bead.path for outcome in so_far if isinstance(outcome, LostRace)]
        withdrawn = [outcome.bead.path for outcome in so_far if isinstance(outcome, Withdrawn)]
        running = [outcome.bead.path for outcome in so_far if isinstance(outcome, StillRunning)]
        skip = {*lost, *running, *(bead for bead in withdrawn if withdrawn.count(bead) >= _TRIES_PER_BEAD)}
        found = self.store.eligible.first(
            self.limits.assignee, self.clock(), _LOOK_AHEAD if lost else 1, sorted(skip), probe=self._breaker.probe
        )
        return random.choice(found) if found else None

    def _has_eligible(self) -> bool:
        return self.store.eligible.count(self.limits.assignee, self.clock(), 1) > 0

    def _slot_within(self, seconds: float, so_far: Sequence[Outcome]) -> bool:
        """Whether a slot comes free in so many seconds."""
        deadline = self.clock() + timedelta(seconds=seconds)
        while self.clock() < deadline:
            self.sleep(_SLOT_POLL_SECONDS)
            if self._is_slot_free(so_far):
                return True
        return False

    def _claim(self, bead: Bead, *, ignore_retry_delay: bool = False) -> Bead | LostRace:
        """Claim a bead, and mark that its POST is under way, which the next count of slots sees."""
        try:
            with self.store.write_lock():
                claimed = self.store.claims.claim(bead, self.clock(), ignore_retry_delay=ignore_retry_delay)
                with self._released_where_dolt_fails(claimed):
                    # Before the read-back: a change before the mark is seen by it, a later one comes after the POST
                    # began. And a dispatcher that was frozen since its claim finds that it has been released.
                    self.store.claims.mark_posting(claimed)
                return claimed
        except ClaimLost:
            return LostRace(bead)

    def _start(self, claimed: Bead) -> Outcome:
        """Steps 3 and 4 for a bead that we claimed: read back, POST, record."""
        with self._released_where_dolt_fails(claimed):
            found = self.store.claims.diagnose(claimed, self.clock())
        change = _changed_since_claim(claimed, found)
        if change:
            self.store.claims.withdraw(claimed, change, self.clock())
            return Withdrawn(claimed, change)
        logger.info("claimed", extra=self._about(claimed, Action.CLAIM))
        if claimed.record.jobs >= self.limits.max_attempts:
            note, now = notes.given_up(claimed.record.jobs), self.clock()
            record = replace(claimed.record, jobs=0, failures=0, outages=0)  # a person who opens it starts anew
            self.store.claims.release(claimed, note, record, now, actor=DISPATCHER, status=Status.BLOCKED)
            return GivenUp(claimed, claimed.record.jobs)
        return self._start_job(claimed, {**(found.hints if found else {}), **agents.whereabouts(claimed)})

    @contextlib.contextmanager
    def _released_where_dolt_fails(self, claimed: Bead) -> Iterator[None]:
        """Nothing was sent yet: a claim that stayed with the mark of a POST would be taken for a job that may run.
        Where Dolt stays away, it does stay, and a person decides."""
        try:
            yield
        except StoreError:
            for seconds in _RELEASE_WAITS:
                self.sleep(seconds)
                with contextlib.suppress(StoreError):
                    record, now = claimed.record, self.clock()
                    self.store.claims.release(claimed, notes.not_sent(), record, now, actor=DISPATCHER, once=True)
                    break
            raise

    def _start_job(self, claimed: Bead, hints: Mapping[str, str]) -> Outcome:
        """POST a bead that we claimed, and record the answer."""
        try:
            job = self.agent.start(claimed.id, claimed.record.claim or "", self._trace.child().traceparent, hints)
        except agents.Unreachable as exc:
            return self._agent_failed(claimed, str(exc), note=notes.dispatch_failed(0, str(exc)))
        except agents.Refused as exc:
            note = notes.dispatch_failed(exc.code, exc.body)
            if self._breaker.hold.refusing:
                return self._agent_failed(claimed, f"{REFUSES_ALL} (HTTP {exc.code})", note=note, costly=True)
            if exc.counts or self._only_this_one(claimed, exc.code):
                return self._rejected(claimed, exc.code, note)
            return self._agent_failed(claimed, f"HTTP {exc.code}", note=note)
        except agents.UnknownOutcome as exc:
            self.store.claims.record_unknown(claimed, str(exc), self.clock())
            seconds = self._breaker.open(f"no usable answer: {exc}", costly=True)
            return OutcomeUnknown(claimed, str(exc), seconds)
        # Logged before it is recorded: with Dolt gone by now, this line is where the job can be found.
        logger.info("dispatched", extra=self._about(claimed, Action.DISPATCH, job=job))
        failing = self._breaker.hold.failing
        self.store.claims.record_dispatched(claimed, notes.one_line(job), self.clock(), failing=failing)
        self._breaker.accepted()
        return Dispatched(claimed, job)

    def _about(self, bead: Bead, action: Action, job: str | None = None) -> dict[str, Any]:
        return log.context(action=action, trace=self._trace.trace_id, job=job, **bead.log_context())

    def _only_this_one(self, bead: Bead, code: int) -> bool:
        """Whether a failure of the agent counts against the bead all the same: it failed with this bead before, and
        took another one in between."""
        return code >= 500 and bead.record.outages > 0 and not self._breaker.hold.failures

    def _rejected(self, bead: Bead, code: int, note: str) -> Rejected | AgentFailed:
        """Release a bead that the agent refused: a later retry, or `blocked` after the fifth refusal in a row. Unless
        it is the third bead in a row that is refused, or the agent fails a status request now: then the fault is the
        agent's, and no bead's."""
        if self._breaker.is_every_bead_refused(bead):
            return self._agent_failed(bead, f"{REFUSES_ALL} (HTTP {code})", note=note, costly=True)
        try:
            self.agent.probe()
        except agents.Unreachable as exc:
            return self._agent_failed(bead, str(exc), note=note)
        return Rejected(bead, code, blocked=self._breaker.refused(bead, note) is Status.BLOCKED)

    def _agent_failed(self, bead: Bead | None, why: str, note: str = "", *, costly: bool = False) -> AgentFailed:
        return AgentFailed(bead, why, self._breaker.agent_failed(bead, why, note, costly=costly))


def _changed_since_claim(claimed: Bead, diagnosis: Diagnosis | None) -> str | None:
    """What a person changed between our claim and what was read after it, in words; None when nobody did."""
    if diagnosis is None:
        return "the bead was deleted"
    found = diagnosis.bead
    if found.record.claim != claimed.record.claim:
        return "another claim replaced it"
    if found.assignee != claimed.assignee:
        return f"the bead was assigned to {notes.one_line(found.assignee, 100) or 'nobody'}"
    if found.status != Status.IN_PROGRESS:
        return f"the bead became {notes.one_line(found.status, 100)}"
    if found.updated_at != claimed.updated_at or found.row_lock != claimed.row_lock:
        return "the bead was changed at the same moment"
    # Dolt merges what others changed in other cells, and a dependency is a row of another table.
    return next((words for name, words in _NO_LONGER.items() if not diagnosis.conditions[name]), None)
