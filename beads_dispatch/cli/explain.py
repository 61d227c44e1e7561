"""beads-dispatch explain: why a bead is, or is not, dispatched; now, or as it was in the past."""

import argparse
import contextlib
import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch import agents
from beads_dispatch.agents import Backend, Phase, Unreachable
from beads_dispatch.bead import Bead, Status
from beads_dispatch.cli import conditions, history, terminal
from beads_dispatch.cli.conditions import Condition
from beads_dispatch.cli.context import WHEN, CommandError, Context, add_limits
from beads_dispatch.cli.context import now as present
from beads_dispatch.cli.history import HistoryEntry
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Diagnosis, Snapshot, Store, Wisp

_DESCRIPTION = f"""\
Names the first condition that keeps a bead from being dispatched and the command that fixes it, then all conditions,
then what happened to the bead. With --as-of it answers for a moment of the past; what has no history is called
unknown: the hold, suspension by a PingSource, and since bd 1.3.0 the activity.
{WHEN}"""

_ELIGIBLE = (
    "It is dispatched within a second, at latest with the next tick (2 min); if not, see the feed in"
    " `beads-dispatch status`."
)
_ELIGIBLE_AT_TICK = "Until that is fixed it waits for a tick (2 min), which goes to dispatch where no feeder answers."
_TRIES = 5  # to read a bead and its conditions at one moment
_QUEUE_LIMIT = 100  # beads among which its place is looked for: 10,000 take some seconds


@dataclass(frozen=True)
class Explanation:
    """The answer to why."""

    bead: str
    title: str
    at: datetime
    commit: str | None  # the Dolt commit of the answer; None for now
    verdict: str
    fix: str | None
    conditions: Sequence[Condition]
    history: Sequence[HistoryEntry]
    feeder: str = ""  # what is wrong with the feeder now
    job: str = ""  # how its last job is, by the backend; empty where that cannot tell


class NoSuchBead(CommandError):
    """The bead is not there, or where nothing is dispatched from."""

    def __init__(self, bead_id: str, where: str, wisp: Wisp | None = None) -> None:
        super().__init__(f"there is no bead {bead_id} in {where}" if wisp is None else _outside(wisp))


def _outside(wisp: Wisp) -> str:
    """Where a bead without history is, and the command that moves it."""
    kind, name = "ephemeral" if wisp.ephemeral else "without history", shlex.quote(wisp.bead)
    move = f"bd promote {name}" if wisp.ephemeral else f"bd update {name} --history"
    fix = f"To fix: {move}" if wisp.movable else "This version of bd has no command that moves it; make it anew"
    return f"{wisp.bead} is not dispatched: it is {kind}, so bd keeps it in the table wisps, not in issues. {fix}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    parser.add_argument("id", help="the bead")
    parser.add_argument("--as-of", metavar="WHEN", help="a Dolt commit, or a moment (see above)")
    add_limits(parser, "--assignee", "--max-in-flight", "--slot-silence-minutes")


def run(context: Context) -> int:
    """Print the explanation. Raises CommandError, SettingsError, StoreError."""
    bead_id = context.arguments.id
    bead = context.store.claims.read_back(bead_id)
    agent = context.agent(bead.assignee if bead else None)
    if context.arguments.as_of is None:
        backend = agents.backend(agent.backend) if agent.backend else None
        found = now(context.store, agent.limits, bead_id, present(), backend, list(context.agents))
    else:
        commit, moment = context.at(context.arguments.as_of)
        with contextlib.closing(Snapshot(context.dolt, commit.hash)) as past:
            found = then(past, context.store, agent.limits, bead_id, moment, commit.hash)
    context.show(found, lines)
    return 0


def now(
    beads: Store,
    limits: DispatchLimits,
    bead_id: str,
    moment: datetime,
    agent: Backend | None,
    names: Sequence[str] = (),
    *,
    with_history: bool = True,
) -> Explanation:
    """Why not now; `names`: of all agents. Its history takes 0.15 ms for each commit of the database's. Raises
    NoSuchBead, StoreError."""
    for _ in range(_TRIES):
        found = diagnose(beads, limits, bead_id, moment, "this database")
        reasons = conditions.now(beads, limits, found, moment, agent, names)
        if diagnose(beads, limits, bead_id, moment, "this database").bead == found.bead:
            break  # otherwise it was claimed meanwhile, and would seem to occupy the slot that it waits for
    bead = found.bead
    steps = history.entries(beads.history.versions(bead_id), beads.history.audit(bead_id)) if with_history else []
    verdict, fix = _first_unmet(reasons)
    if bead.status == Status.CLOSED:
        verdict, fix, reasons = _done(steps), None, conditions.without_fixes(reasons)
    elif _in_progress(bead, limits):
        # To open a bead that an agent works on would start a second job: no command is offered for that.
        verdict, fix, reasons = _progress(beads, bead, moment), None, conditions.without_fixes(reasons)
    elif verdict is None:
        verdict = _place(beads, limits, bead_id, moment)
    feeder = "" if bead.status == Status.CLOSED else conditions.feeder_problem(beads.feeders.find())
    job = _job(bead, agent)
    return Explanation(bead_id, bead.title, moment, None, verdict or "", fix, reasons, steps, feeder, job)


def then(
    past: Snapshot, present: Store, limits: DispatchLimits, bead_id: str, moment: datetime, commit: str
) -> Explanation:
    """Why not then. What has no history is unknown, not guessed. Raises CommandError, StoreError."""
    if not past.has_beads():
        raise CommandError(f"commit {commit} is older than bd's tables")
    found = diagnose(past, limits, bead_id, moment, f"commit {commit}")
    versions = history.entries(present.history.versions(bead_id), present.history.audit(bead_id))
    steps = [step for step in versions if step.at <= moment]
    reasons = conditions.then(past, limits, found, moment)
    verdict, _ = _first_unmet(reasons)
    if found.bead.status == Status.CLOSED:
        verdict = _done(steps)
    elif _in_progress(found.bead, limits):
        verdict = f"it was in progress already{_claim(found.bead)}"
    elif verdict is None:
        unknown = ", ".join(one.name for one in reasons if one.holds is None)
        verdict = "every condition that has a history held" + (f"; unknown: {unknown}" if unknown else "")
    # A command that would have fixed it then is not one to run now.
    return Explanation(bead_id, found.bead.title, moment, commit, verdict, None, reasons, steps)


def diagnose(beads: Store | Snapshot, limits: DispatchLimits, bead_id: str, moment: datetime, where: str) -> Diagnosis:
    """The bead and its conditions in Dolt. Raises NoSuchBead, StoreError."""
    found = beads.eligible.diagnose(limits.assignee, moment, bead_id)
    if not found:
        raise NoSuchBead(bead_id, where, beads.eligible.wisp(bead_id))
    return found[0]


def _first_unmet(found: Sequence[Condition]) -> tuple[str | None, str | None]:
    """The first condition that does not hold, in words, and its fix; None where all hold."""
    return next(((one.detail, one.fix) for one in found if one.holds is False), (None, None))


def _job(bead: Bead, backend: Backend | None) -> str:
    if backend is None or not backend.tells_jobs or not bead.record.job:
        return ""
    try:
        state = backend.state(bead.record.job)
    except Unreachable as exc:
        return f"{terminal.cut(bead.record.job, 80)} cannot be asked for: {terminal.cut(str(exc), 120)}"
    words = {Phase.RUNNING: "runs", Phase.SUCCEEDED: "ended well", Phase.FAILED: "failed", Phase.UNKNOWN: "is unknown"}
    why = f"; {terminal.cut(state.why, 300)}" if state.why else ""
    return f"{terminal.cut(bead.record.job, 80)} {words[state.phase]}{why}"


def _done(steps: Sequence[HistoryEntry]) -> str:
    since = list(itertools.takewhile(lambda step: step.status == Status.CLOSED, reversed(steps)))
    if not since:  # not in a Dolt commit yet
        return "it is done: closed"
    return f"it is done: closed {terminal.moment(since[-1].at)}" + (f" by {since[-1].actor}" if since[-1].actor else "")


def _in_progress(bead: Bead, limits: DispatchLimits) -> bool:
    return bead.assignee == limits.assignee and bead.status == Status.IN_PROGRESS


def _claim(bead: Bead) -> str:
    """`, claimed 2026-07-15T09:30:00Z, job 4711`."""
    record = bead.record
    state = f", job {record.job}" if record.job else f", outcome {record.outcome}" if record.outcome else ""
    return (f", claimed {record.at}" if record.at else ", without a claim of beads-dispatch") + state


def _progress(beads: Store, bead: Bead, moment: datetime) -> str:
    activity = next(
        (activity for one, activity in beads.activity.in_progress(bead.assignee, moment) if one.id == bead.id), None
    )
    last = f"; last activity {terminal.span(moment - activity.at)} ago ({activity.what})" if activity else ""
    return f"it is in progress already{_claim(bead)}{last}"


def _place(beads: Store, limits: DispatchLimits, bead_id: str, moment: datetime) -> str:
    queue = [bead.id for bead in beads.eligible.first(limits.assignee, moment, _QUEUE_LIMIT)]
    if len(queue) == _QUEUE_LIMIT and bead_id not in queue:
        return f"it is eligible: {_QUEUE_LIMIT} or more are before it in the queue, the first is {queue[0]}"
    place = queue.index(bead_id) if bead_id in queue else len(queue)
    if not place:
        return "it is eligible: the first in the queue"
    before = ", ".join(queue[: min(place, 3)]) + (", …" if place > 3 else "")
    return f"it is eligible: number {place + 1} in the queue, after {before}"


def lines(found: Explanation) -> list[terminal.Line]:
    """The explanation as people read it."""
    when = f"As of {terminal.moment(found.at)} (commit {found.commit})" if found.commit else "Now"
    eligible = not found.commit and all(one.holds for one in found.conditions)
    written: list[terminal.Line] = [
        (Styled(found.bead, "bold"), f"  {terminal.cut(found.title)}"),
        "",
        *([f"Its last job {found.job}."] if found.job else []),
        *([(Styled(f"{found.feeder[0].upper()}{found.feeder[1:]}.", "red"),)] if found.feeder else []),
        (f"{when}: ", Styled(found.verdict, "bold"), "."),
        *([("  fix it with: ", Styled(found.fix, "bold"))] if found.fix else []),
        *([f"  {_ELIGIBLE_AT_TICK if found.feeder else _ELIGIBLE}"] if eligible else []),
        "",
        "All of these have to hold:",
    ]
    width = max(len(one.name) for one in found.conditions)
    for one in found.conditions:
        word, style = {True: ("yes", "green"), False: ("NO ", "red"), None: ("?  ", "yellow")}[one.holds]
        written.append(("  ", Styled(word, style), f"  {one.name:<{width}}  {one.detail}"))
        if one.fix and one.fix != found.fix:
            written.append((f"       {'':<{width}}  ", Styled(f"fix it with: {one.fix}", "dim")))
    written += ["", "What happened:"]
    written += [line for step in found.history for line in _step(step)] or ["  nothing that is in Dolt's history"]
    return written


def _step(step: HistoryEntry) -> list[str]:
    by = f", by {terminal.cut(step.actor)}" if step.actor else ""
    line = f"  {terminal.moment(step.at)}  {terminal.cut(step.what, 120)}{by}"
    if not step.detail or history.repeats_step(step.detail):
        return [line]
    return [line, f"{'':28}{terminal.cut(step.detail, 300)}"]
