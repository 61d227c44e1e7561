"""beads-dispatch dispatch and release: what a person does to one bead."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from beads_dispatch import notes
from beads_dispatch.agents import Unreachable, slots
from beads_dispatch.agents.beadboard import BeadBoard
from beads_dispatch.bead import Status
from beads_dispatch.cli import explain, terminal
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Store


class NotDone(Exception):
    """It was not done; the text says why, and what to do instead."""


@dataclass(frozen=True)
class Done:
    """What was done to a bead; `job` where the agent service has one."""

    bead: str
    message: str
    job: str | None = None


def dispatch(
    beads: Store,
    agent: BeadBoard,
    limits: DispatchLimits,
    bead_id: str,
    clock: Callable[[], datetime],
    say: Callable[[str], None],
) -> Done:
    """Dispatch one bead now, with the claim, read-back, POST and record of the dispatch function.

    Whoever does it by hand does not wait for switch, hold or retry time; a slot has to be free, and what the bead has
    to be it has to be. Raises NotDone, NoSuchBead, StoreError.
    """
    # Loaded here: no other command needs the function's core.
    from beads_dispatch.dispatcher import Dispatcher
    from beads_dispatch.outcomes import Dispatched, describe

    found = explain.now(beads, limits, bead_id, clock(), None)
    for condition in found.conditions:
        if condition.holds is not False or condition.name == "slots":
            continue
        if condition.name not in ("switch", "hold", "retry"):
            raise NotDone(f"{bead_id} is not dispatched: {condition.says}. Mend it with: {condition.mend or 'nothing'}")
        say(f"{condition.says}; dispatching by hand all the same")
    try:
        if not slots.is_free(beads, agent, limits, clock()):
            raise NotDone(f"{bead_id} is not dispatched: no slot is free, see `beads-dispatch status`.")
    except Unreachable as exc:
        raise NotDone(
            f"{bead_id} is not dispatched: the agent service does not say whether it is busy ({exc})."
        ) from None
    (bead,) = (one.bead for one in beads.eligible.diagnose(limits.assignee, clock(), bead_id))
    outcome = Dispatcher(beads, agent, limits, clock, lambda seconds: None).dispatch_one(bead)
    if not isinstance(outcome, Dispatched):
        raise NotDone(describe(outcome))
    return Done(bead_id, describe(outcome), outcome.job)


def release(beads: Store, bead_id: str, actor: str, now: datetime) -> Done:
    """Give back a claim: the bead is open again, with a note that says who did it. A bead that is no longer in
    progress stays what it is. Raises NotDone, NoSuchBead, StoreError."""
    bead = beads.claims.read_back(bead_id)
    if bead is None:
        raise explain.NoSuchBead(f"there is no bead {terminal.text(bead_id)} in this database")
    if bead.status != Status.IN_PROGRESS:
        raise NotDone(f"{bead_id} is {terminal.text(bead.status)}: only a bead in progress has a claim to give back.")
    if bead.record.claim is None:
        raise NotDone(
            f"{bead_id} is in progress without a claim of beads-dispatch. `bd update {bead_id} --status open` opens it."
        )
    record = replace(bead.record, job=None, outcome=None)
    if not beads.claims.release(bead, notes.released(actor), record, now, actor=actor):
        raise NotDone(f"{bead_id} changed at this moment; look again with `beads-dispatch explain {bead_id}`.")
    running = f" Job {terminal.text(bead.record.job)} may still run: nobody told it to stop." if bead.record.job else ""
    return Done(
        bead_id,
        f"{bead_id} is open again.{running} It is still assigned to {terminal.text(bead.assignee)} and will be"
        f" dispatched again; `bd assign {bead_id} ''` prevents that.",
    )
