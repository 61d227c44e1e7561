"""One reap pass of an agent: release orphaned claims, act on jobs that ended, block beads that are inactive."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from beads_dispatch import agents, notes
from beads_dispatch.agents import Backend, JobState, Phase
from beads_dispatch.bead import UNKNOWN, Bead, Status
from beads_dispatch.breaker import IN_A_ROW, LASTING, Breaker
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import REAPER, Snapshot, Store, StoreError

# After a job ended well its agent may be about to change the bead.
_AFTER_THE_END = timedelta(seconds=60)


@dataclass(frozen=True)
class ReapResult:
    """The ids of the beads that this pass changed, and of those that changed under it and were left alone."""

    suspended: str | None = None
    reopened: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)  # whose job was found after a lost answer
    left_alone: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """The pass as one line: `reopened 1 (x-3), blocked 1 (x-4)`."""
        if self.suspended:
            return f"suspended: {self.suspended}"
        done = {
            "reopened": self.reopened,
            "blocked": self.blocked,
            "found the job of": self.found,
            "left alone": self.left_alone,
        }
        return (
            ", ".join(f"{kind} {len(ids)} ({', '.join(ids)})" for kind, ids in done.items() if ids) or "nothing to reap"
        )


def orphaned(store: Store, limits: DispatchLimits, now: datetime) -> list[Bead]:
    """The beads whose claim a pass would release. Raises StoreError."""
    return store.activity.orphaned_claims(limits.assignee, now - limits.claim_timeout)


def dated_ahead(store: Store, limits: DispatchLimits, now: datetime) -> list[Bead]:
    """The beads with a claim whose newest activity is dated later than `now`: a pass would mark when it saw that.
    Raises StoreError."""
    claims = store.activity.claims(limits.assignee, to_reap=True)
    return [bead for bead in claims if bead.last_activity is not None and bead.last_activity > now]


def inactive(store: Store | Snapshot, limits: DispatchLimits, now: datetime) -> list[Bead]:
    """The beads that a pass would block, those with an orphaned claim among them. Raises StoreError."""
    return store.activity.inactive(limits.assignee, now - limits.reap_after, only_ours=limits.reap_only_ours)


def due_at(bead: Bead, limits: DispatchLimits) -> datetime | None:
    """When a bead in progress is reaped if it stays inactive: an orphaned claim soon, all else later, or never."""
    if limits.reap_only_ours and not bead.record.claim:
        return None
    last_activity = bead.last_activity or bead.updated_at
    return last_activity + (limits.claim_timeout if bead.record.is_unsent else limits.reap_after)


def with_jobs(store: Store, limits: DispatchLimits, backend: Backend | None) -> list[Bead]:
    """The beads in progress whose job the backend can tell of. Raises StoreError."""
    if backend is None or not backend.tells_jobs:
        return []
    return [bead for bead in store.activity.claims(limits.assignee, to_reap=True) if bead.record.job]


def is_over(bead: Bead, state: JobState, now: datetime) -> bool:
    """Whether a pass would act on a job in that state now."""
    if state.phase is Phase.SUCCEEDED:
        return bead.record.ended_at is None or bead.record.ended_at <= notes.timestamp(now - _AFTER_THE_END)
    return state.phase is Phase.FAILED


def is_unresolved(bead: Bead, limits: DispatchLimits, now: datetime) -> bool:
    """Whether a claim's outcome is unknown for so long that its backend knows by now whether it was started."""
    return bool(bead.record.outcome) and (bead.record.claimed_at or "") <= notes.timestamp(now - limits.claim_timeout)


def ask_each(beads: Sequence[Bead], ask: Callable[[Bead], object]) -> None:
    """Call `ask` with each bead, in random order, and go on where it raises Unreachable: the fault may be one job's.

    Raises Unreachable after so many in a row that it is the backend's.
    """
    in_a_row = 0
    for bead in random.sample(beads, len(beads)):
        try:
            ask(bead)
            in_a_row = 0
        except agents.Unreachable:
            in_a_row += 1
            if in_a_row >= min(IN_A_ROW, len(beads)):
                raise


def run_once(store: Store, limits: DispatchLimits, now: datetime, backend: Backend | None = None) -> ReapResult:
    """One pass at the moment `now`. Raises StoreError when Dolt cannot be reached."""
    store.begin_pass()
    suspended = store.control.suspension().reap
    if suspended:
        return ReapResult(suspended=suspended)
    store.feeders.resume()
    reaper = _Reaper(store, limits, now)
    reaper.see_dated_ahead()
    reaper.release_orphaned()
    if backend is not None:
        reaper.end_jobs(backend)
    reaper.block_inactive()
    return reaper.result


@dataclass
class _Reaper:
    store: Store
    limits: DispatchLimits
    now: datetime
    result: ReapResult = field(default_factory=ReapResult)
    # Not to be blocked for inactivity: beads whose job runs, and those that this pass acted on, by their keys.
    spared: set[tuple[str, str]] = field(default_factory=set)

    def see_dated_ahead(self) -> None:
        """It counts as this moment from now on, and no longer as the present of each later pass."""
        for bead in dated_ahead(self.store, self.limits, self.now):
            with self._writing(bead):
                self.store.claims.mark_seen(bead, self.now)

    def release_orphaned(self) -> None:
        for bead in orphaned(self.store, self.limits, self.now):
            note = notes.claim_expired(self.limits.claim_timeout_seconds)
            with self._writing(bead):
                self._done(bead, self.result.reopened, self._release(bead, note, once=True))

    def end_jobs(self, backend: Backend) -> None:
        """Act on jobs that ended and on outcomes that are unknown."""

        def follow(bead: Bead) -> None:
            state = backend.state(bead.record.job or "")
            if state.phase is Phase.RUNNING:
                self.spared.add(bead.key)
            with self._writing(bead):
                if state.phase is Phase.FAILED:
                    self._fail(bead, state.why)
                elif is_over(bead, state, self.now):
                    self._end(bead)

        # Where the backend does not answer, activity alone decides, as for backends that cannot tell.
        with contextlib.suppress(agents.Unreachable):
            ask_each(with_jobs(self.store, self.limits, backend), follow)
            claims = self.store.activity.claims(self.limits.assignee, to_reap=True)
            unresolved = [bead for bead in claims if is_unresolved(bead, self.limits, self.now)]
            ask_each(unresolved, lambda bead: self._resolve(bead, backend))

    def block_inactive(self) -> None:
        for bead in inactive(self.store, self.limits, self.now):
            if bead.key in self.spared:
                continue
            if self.store.control.suspension().reap:
                break
            minutes = int((self.now - (bead.last_activity or bead.updated_at)).total_seconds() // 60)
            note = notes.no_progress(minutes, self.limits.reap_after_minutes)
            with self._writing(bead):
                blocked = self.store.claims.block_inactive(bead, self.now - self.limits.reap_after, note, self.now)
                self._done(bead, self.result.blocked, blocked)

    def _end(self, bead: Bead) -> None:
        """The job ended well, and the bead is still in progress: it has a minute to change its status itself."""
        if bead.record.ended_at is None:
            self.store.claims.mark_ended(bead, self.now)
        else:
            note = notes.job_ended(bead.record.job or "")
            self._done(bead, self.result.blocked, self._release(bead, note, status=Status.BLOCKED))

    def _fail(self, bead: Bead, why: str) -> None:
        soon = (bead.record.claimed_at or "") > notes.timestamp(self.now - LASTING)
        reopened = self._breaker().job_failed(bead, notes.job_failed(bead.record.job or "", why), soon=soon)
        self._done(bead, self.result.reopened, reopened)

    def _breaker(self) -> Breaker:
        return Breaker(self.store, self.limits.assignee, lambda: self.now, REAPER)

    def _resolve(self, bead: Bead, backend: Backend) -> None:
        """Find the job of a claim whose answer was lost."""
        try:
            job = backend.find(bead.record.claim or "", bead.id, agents.whereabouts(bead))
        except agents.CannotTell:
            return
        # It was counted as a job when its outcome was unknown.
        jobs = max(bead.record.jobs - (bead.record.outcome == UNKNOWN), 0)
        record = replace(bead.record, outcome=None, jobs=jobs)
        found = replace(bead, record=record)
        with self._writing(bead):
            if job is None:
                released = self._breaker().release_uncounted(found, notes.never_started(), unchanged=True)
                self._done(bead, self.result.reopened, released)
            else:
                self._done(bead, self.result.found, self.store.claims.record_dispatched(found, job, self.now))

    def _release(self, bead: Bead, note: str, *, status: Status = Status.OPEN, once: bool = False) -> bool:
        record = replace(bead.record, job=None, ended_at=None)
        return self.store.claims.release(
            bead, note, record, self.now, actor=REAPER, status=status, unchanged=True, once=once
        )

    @contextlib.contextmanager
    def _writing(self, bead: Bead) -> Iterator[None]:
        """A write that its database refuses concerns no bead of another database."""
        try:
            yield
        except StoreError as exc:
            self.store.leave_out(bead.database, exc)
            self.result.left_alone.append(bead.id)

    def _done(self, bead: Bead, where: list[str], done: bool) -> None:
        (where if done else self.result.left_alone).append(bead.id)
        if done:
            self.spared.add(bead.key)
