"""One reap pass: take back what a crash left between two steps of dispatch, then block what went silent."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from beads import log, notes, store
from beads.settings import Rules

logger = log.get("reap")


@dataclass(frozen=True)
class ReapResult:
    """The ids of the beads that this pass changed, and of those that changed under it and were left alone."""

    suspended: str | None = None
    reopened: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)


def run_once(beads: store.Store, rules: Rules, now: datetime) -> ReapResult:
    """One pass at the moment `now`. Raises StoreError when Dolt cannot be reached."""
    beads.refresh()
    suspended = beads.switch().reap
    if suspended:
        return ReapResult(suspended=suspended)
    result = ReapResult()
    for bead in beads.abandoned(rules.assignee, now - timedelta(seconds=rules.claim_timeout_seconds)):
        note = notes.claim_expired(rules.claim_timeout_seconds)
        reopened = beads.roll_back(bead, note, bead.record, now, actor=store.REAPER, unchanged=True)
        (result.reopened if reopened else result.left_alone).append(bead.id)
    before = now - timedelta(minutes=rules.reap_after_minutes)
    for bead in beads.stuck(rules.assignee, before):
        if beads.switch().reap:
            break
        silent = int((now - (bead.last_progress or bead.updated_at)).total_seconds() // 60)
        note = notes.no_progress(silent, rules.reap_after_minutes)
        blocked = beads.block_stuck(bead, before, note, now)
        (result.blocked if blocked else result.left_alone).append(bead.id)
    return result
