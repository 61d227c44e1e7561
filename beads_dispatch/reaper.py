"""One reap pass: release orphaned claims, then block beads that are inactive."""

from dataclasses import dataclass, field
from datetime import datetime

from beads_dispatch import notes
from beads_dispatch.bead import Bead
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import REAPER, Snapshot, Store


@dataclass(frozen=True)
class ReapResult:
    """The ids of the beads that this pass changed, and of those that changed under it and were left alone."""

    suspended: str | None = None
    reopened: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """The pass as one line: `reopened 1 (x-3), blocked 1 (x-4)`."""
        if self.suspended:
            return f"suspended: {self.suspended}"
        done = {"reopened": self.reopened, "blocked": self.blocked, "left alone": self.left_alone}
        return (
            ", ".join(f"{kind} {len(ids)} ({', '.join(ids)})" for kind, ids in done.items() if ids) or "nothing to reap"
        )


def orphaned(store: Store, limits: DispatchLimits, now: datetime) -> list[Bead]:
    """The beads whose claim a pass would release. Raises StoreError."""
    return store.activity.orphaned_claims(limits.assignee, now - limits.claim_timeout)


def inactive(store: Store | Snapshot, limits: DispatchLimits, now: datetime) -> list[Bead]:
    """The beads that a pass would block, those with an orphaned claim among them. Raises StoreError."""
    return store.activity.inactive(limits.assignee, now - limits.reap_after, only_ours=limits.reap_only_ours)


def due_at(bead: Bead, limits: DispatchLimits) -> datetime | None:
    """When a bead in progress is reaped if it stays inactive: an orphaned claim soon, all else later, or never."""
    if limits.reap_only_ours and not bead.record.claim:
        return None
    last_activity = bead.last_activity or bead.updated_at
    return last_activity + (limits.claim_timeout if bead.record.is_unsent else limits.reap_after)


def run_once(store: Store, limits: DispatchLimits, now: datetime) -> ReapResult:
    """One pass at the moment `now`. Raises StoreError when Dolt cannot be reached."""
    store.refresh()
    suspended = store.control.suspension().reap
    if suspended:
        return ReapResult(suspended=suspended)
    result = ReapResult()
    for bead in orphaned(store, limits, now):
        note = notes.claim_expired(limits.claim_timeout_seconds)
        reopened = store.claims.release(bead, note, bead.record, now, actor=REAPER, unchanged=True)
        (result.reopened if reopened else result.left_alone).append(bead.id)
    for bead in inactive(store, limits, now):
        if store.control.suspension().reap:
            break
        minutes = int((now - (bead.last_activity or bead.updated_at)).total_seconds() // 60)
        note = notes.no_progress(minutes, limits.reap_after_minutes)
        blocked = store.claims.block_inactive(bead, now - limits.reap_after, note, now)
        (result.blocked if blocked else result.left_alone).append(bead.id)
    return result
