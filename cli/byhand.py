"""beads-dispatch dispatch and release: what a person does to one bead."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from beads import notes, slots
from beads.agent import AgentService, Unreachable
from beads.bead import Status
from beads.settings import Rules
from beads.store import Store
from cli import explain, terminal


class Refused(Exception):
    """It was not done; the text says why, and what to do instead."""


@dataclass(frozen=True)
class Done:
    """What was done to a bead; `job` where the agent service has one."""

    bead: str
    message: str
    job: str | None = None


def dispatch(
    beads: Store,
    agent: AgentService,
    rules: Rules,
    bead_id: str,
    clock: Callable[[], datetime],
    say: Callable[[str], None],
) -> Done:
    """Dispatch one bead now, with the claim, read-back, POST and record of the dispatch function.

    Whoever does it by hand does not wait for switch, hold or retry time; a slot has to be free, and what the bead has
    to be it has to be. Raises Refused, NoSuchBead, StoreError.
    """
    # Loaded here: no other command needs the function's core.
    from functions.dispatch.dispatcher import Dispatched, Dispatcher, describe

    found = explain.now(beads, rules, bead_id, clock(), None)
    for gate in found.gates:
        if gate.holds is not False or gate.name == "slots":
            continue
        if gate.name not in ("switch", "hold", "retry"):
            raise Refused(f"{bead_id} is not dispatched: {gate.says}. Mend it with: {gate.mend or 'nothing'}")
        say(f"{gate.says}; dispatching by hand all the same")
    try:
        if not slots.free(beads, agent, rules, clock()):
            raise Refused(f"{bead_id} is not dispatched: no slot is free, see `beads-dispatch status`.")
    except Unreachable as exc:
        raise Refused(
            f"{bead_id} is not dispatched: the agent service does not say whether it is busy ({exc})."
        ) from None
    (bead,) = (one.bead for one in beads.examined(rules.assignee, clock(), bead_id))
    outcome = Dispatcher(beads, agent, rules, clock, lambda seconds: None).by_hand(bead)
    if not isinstance(outcome, Dispatched):
        raise Refused(describe(outcome))
    return Done(bead_id, describe(outcome), outcome.job)


def release(beads: Store, bead_id: str, actor: str, now: datetime) -> Done:
    """Give back a claim: the bead is open again, with a note that says who did it. A bead that is no longer in
    progress stays what it is. Raises Refused, NoSuchBead, StoreError."""
    bead = beads.read_back(bead_id)
    if bead is None:
        raise explain.NoSuchBead(f"there is no bead {terminal.text(bead_id)} in this database")
    if bead.status != Status.IN_PROGRESS:
        raise Refused(f"{bead_id} is {terminal.text(bead.status)}: only a bead in progress has a claim to give back.")
    if bead.record.claim is None:
        raise Refused(
            f"{bead_id} is in progress without a claim of beads-dispatch. `bd update {bead_id} --status open` opens it."
        )
    record = replace(bead.record, job=None, outcome=None)
    if not beads.roll_back(bead, notes.released(actor), record, now, actor=actor):
        raise Refused(f"{bead_id} changed at this moment; look again with `beads-dispatch explain {bead_id}`.")
    running = f" Job {terminal.text(bead.record.job)} may still run: nobody told it to stop." if bead.record.job else ""
    return Done(
        bead_id,
        f"{bead_id} is open again.{running} It is still assigned to {terminal.text(bead.assignee)} and will be"
        f" dispatched again; `bd assign {bead_id} ''` prevents that.",
    )
