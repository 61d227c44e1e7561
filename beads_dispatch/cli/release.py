"""beads-dispatch release: end our claim on a bead, or on all whose outcome is unknown, in a person's name."""

import argparse
from collections.abc import Iterable
from dataclasses import replace

from beads_dispatch import notes, reaper
from beads_dispatch.bead import POSTING, UNKNOWN, Bead, Status
from beads_dispatch.cli import connection, terminal, time_arguments
from beads_dispatch.cli.context import CommandError, Context, add_limits, now
from beads_dispatch.cli.dispatch import Done
from beads_dispatch.cli.explain import NoSuchBead

_DESCRIPTION = """\
Ends the claim of beads-dispatch on a bead in progress and opens the bead again, with a note that names who did it. A
bead that is closed or blocked stays so. The agent's job, if it runs, is not stopped.

After an outage of the agent: --outcome unknown lists the beads whose POST got no usable answer, those among them that
reap has blocked meanwhile and nobody has changed since, and with --yes opens them all again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", help="the bead")
    which.add_argument("--outcome", choices=[UNKNOWN], help="all beads with this outcome, instead of one")
    parser.add_argument("--since", metavar="WHEN", default="1d", help="of these, those claimed since (1d)")
    parser.add_argument("--yes", action="store_true", help="release what --outcome lists")
    parser.add_argument("--actor", help="who does it (BEADS_ACTOR, git's user.name, USER)")
    add_limits(parser, "--assignee")


def run(context: Context) -> int:
    """Release, or refuse with what to do instead. Raises CommandError, SettingsError, StoreError."""
    if context.arguments.outcome:
        return _run_bulk(context)
    beads, bead_id = context.store, context.arguments.id
    bead = beads.claims.read_back(bead_id)
    if bead is None:
        raise NoSuchBead(bead_id, "this database")
    if bead.status != Status.IN_PROGRESS:
        fix = f" `bd update {bead_id} --status open` opens it." if bead.status == Status.BLOCKED else ""
        raise CommandError(f"{bead_id} is {bead.status}: only a bead in progress has a claim to release.{fix}")
    if bead.record.claim is None:
        raise CommandError(
            f"{bead_id} is in progress without a claim of beads-dispatch. `bd update {bead_id} --status open` opens it."
        )
    if not _release(context, bead):
        raise CommandError(f"{bead_id} changed at this moment; check it with `beads-dispatch explain {bead_id}`.")
    job = f" Job {bead.record.job} may still run: this does not stop it." if bead.record.job else ""
    detail = (
        f"{bead_id} is open again.{job} It is still assigned to {bead.assignee} and will be dispatched again;"
        f" `bd assign {bead_id} ''` prevents that."
    )
    context.show(Done(bead_id, detail, bead.record.job), lambda done: [done.detail])
    return 0


def _run_bulk(context: Context) -> int:
    """A line for each bead; nothing is changed without --yes."""
    found = list(_unresolved(context))
    for bead in found:
        blocked = ", blocked by reap" if bead.status == Status.BLOCKED else ""
        detail = f"{bead.id}, claimed {bead.record.at}{blocked}: would be open again"
        if context.arguments.yes:
            released = _release(context, bead)
            detail = f"{bead.id} is open again" if released else f"{bead.id} changed at this moment, and stays as it is"
        context.show(Done(bead.id, detail, None), lambda done: [done.detail], indent=None)
    if not context.arguments.json:
        more = " (their jobs may run: the agent may have got them); --yes releases them" if found else ""
        count = f"with an unknown outcome: {len(found)}"
        terminal.write(count + ("" if context.arguments.yes else more), context.given)
    return 0


def _unresolved(context: Context) -> Iterable[Bead]:
    """The beads whose job may run, for all that is known: in progress, or blocked by reap."""
    moment, limits, activity = now(), context.limits, context.store.activity
    since = time_arguments.parse(context.arguments.since, moment)
    if since is None:
        raise CommandError(
            f"--since {context.arguments.since!r} is not a moment such as '2026-07-15 09:30' or 2h (ago)"
        )
    for bead, _ in activity.in_progress(limits.assignee, moment):
        # A POST that has begun may be under way: it is lost when its time has passed.
        lost = bead.record.outcome == POSTING and reaper.is_unresolved(bead, limits, moment)
        unknown = bead.record.outcome == UNKNOWN or lost
        if bead.record.claim and unknown and (bead.record.at or "") >= notes.timestamp(since):
            yield bead
    yield from activity.reaped_unresolved(limits.assignee, since)


def _release(context: Context, bead: Bead) -> bool:
    actor = connection.actor(context.env, context.arguments.actor)
    record = replace(bead.record, job=None, outcome=None)
    unchanged = bead.status == Status.BLOCKED  # no claim of ours protects it
    return context.store.claims.release(bead, notes.released(actor), record, now(), actor=actor, unchanged=unchanged)
