"""The circuit breaker of an agent, the hold: a fault is the agent's before it is the beads'."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from beads_dispatch import notes
from beads_dispatch.bead import Bead, DispatchRecord, Status
from beads_dispatch.store import DISPATCHER, FAILS_ALL, Hold, Probe, Store

RETRY_MINUTES = (2, 5, 10, 30)  # after the 1st to 4th refusal, or failed job, in a row
BLOCK_AT = 5  # the refusal at which a bead is blocked
HOLD_SECONDS = 30  # the first hold; doubles with each failure of the agent in a row
HOLD_LIMIT_SECONDS = 600
# Where each attempt costs a bead: the agent refuses every bead, or gives no usable answer, or each job fails.
COSTLY_HOLD_SECONDS = (30, 300, 1800, 3600)
IN_A_ROW = 3  # different beads, and none that went well in between: then the fault is the agent's
NOTED_OUTAGES = 3  # failures of the agent with a bead that are noted on it; an outage may last a weekend
NOTED_JOBS = 2  # where a job was started: each has a note more
LASTING = timedelta(seconds=60)  # a job that fails sooner may not have begun with its bead


@dataclass
class Breaker:
    """The hold of one agent, as it was read last. `actor` writes on beads. Every method raises StoreError."""

    store: Store
    assignee: str
    clock: Callable[[], datetime]
    actor: str = DISPATCHER
    hold: Hold = field(default_factory=Hold, init=False)

    def read(self) -> Hold:
        """The hold as it is now."""
        self.hold = self.store.control.hold(self.assignee)
        return self.hold

    @property
    def probe(self) -> Probe | None:
        """Which bead is tried first. While the agent fails, another one each time: the bead may be at fault, and the
        others would wait. Where it fails with every bead, that spends one more; so every second time one of those
        with which it failed is tried."""
        if not self.hold.failures:
            return None
        spends = self.hold.refusing or self.hold.failing
        return Probe.FAILED if spends and self.hold.failures % 2 else Probe.FRESH

    def waits_for_a_job(self) -> bool:
        """After jobs that failed one after the other: whether one is to last before the next is started. Once one has,
        the hold is closed."""
        if not self.hold.failing or self.hold.until is None:
            return False
        if self.store.activity.lasted(self.assignee, self.hold.until, self.clock(), LASTING):
            self.close()
            return False
        begun = notes.timestamp(self.hold.until)
        return any((bead.record.at or "") >= begun for bead in self.store.activity.claims(self.assignee))

    def open(self, why: str, *, costly: bool) -> int:
        """Hold dispatch for longer with each failure in a row; `costly`: each spends a bead. Returns the seconds."""
        failures = self.hold.failures
        seconds: int = min(HOLD_SECONDS * 2 ** min(failures, 10), HOLD_LIMIT_SECONDS)
        if costly:
            seconds = COSTLY_HOLD_SECONDS[min(failures, len(COSTLY_HOLD_SECONDS) - 1)]
        until = self.clock() + timedelta(seconds=seconds)
        hold = Hold(failures + 1, until, f"agent service: {why}")
        self.store.control.set_hold(self.assignee, self.hold, hold)
        return seconds

    def close(self) -> None:
        """No hold any more, and the next failure is the first again."""
        if self.hold.failures:
            self.store.control.set_hold(self.assignee, self.hold, Hold())
            self.hold = Hold()

    def accepted(self) -> None:
        """The agent took a bead."""
        if not self.hold.failing:
            self.close()

    def is_every_bead_refused(self, bead: Bead) -> bool:
        """Whether a bead that was refused is one of several in a row, with none accepted in between."""
        others = {one.key for one in self._refused_in_a_row()} - {bead.key}
        return self._may_be_the_agents(bead) and len(others) >= IN_A_ROW - 1

    def refused(self, bead: Bead, note: str) -> Status:
        """Release a bead that was refused: a later retry, or `blocked` after the fifth refusal in a row. Returns its
        status."""
        failures = bead.record.failures + 1
        if failures < BLOCK_AT:
            record = replace(self._delayed(bead, failures), failures=failures)
            # In an outage in which refusals come and go, and are taken back.
            noted = not self.hold.failures or bead.record.outages < NOTED_OUTAGES
            self.store.claims.release(bead, note, record, self.clock(), actor=self.actor, noted=noted)
            return Status.OPEN
        # It stays one of those that were refused in a row: beads may come so slowly that each is blocked before the
        # next one comes.
        refused_at = notes.timestamp(self.clock()) if self._may_be_the_agents(bead) else None
        # A person who opens it again gives it five new tries.
        record = replace(bead.record, failures=0, outages=0, refused_at=refused_at)
        note = f"{note}\n{notes.blocked_after(failures)}"
        self.store.claims.release(bead, note, record, self.clock(), actor=self.actor, status=Status.BLOCKED)
        return Status.BLOCKED

    def job_failed(self, bead: Bead, note: str, *, soon: bool) -> bool:
        """Release a bead whose job failed, with a retry delay. `soon`: within a minute of its start; the third bead in
        a row with such a job holds the agent, and none of them is counted. False when the claim was no longer ours."""
        if soon and self.read().failing and self.hold.active_at(self.clock()):
            self.release_uncounted(bead, note)  # started before the hold
            return True
        if soon and (self.hold.failing or self._is_every_job_failing(bead)):
            self.agent_failed(bead, FAILS_ALL, note, costly=True)
            return True
        # The job stays known: where it was called lost and runs after all, no second one is started.
        failed_at = notes.timestamp(self.clock()) if soon else None
        record = replace(self._delayed(bead, bead.record.jobs), failed_at=failed_at)
        return self.store.claims.release(bead, note, record, self.clock(), actor=self.actor, unchanged=True)

    def agent_failed(self, bead: Bead | None, why: str, note: str = "", *, costly: bool = False) -> int:
        """Hold dispatch, then release the bead without counting it, nor those with which it failed just before. Returns
        the seconds."""
        seconds = self.open(why, costly=costly)
        refused = self._refused_in_a_row()
        for one in (*(one for one in refused if one.record.failures), *self._failed_in_a_row()):
            if one.status == Status.OPEN:
                self._take_back(one)
        if bead is not None:
            if bead.key in {one.key for one in refused}:
                bead = replace(bead, record=replace(bead.record, failures=0))
            self.release_uncounted(bead, note)
        return seconds

    def release_uncounted(self, bead: Bead, note: str, *, unchanged: bool = False) -> bool:
        """Release a bead with which the agent failed. An outage may last a weekend: after a few such failures no other
        is noted. `unchanged`: see Claims.release. False when the claim was no longer ours."""
        before = bead.record
        record = replace(before, outages=before.outages + 1)
        if before.job:  # it was started, and failed at once
            record = replace(record, jobs=max(before.jobs - 1, 0))
        note, noted = _as_outage(note, record.outages, NOTED_JOBS if before.job else NOTED_OUTAGES)
        return self.store.claims.release(
            bead, note, record, self.clock(), actor=self.actor, noted=noted, unchanged=unchanged
        )

    def _take_back(self, bead: Bead) -> None:
        note = notes.job_not_counted() if bead.record.failed_at else notes.not_counted()
        note, noted = _as_outage(note, bead.record.outages + 1, NOTED_OUTAGES)
        self.store.claims.take_back_failure(bead, note, self.clock(), actor=self.actor, noted=noted)

    def _delayed(self, bead: Bead, failures: int) -> DispatchRecord:
        minutes = RETRY_MINUTES[min(max(failures, 1), len(RETRY_MINUTES)) - 1]
        return replace(bead.record, retry_at=notes.timestamp(self.clock() + timedelta(minutes=minutes)))

    def _is_every_job_failing(self, bead: Bead) -> bool:
        others = {one.key for one in self._failed_in_a_row()} - {bead.key}
        return not bead.record.outages and len(others) >= IN_A_ROW - 1

    def _may_be_the_agents(self, bead: Bead) -> bool:
        """Whether that a bead is refused may be the agent's fault: it is the bead's where the agent failed with it
        before, and has taken another one since, which ended the hold."""
        return not bead.record.outages or self.hold.failures > 0

    def _refused_in_a_row(self) -> list[Bead]:
        found = self.store.activity.refused_in_a_row(self.assignee, self.clock())
        return [bead for bead in found if self._may_be_the_agents(bead)]

    def _failed_in_a_row(self) -> list[Bead]:
        return self.store.activity.failed_in_a_row(self.assignee, self.clock(), LASTING)


def _as_outage(note: str, outages: int, last: int) -> tuple[str, bool]:
    """The note of a failure of the agent with a bead, the `outages`th one, and whether it is written on the bead, as
    the first `last` ones are."""
    return f"{note}\n{notes.outage()}" if outages == last else note, outages <= last
