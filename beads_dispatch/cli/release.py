"""beads-dispatch release: end our claim on a bead, in a person's name."""

import argparse
from dataclasses import replace

from beads_dispatch import notes
from beads_dispatch.bead import Status
from beads_dispatch.cli import connection
from beads_dispatch.cli.context import CommandError, Context, now
from beads_dispatch.cli.dispatch import Done
from beads_dispatch.cli.explain import NoSuchBead

_DESCRIPTION = """\
Ends the claim of beads-dispatch on a bead in progress and opens the bead again, with a note that names who did it. A
bead that is closed or blocked stays so. The agent's job, if it runs, is not stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    parser.add_argument("id", help="the bead")
    parser.add_argument("--actor", help="who does it (BEADS_ACTOR, git's user.name, USER)")


def run(context: Context) -> int:
    """Release, or refuse with what to do instead. Raises CommandError, SettingsError, StoreError."""
    beads, bead_id = context.store, context.arguments.id
    bead = beads.claims.read_back(bead_id)
    if bead is None:
        raise NoSuchBead(bead_id, "this database")
    if bead.status != Status.IN_PROGRESS:
        raise CommandError(f"{bead_id} is {bead.status}: only a bead in progress has a claim to release.")
    if bead.record.claim is None:
        raise CommandError(
            f"{bead_id} is in progress without a claim of beads-dispatch. `bd update {bead_id} --status open` opens it."
        )
    actor = connection.actor(context.env, context.arguments.actor)
    record = replace(bead.record, job=None, outcome=None)
    if not beads.claims.release(bead, notes.released(actor), record, now(), actor=actor):
        raise CommandError(f"{bead_id} changed at this moment; check it with `beads-dispatch explain {bead_id}`.")
    job = f" Job {bead.record.job} may still run: this does not stop it." if bead.record.job else ""
    detail = (
        f"{bead_id} is open again.{job} It is still assigned to {bead.assignee} and will be dispatched again;"
        f" `bd assign {bead_id} ''` prevents that."
    )
    context.show(Done(bead_id, detail, bead.record.job), lambda done: [done.detail])
    return 0
