"""beads-dispatch explain: why a bead is, or is not, dispatched; now, or as it was in the past."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from beads_dispatch.agents import Unreachable, slots
from beads_dispatch.agents.beadboard import BeadBoard
from beads_dispatch.bead import Status
from beads_dispatch.cli import history, terminal
from beads_dispatch.cli.history import HistoryEntry
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Blocker, Diagnosis, Snapshot, Store

_GOES = (
    "It goes within a second, at latest with the next tick (2 min); if not, see the feed in `beads-dispatch status`."
)


@dataclass(frozen=True)
class Condition:
    """One of the conditions that all have to hold."""

    name: str
    holds: bool | None  # None: unknown, or not asked because it depends on one that does not hold
    says: str
    mend: str | None = None  # the command that makes it hold


@dataclass(frozen=True)
class Explanation:
    """The answer to why."""

    bead: str
    title: str
    at: datetime
    commit: str | None  # the Dolt commit that was looked at; None for now
    verdict: str
    mend: str | None
    conditions: Sequence[Condition]
    history: Sequence[HistoryEntry]


class NoSuchBead(Exception):
    """The bead is not there; the text says where it was looked for."""


def now(beads: Store, limits: DispatchLimits, bead_id: str, moment: datetime, agent: BeadBoard | None) -> Explanation:
    """Why not now. Raises NoSuchBead, StoreError."""
    found = _found(beads, limits, bead_id, moment, "this database")
    bead = found.bead
    conditions = [
        *_of_the_row(found, limits, moment),
        _ready(found, beads.eligible.blockers(bead_id), moment),
        _switch(beads),
        _hold(beads, moment, bead_id),
        _slots(beads, limits, moment, agent),
    ]
    verdict, mend = _verdict(conditions)
    if bead.assignee == limits.assignee and bead.status == Status.IN_PROGRESS:
        # To open a bead whose agent is at work would start a second one: no command is offered for that.
        verdict, mend, conditions = _at_work(beads, limits, bead_id, moment), None, _without_commands(conditions)
    elif all(condition.holds for condition in conditions):
        verdict = _turn(beads, limits, bead_id, moment)
    steps = history.steps(beads.history.versions(bead_id), beads.history.audit(bead_id))
    return Explanation(bead_id, bead.title, moment, None, verdict, mend, conditions, steps)


def then(
    past: Snapshot, present: Store, limits: DispatchLimits, bead_id: str, moment: datetime, commit: str
) -> Explanation:
    """Why not then. What has no history is unknown, not guessed. Raises NoSuchBead, StoreError."""
    if not past.has_beads():
        raise NoSuchBead(f"commit {commit} is older than bd's tables")
    found = _found(past, limits, bead_id, moment, f"commit {commit}")
    conditions = [
        *_of_the_row(found, limits, moment),
        _ready(found, past.eligible.blockers(bead_id), moment),
        _switch_then(past),
        Condition("hold", None, "unknown: the hold has no history"),
        _slots_then(past, limits, moment),
    ]
    verdict, _ = _verdict(conditions)
    if found.bead.assignee == limits.assignee and found.bead.status == Status.IN_PROGRESS:
        verdict = f"it was at work already: {_job(found)}"
    elif all(condition.holds is not False for condition in conditions):
        unknown = ", ".join(condition.name for condition in conditions if condition.holds is None)
        verdict = "nothing that has a history held it back" + (f"; unknown: {unknown}" if unknown else "")
    steps = [
        step
        for step in history.steps(present.history.versions(bead_id), present.history.audit(bead_id))
        if step.at <= moment
    ]
    # What would have mended it then is no command to run now.
    return Explanation(bead_id, found.bead.title, moment, commit, verdict, None, _without_commands(conditions), steps)


def _without_commands(conditions: Sequence[Condition]) -> list[Condition]:
    return [Condition(condition.name, condition.holds, condition.says) for condition in conditions]


def _found(beads: Store | Snapshot, limits: DispatchLimits, bead_id: str, moment: datetime, where: str) -> Diagnosis:
    found = beads.eligible.diagnose(limits.assignee, moment, bead_id)
    if not found:
        raise NoSuchBead(f"there is no bead {terminal.text(bead_id)} in {where}")
    return found[0]


def _verdict(conditions: Sequence[Condition]) -> tuple[str, str | None]:
    """The first condition that does not hold, in words, and what mends it."""
    for condition in conditions:
        if condition.holds is False:
            return condition.says, condition.mend
    return "nothing holds it back", None


def _of_the_row(found: Diagnosis, limits: DispatchLimits, moment: datetime) -> list[Condition]:
    """What the bead's own row has to be; in the order of store.CONDITIONS."""
    bead, holds = found.bead, found.conditions
    name = shlex.quote(bead.id)
    said = {
        "assignee": f"it is assigned to {terminal.text(bead.assignee) or 'nobody'}"
        + ("" if holds["assignee"] else f", not to {limits.assignee}"),
        "status": f"it is {terminal.text(bead.status)}" + ("" if holds["status"] else ", not open"),
        "acceptance": f"it has {'' if holds['acceptance'] else 'no '}acceptance criteria",
        "template": "it is no template"
        if holds["template"]
        else "it is a template: beads are made from it, and those are dispatched",
        "metadata": "its metadata can hold a claim"
        if holds["metadata"]
        else f"its metadata is a JSON {found.metadata_type.lower()}, and a claim has to be stored in an object",
        "retry": _retry_said(found, moment),
    }
    mend = {
        "assignee": f"bd assign {name} {shlex.quote(limits.assignee)}",
        "status": f"bd reopen {name}" if bead.status == Status.CLOSED else f"bd update {name} --status open",
        "acceptance": f"bd update {name} --acceptance '<what is true when it is done>'",
        # `bd update --metadata` merges, and refuses to merge with what is no object.
        "metadata": "bd sql " + shlex.quote(f"UPDATE issues SET metadata = '{{}}' WHERE id = '{bead.id}'"),
        "retry": f"beads-dispatch dispatch {name}   (tries it now)",
    }
    return [
        Condition(condition, holds[condition], said[condition], None if holds[condition] else mend.get(condition))
        for condition in said
    ]


def _retry_said(found: Diagnosis, moment: datetime) -> str:
    record = found.bead.record
    if found.conditions["retry"]:
        return "no retry time is waited for"
    refused = f"after {record.failures} refusals in a row " if record.failures > 1 else "after a refusal "
    return f"{refused}it waits until {_until(record.retry_at or '', moment)}"


def _until(written: str, moment: datetime) -> str:
    try:
        at = datetime.fromisoformat(written)
        return f"{terminal.moment(at)} ({terminal.span(at - moment)} more)"
    except (ValueError, TypeError):  # people may edit metadata
        return terminal.text(written)


def _ready(found: Diagnosis, obstacles: Sequence[Blocker], moment: datetime) -> Condition:
    """Readiness, with what stands in the way; bd's view has the last word."""
    bead = shlex.quote(found.bead.id)
    reasons = []
    if found.ephemeral:
        reasons.append(("it is ephemeral", f"bd update {bead} --persistent"))
    if found.deferred_until is not None and found.deferred_until > moment:
        until = f"{terminal.moment(found.deferred_until)} ({terminal.span(found.deferred_until - moment)} more)"
        reasons.append((f"it is deferred until {until}", f"bd update {bead} --defer ''"))
    reasons += [_obstacle(one, found.bead.id) for one in obstacles]
    if found.conditions["ready"]:
        return Condition("ready", True, "it is ready: not blocked, not deferred, not ephemeral")
    if reasons:
        return Condition("ready", False, "; ".join(said for said, _ in reasons), reasons[0][1])
    if not found.conditions["status"]:
        return Condition("ready", None, "nothing blocks or defers it; only an open bead is ready")
    return Condition(
        "ready", False, "bd's view ready_issues does not have it, for a reason of its own", "bd ready --explain"
    )


def _obstacle(one: Blocker, bead: str) -> tuple[str, str]:
    name, other = f"{terminal.text(one.bead)} ({terminal.text(one.title, 40)})", shlex.quote(one.bead)
    if one.deferred_until is not None:
        return f"its parent {name} is deferred until {terminal.moment(one.deferred_until)}", (
            f"bd update {other} --defer ''"
        )
    whom = "it" if one.through == bead else f"its ancestor {terminal.text(one.through)}"
    return f"{whom} is blocked by {name}, which is {terminal.text(one.status)}", (
        f"bd close {other}   (or: bd dep remove {shlex.quote(one.through)} {other})"
    )


def _switch(beads: Store) -> Condition:
    said = beads.control.suspension().dispatch
    if said is None:
        return Condition("switch", True, "dispatch is not suspended")
    by_bd = beads.control.configured().dispatch is not None
    # A PingSource's word comes last in the switch, bd's may stand as well.
    mend = "beads-dispatch resume" if by_bd else "kn source ping resume dispatch"
    return Condition("switch", False, f"dispatch is suspended: {terminal.text(said, 120)}", mend)


def _switch_then(past: Snapshot) -> Condition:
    said = past.control.configured().dispatch
    committed = "stop" if said else "nothing"
    return Condition(
        "switch", None, f"unknown: it has no history, but what was committed of bd's config said {committed}"
    )


def _hold(beads: Store, moment: datetime, bead_id: str) -> Condition:
    hold = beads.control.hold()
    if hold.until is None or hold.until <= moment:
        return Condition("hold", True, "dispatching is not held")
    said = (
        f"all dispatching waits until {terminal.moment(hold.until)} ({terminal.span(hold.until - moment)} more) after"
        f" {hold.failures} failures of the agent service: {terminal.text(hold.reason, 200)}"
    )
    return Condition("hold", False, said, f"beads-dispatch dispatch {shlex.quote(bead_id)}   (tries it now)")


def _slots(beads: Store, limits: DispatchLimits, moment: datetime, agent: BeadBoard | None) -> Condition:
    since = moment - timedelta(minutes=limits.slot_silence_minutes)
    busy = [(bead, sign) for bead, sign in beads.activity.in_progress(limits.assignee) if bead.record.claim]
    holding = [bead.id for bead, sign in busy if sign.at > since]
    said = f"{len(holding)} of {limits.max_in_flight} at work" + (f": {', '.join(holding)}" if holding else "")
    mend = f"beads-dispatch release {shlex.quote(holding[0])}   (only if its agent is gone)" if holding else None
    if agent is None:
        more = "; the agent service was not asked, BEADBOARD_URL is not set"
        return Condition("slots", len(holding) < limits.max_in_flight, said + more, mend)
    try:
        free = slots.is_free(beads, agent, limits, moment)
    except Unreachable as exc:
        return Condition(
            "slots", False, f"the agent service does not say whether it is busy: {terminal.text(str(exc), 200)}"
        )
    return Condition(
        "slots", free, f"{said}; the agent service is {'free' if free else 'busy'}", None if free else mend
    )


def _slots_then(past: Snapshot, limits: DispatchLimits, moment: datetime) -> Condition:
    busy = [bead for bead, _ in past.activity.in_progress(limits.assignee) if bead.record.claim]
    said = f"{len(busy)} of our claims in progress then" + (f": {', '.join(bead.id for bead in busy)}" if busy else "")
    if past.has_all_activity():
        since = moment - timedelta(minutes=limits.slot_silence_minutes)
        if past.activity.count_active_claims(limits.assignee, since) >= limits.max_in_flight:
            return Condition("slots", False, f"no slot was free: {said}")
        return Condition("slots", None, f"unknown: {said}; the agent service has no history")
    return Condition("slots", None, f"unknown: {said}; signs of life and the agent service have no history")


def _at_work(beads: Store, limits: DispatchLimits, bead_id: str, moment: datetime) -> str:
    for bead, sign in beads.activity.in_progress(limits.assignee):
        if bead.id == bead_id:
            claimed = f", claimed {bead.record.at}" if bead.record.at else ", without a claim of beads-dispatch"
            job = f", job {terminal.text(bead.record.job)}" if bead.record.job else ""
            job = job or (f", outcome {terminal.text(bead.record.outcome)}" if bead.record.outcome else "")
            silent = f"last sign of life {terminal.span(moment - sign.at)} ago ({terminal.text(sign.what)})"
            return f"it is at work already{claimed}{job}; {silent}"
    return "it is at work already"


def _job(found: Diagnosis) -> str:
    record = found.bead.record
    return (
        f"claimed {record.at}" + (f", job {terminal.text(record.job)}" if record.job else "")
        if record.at
        else ("in progress without a claim of beads-dispatch")
    )


def _turn(beads: Store, limits: DispatchLimits, bead_id: str, moment: datetime) -> str:
    ahead = [bead.id for bead in beads.eligible.first(limits.assignee, moment, 10_000)]
    place = ahead.index(bead_id) if bead_id in ahead else len(ahead)
    if not place:
        return "nothing holds it back: it is the next to go"
    before = ", ".join(ahead[: min(place, 3)]) + (", …" if place > 3 else "")
    return f"nothing holds it back: it is number {place + 1} of those that wait, after {before}"


def lines(found: Explanation, paint: terminal.Paint) -> list[str]:
    """The explanation as people read it."""
    when = f"As of {terminal.moment(found.at)} (commit {found.commit})" if found.commit else "Now"
    sign = {True: ("yes", "green"), False: ("NO", "red"), None: ("?", "yellow")}
    width = max(len(condition.name) for condition in found.conditions)
    written = [
        f"{paint(found.bead, 'bold')}  {terminal.text(found.title)}",
        "",
        f"{when}: {paint(found.verdict, 'bold')}.",
        *([f"  mend it with: {paint(found.mend, 'bold')}"] if found.mend else []),
        *([f"  {_GOES}"] if not found.commit and all(condition.holds for condition in found.conditions) else []),
        "",
        "Every one of these has to hold:",
    ]
    for condition in found.conditions:
        word, colour = sign[condition.holds]
        written.append(f"  {paint(f'{word:<3}', colour)}  {condition.name:<{width}}  {condition.says}")
        if condition.mend and condition.mend != found.mend:
            written.append(f"       {'':<{width}}  {paint('mend it with: ' + condition.mend, 'dim')}")
    written += ["", "What happened:"]
    written += [_step(step) for step in found.history] or ["  nothing that Dolt's history has"]
    return written


def _step(step: HistoryEntry) -> str:
    said = f"  {terminal.moment(step.at)}  {terminal.text(step.what, 120)}"
    by = f", by {terminal.text(step.actor)}" if step.actor else ""
    # Two of our notes say no more than the step does.
    detail = "" if step.detail.startswith(("auto-dispatcher claimed at", "dispatched: job=")) else step.detail
    return said + by + (f"\n{'':28}{terminal.text(detail, 300)}" if detail else "")
