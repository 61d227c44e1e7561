"""Whether another job of an agent may be started: asked by dispatch, and by the feeder at a tick."""

from datetime import datetime

from beads_dispatch import agents, notes
from beads_dispatch.bead import POSTING, Bead
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Store


def is_free(store: Store, backend: agents.Backend, limits: DispatchLimits, now: datetime) -> bool:
    """Whether the agent has fewer jobs than its `max_in_flight`.

    Where the backend counts, jobs that others started are included; a job whose POST is under way may not be counted by
    it yet. Elsewhere our claims count.

    Raises agents.Unreachable when the agent gives no answer, StoreError when Dolt does not.
    """
    # In this order: a job that is recorded meanwhile is counted twice, and in the other order not at all.
    claims = store.activity.claims(limits.assignee)
    load = backend.load()
    if load.busy:
        return False
    if load.running is not None:
        begun = notes.timestamp(now - limits.claim_timeout)
        posting = [
            each for each in claims if each.record.outcome == POSTING and (each.record.claimed_at or "") >= begun
        ]
        return load.running + len(posting) < limits.max_in_flight
    return sum(_is_taken(each, backend, now - limits.slot_silence) for each in claims) < limits.max_in_flight


def runs(backend: agents.Backend, bead: Bead) -> bool:
    """Whether the backend knows that the bead's last job runs. Raises Unreachable."""
    if not backend.tells_jobs or not bead.record.job:
        return False
    return backend.state(bead.record.job).phase is agents.Phase.RUNNING


def _is_taken(claimed: Bead, backend: agents.Backend, active_since: datetime) -> bool:
    """Whether a bead in progress takes a slot: its job may be running, it had activity lately, or its backend knows
    that it runs."""
    if claimed.record.outcome or (claimed.last_activity or claimed.updated_at) > active_since:
        return True
    return runs(backend, claimed)
