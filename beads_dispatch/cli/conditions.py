"""The conditions that a bead has to meet to be dispatched: each in words, with the command that fixes it."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch import notes
from beads_dispatch.agents import Backend, Unreachable, slots
from beads_dispatch.bead import Status
from beads_dispatch.cli import terminal
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import CHILD, DEFERRED_PARENT, Blocker, Diagnosis, FeederReport, Snapshot, Store
from beads_dispatch.suspension import REPLICA, REPLICA_REASON


@dataclass(frozen=True)
class Condition:
    """One of the conditions that all have to hold."""

    name: str
    holds: bool | None  # None: unknown, or it depends on one that does not hold
    detail: str
    fix: str | None = None  # the command that makes it hold


def now(
    beads: Store,
    limits: DispatchLimits,
    found: Diagnosis,
    moment: datetime,
    agent: Backend | None,
    names: Sequence[str] = (),
) -> list[Condition]:
    """All conditions of a bead; without `agent` it is not asked whether it is busy. `names`: of all agents, where there
    are others. Raises StoreError."""
    return [
        *of_the_bead(beads, found, limits, moment, names),
        *of_the_agent(beads, limits, moment, found.bead.id, agent),
    ]


def of_the_agent(
    beads: Store, limits: DispatchLimits, moment: datetime, bead_id: str, agent: Backend | None
) -> list[Condition]:
    """The conditions on all of the agent's beads; `bead_id`: the one that a fix names. Raises StoreError."""
    return [
        _suspension(beads),
        _hold(beads, limits.assignee, moment, bead_id),
        _slots(beads, limits, moment, agent),
    ]


def then(past: Snapshot, limits: DispatchLimits, found: Diagnosis, moment: datetime) -> list[Condition]:
    """All conditions of a bead in the past; what has no history is unknown. Raises StoreError."""
    configured = "suspended" if past.control.configured().dispatch else "on"
    return without_fixes(
        [
            *of_the_bead(past, found, limits, moment),
            Condition(
                "suspension", None, f"unknown: it has no history; bd's committed config had dispatch {configured}"
            ),
            Condition("hold", None, "unknown: the hold has no history"),
            _slots_then(past, limits, moment),
        ]
    )


def without_fixes(conditions: Sequence[Condition]) -> list[Condition]:
    """The same, for a bead that no command should be run on."""
    return [Condition(one.name, one.holds, one.detail) for one in conditions]


def of_the_bead(
    beads: Store | Snapshot,
    found: Diagnosis,
    limits: DispatchLimits,
    moment: datetime,
    names: Sequence[str] = (),
) -> list[Condition]:
    """The conditions of the predicate, in its order; `names`: as of `now`. Raises StoreError."""
    unmet = _unmet(found, limits, moment, names or (limits.assignee,))
    related = not all(found.conditions[name] for name in _RELATIONS)
    blockers = beads.eligible.blockers(found, moment) if related else []
    written = []
    for name, holds in found.conditions.items():
        if holds:
            written.append(Condition(name, True, _met(found, name)))
        elif name in _RELATIONS:
            reasons = [_blocker(one, found.bead.id) for one in blockers if _RELATIONS[name](one)] or [_STALE]
            written.append(Condition(name, False, "; ".join(detail for detail, _ in reasons), reasons[0][1]))
        else:
            written.append(Condition(name, False, *unmet[name]))
    return without_fixes(written) if found.bead.status == Status.CLOSED else written


def _met(found: Diagnosis, name: str) -> str:
    words = {
        "assignee": f"it is assigned to {terminal.cut(found.bead.assignee)}",
        "status": f"it is {terminal.cut(found.bead.status)}"
        + (", and its date has passed" if _deferred(found) else ""),
        "type": f"it is of type {terminal.cut(found.issue_type)}",
        "pinned": "it is not pinned",
        "template": "it is not a template",
        "ephemeral": "it is not ephemeral",
        "defer": "it is not deferred to a later date",
        "acceptance": "it has acceptance criteria",
        "metadata": "its metadata can hold a claim",
        "retry": "it has no retry delay",
        "blocked": "no other bead blocks it",
        "parent": "no parent is deferred",
        "children": "it is not an epic with open children",
    }
    return words[name]


def _unmet(
    found: Diagnosis, limits: DispatchLimits, moment: datetime, names: Sequence[str]
) -> dict[str, tuple[str, str | None]]:
    """What each condition on the bead's own row says where it does not hold, and what fixes it."""
    bead, name = found.bead, shlex.quote(found.bead.id)
    later = found.deferred_until is not None and found.deferred_until > moment
    date = f"it is deferred until {terminal.until(found.deferred_until, moment)}" if found.deferred_until else ""
    status = f"it is {terminal.cut(bead.status)}, not open", f"bd update {name} --status open"
    if _deferred(found):
        detail = f"{date}, and is dispatched then" if later else "it is deferred without a date"
        status = detail, f"bd undefer {name}"

    def column(name: str, value: str) -> str:  # bd has no command for these
        text = bead.id.replace("\\", "\\\\").replace("'", "''")
        return "bd sql " + shlex.quote(f"UPDATE issues SET {name} = {value} WHERE id = '{text}'")

    return {
        "assignee": (
            f"it is assigned to {terminal.cut(bead.assignee) or 'nobody'}, not to {' or '.join(names)}",
            f"bd assign {name} {shlex.quote(limits.assignee)}",
        ),
        "status": status,
        "type": (
            f"it is of type {terminal.cut(found.issue_type)}, which `bd ready` leaves out too",
            f"bd update {name} --type task",
        ),
        "pinned": ("it is pinned: kept in sight, not worked on", column("pinned", "0")),
        "template": ("it is a template: beads are made from it, and those are dispatched", None),
        "ephemeral": ("it is ephemeral", f"bd update {name} --persistent"),
        "defer": (f"{date}, and is dispatched then", f"bd update {name} --defer ''"),
        "acceptance": (
            "it has no acceptance criteria",
            f"bd update {name} --acceptance '<what is true when it is done>'",
        ),
        "metadata": _metadata(found, column("metadata", "'{}'")),
        "retry": (_retry_delay(found, moment), f"beads-dispatch dispatch {name}   (tries it now)"),
    }


def _metadata(found: Diagnosis, replace: str) -> tuple[str, str]:
    if found.metadata_type not in ("OBJECT", "NULL"):
        detail = f"its metadata is a JSON {found.metadata_type.lower()}, and a claim has to be stored in an object"
        return detail, replace  # `bd update --metadata` merges, and refuses to merge with what is no object
    detail = "what is under `dispatch` in its metadata was not written by dispatch: it cannot be used"
    return detail, f"bd update {shlex.quote(found.bead.id)} --unset-metadata dispatch"


def _deferred(found: Diagnosis) -> bool:
    return found.bead.status == Status.DEFERRED


def _retry_delay(found: Diagnosis, moment: datetime) -> str:
    record = found.bead.record
    refused = f"{record.failures} refusals in a row" if record.failures > 1 else "a refusal"
    retry_at = notes.moment(record.retry_at)
    ends = terminal.until(retry_at, moment) if retry_at else terminal.cut(record.retry_at or "")
    return f"after {refused} its retry delay ends at {ends}, or when anybody else changes it"


# The conditions on other beads, and which of these make each fail.
_RELATIONS: Mapping[str, Callable[[Blocker], bool]] = {
    "blocked": lambda one: one.how not in (DEFERRED_PARENT, CHILD),
    "parent": lambda one: one.how == DEFERRED_PARENT,
    "children": lambda one: one.how == CHILD,
}
_STALE = ("bd has marked it as blocked, and nothing that is open blocks it", "bd recompute-blocked")


def _blocker(one: Blocker, bead: str) -> tuple[str, str]:
    """What another bead does to it in words, and the command that ends that."""
    name, other = f"{one.bead} ({terminal.cut(one.title, 40)})", shlex.quote(one.bead)
    if one.how == DEFERRED_PARENT and one.deferred_until:
        detail = f"its parent {name} is deferred until {terminal.moment(one.deferred_until)}"
        return detail, f"bd update {other} --defer ''"
    if one.how == CHILD:
        return f"it is an epic, and its child {name} is {terminal.cut(one.status)}", f"bd close {other}"
    which = "it" if one.through == bead else f"its ancestor {one.through}"
    if one.gate is not None:
        opens = "bd gate check" if one.gate in _CHECKED_GATES else f"bd gate resolve {other}"
        return f"{which} is behind the gate {name}, which waits for: {terminal.cut(one.gate)}", opens
    remove = f"bd dep remove {shlex.quote(one.through)} {shlex.quote(one.via or one.bead)}"
    if one.how == "waits-for":
        what = f"the child {name} of {one.via}" if one.via else name
        return f"{which} waits for {what}, which is {terminal.cut(one.status)}", f"bd close {other}   (or: {remove})"
    detail = f"{which} is blocked by {name}, which is {terminal.cut(one.status)}"
    return detail, f"bd close {other}   (or: {remove})"


_CHECKED_GATES = ("timer", "gh:run", "gh:pr", "bead")  # bd closes these when somebody runs `bd gate check`


def _suspension(beads: Store) -> Condition:
    reason = beads.control.suspension().dispatch
    if reason is None:
        return Condition("suspension", True, "dispatch is not suspended")
    feeder = beads.feeders.find()
    if reason.startswith(REPLICA_REASON):
        own = feeder.beat.replica if feeder else "<id>   (`beads-dispatch status` shows it once a feeder ran)"
        fix = f"bd kv set {REPLICA} {own}"
    elif beads.control.configured().dispatch is not None:  # a PingSource's reason replaces bd's
        fix = "beads-dispatch resume"
    else:
        fix = "kn source ping resume dispatch"
    return Condition("suspension", False, f"dispatch is suspended: {terminal.cut(reason, 120)}", fix)


def feeder_problem(found: FeederReport | None) -> str:
    """What is wrong with the feeder, by its last report; empty when nothing is."""
    if found is None:
        return "no feeder has reported yet"
    if found.away:
        return f"no feeder has reported for {int(found.age.total_seconds() // 60)} min; the last was {found.owner}"
    return "" if found.beat.sink_accepts else "the feeder's sink did not accept the last event"


def _hold(beads: Store, agent: str, moment: datetime, bead_id: str) -> Condition:
    hold = beads.control.hold(agent)
    if hold.until is None or not hold.active_at(moment):
        return Condition("hold", True, "dispatch is not held")
    detail = (
        f"dispatch is held until {terminal.until(hold.until, moment)} after {hold.failures} failures of the agent:"
        f" {terminal.cut(hold.reason, 200)}"
    )
    return Condition("hold", False, detail, f"beads-dispatch dispatch {shlex.quote(bead_id)}   (tries it now)")


def _slots(beads: Store, limits: DispatchLimits, moment: datetime, agent: Backend | None) -> Condition:
    since = moment - limits.slot_silence
    in_progress = beads.activity.in_progress(limits.assignee, moment)
    claimed = [(bead, activity) for bead, activity in in_progress if bead.record.claim]
    taking = [bead.id for bead, activity in claimed if activity.at > since]
    detail = f"{len(taking)} of {limits.max_in_flight} slots taken" + (f": {', '.join(taking)}" if taking else "")
    fix = f"beads-dispatch release {shlex.quote(taking[0])}   (only if its agent is gone)" if taking else None
    if agent is None:
        detail += "; the agent itself was not asked"
        return Condition("slots", len(taking) < limits.max_in_flight, detail, fix)
    try:
        free = slots.is_free(beads, agent, limits, moment)
    except Unreachable as exc:
        return Condition("slots", False, f"it is unknown whether the agent is busy: {terminal.cut(str(exc), 200)}")
    return Condition("slots", free, f"{detail}; the agent is {'free' if free else 'busy'}", None if free else fix)


def _slots_then(past: Snapshot, limits: DispatchLimits, moment: datetime) -> Condition:
    claimed = [bead.id for bead, _ in past.activity.in_progress(limits.assignee, moment) if bead.record.claim]
    detail = f"{len(claimed)} of our claims in progress then" + (f": {', '.join(claimed)}" if claimed else "")
    if not past.has_all_activity():
        return Condition("slots", None, f"unknown: {detail}; activity and the agent have no history")
    since = moment - limits.slot_silence
    active = [one for one in past.activity.claims(limits.assignee) if (one.last_activity or one.updated_at) > since]
    if len(active) >= limits.max_in_flight:
        return Condition("slots", False, f"no slot was free: {detail}")
    return Condition("slots", None, f"unknown: {detail}; the agent has no history")
