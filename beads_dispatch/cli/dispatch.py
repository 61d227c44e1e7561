"""beads-dispatch dispatch: a person dispatches one bead now."""

import argparse
from dataclasses import dataclass

from beads_dispatch import agents, settings
from beads_dispatch.agents import Unreachable
from beads_dispatch.cli import conditions, explain, terminal
from beads_dispatch.cli.context import CommandError, Context, add_limits, now
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import Dispatched, NoSlot, describe

_DESCRIPTION = """\
Claims the bead, starts a job for it at the agent's backend (BEADBOARD_URL) and records the job, as the dispatch
function does. Suspension, hold and retry delay do not stop it. A slot has to be free, and the bead has to be assigned,
open and ready, with acceptance criteria.
"""

_OVERRIDDEN = ("suspension", "hold", "retry")


@dataclass(frozen=True)
class Done:
    """What was done to a bead."""

    bead: str
    detail: str
    job: str | None  # the agent's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    parser.add_argument("id", help="the bead")
    add_limits(parser, "--assignee", "--max-in-flight", "--slot-silence-minutes")


def run(context: Context) -> int:
    """Dispatch the bead, or refuse with the reason. Raises CommandError, SettingsError, StoreError."""
    beads, bead_id = context.store, context.arguments.id
    bead = beads.claims.read_back(bead_id)
    agent = context.agent(bead.assignee if bead else None)
    if agent.backend is None:
        raise settings.SettingsError(settings.NO_BACKEND)
    limits, backend = agent.limits, agents.backend(agent.backend)
    found = explain.diagnose(beads, limits, bead_id, now(), "this database")
    for condition in conditions.now(beads, limits, found, now(), None):
        if condition.holds is not False or condition.name == "slots":
            continue
        if condition.name not in _OVERRIDDEN:
            fix = f". To fix: {condition.fix}" if condition.fix else ""
            raise CommandError(f"{bead_id} is not dispatched: {condition.detail}{fix}")
        terminal.warn(f"{condition.detail}; dispatched by hand all the same")
    try:
        outcome = Dispatcher(beads, backend, limits, now, lambda seconds: None).dispatch_one(found.bead)
    except Unreachable as exc:
        raise CommandError(f"{bead_id} is not dispatched: it is unknown whether the agent is busy ({exc}).") from None
    if isinstance(outcome, NoSlot):
        raise CommandError(f"{bead_id} is not dispatched: no slot is free, see `beads-dispatch status`.")
    if not isinstance(outcome, Dispatched):
        raise CommandError(describe(outcome))
    context.show(Done(bead_id, describe(outcome), outcome.job), lambda done: [done.detail])
    return 0
