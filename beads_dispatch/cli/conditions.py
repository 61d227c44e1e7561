"""The conditions that a bead has to meet to be dispatched: each in words, with the command that fixes it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch.agents import Unreachable, slots
from beads_dispatch.agents.beadboard import BeadBoard
from beads_dispatch.bead import Status
from beads_dispatch.cli import terminal
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Blocker, Diagnosis, Snapshot, Store


@dataclass(frozen=True)
class Condition:
    """One of the conditions that all have to hold."""

    name: str
    holds: bool | None  # None: unknown, or it depends on one that does not hold
    detail: str
    fix: str | None = None  # the command that makes it hold


def now(
    beads: Store, limits: DispatchLimits, found: Diagnosis, moment: datetime, agent: BeadBoard | None
) -> list[Condition]:
    """All conditions of a bead; without `agent` it is not asked whether it is busy. Raises StoreError."""
    return [
        *_of_the_row(found, limits, moment),
        _ready(found, beads.eligible.blockers(found.bead.id), moment),
        _suspension(beads),
        _hold(beads, moment, found.bead.id),
        _slots(beads, limits, moment, agent),
    ]


def then(past: Snapshot, limits: DispatchLimits, found: Diagnosis, moment: datetime) -> list[Condition]:
    """All conditions of a bead in the past; what has no history is unknown. Raises StoreError."""
    configured = "suspended" if past.control.configured().dispatch else "on"
    return without_fixes(
        [
            *_of_the_row(found, limits, moment),
            _ready(found, past.eligible.blockers(found.bead.id), moment),
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


def _of_the_row(found: Diagnosis, limits: DispatchLimits, moment: datetime) -> list[Condition]:
    """The conditions on the bead's own row; in the order of store.CONDITIONS."""
    bead, holds = found.bead, found.conditions
    name = shlex.quote(bead.id)
    detail = {
        "assignee": f"it is assigned to {terminal.cut(bead.assignee) or 'nobody'}"
        + ("" if holds["assignee"] else f", not to {limits.assignee}"),
        "status": f"it is {terminal.cut(bead.status)}" + ("" if holds["status"] else ", not open"),
        "acceptance": f"it has {'' if holds['acceptance'] else 'no '}acceptance criteria",
        "template": "it is not a template"
        if holds["template"]
        else "it is a template: beads are made from it, and those are dispatched",
        "metadata": "its metadata can hold a claim"
        if holds["metadata"]
        else f"its metadata is a JSON {found.metadata_type.lower()}, and a claim has to be stored in an object",
        "retry": "it has no retry delay" if holds["retry"] else _retry_delay(found, moment),
    }
    fix = {
        "assignee": f"bd assign {name} {shlex.quote(limits.assignee)}",
        "status": f"bd update {name} --status open",
        "acceptance": f"bd update {name} --acceptance '<what is true when it is done>'",
        # `bd update --metadata` merges, and refuses to merge with what is not an object.
        "metadata": "bd sql " + shlex.quote(f"UPDATE issues SET metadata = '{{}}' WHERE id = '{bead.id}'"),
        "retry": f"beads-dispatch dispatch {name}   (tries it now)",
    }
    conditions = [Condition(one, holds[one], detail[one], None if holds[one] else fix.get(one)) for one in detail]
    return without_fixes(conditions) if bead.status == Status.CLOSED else conditions


def _retry_delay(found: Diagnosis, moment: datetime) -> str:
    record = found.bead.record
    refused = f"{record.failures} refusals in a row" if record.failures > 1 else "a refusal"
    written = record.retry_at or ""
    try:
        ends = terminal.until(datetime.fromisoformat(written), moment)
    except (ValueError, TypeError):  # people may edit metadata
        ends = terminal.cut(written)
    return f"after {refused} its retry delay ends at {ends}"


def _ready(found: Diagnosis, blockers: Sequence[Blocker], moment: datetime) -> Condition:
    """Readiness, with what is in its way; bd's view decides."""
    if found.conditions["ready"]:
        return Condition("ready", True, "it is ready: not blocked, not deferred, not ephemeral")
    bead = shlex.quote(found.bead.id)
    reasons = []
    if found.ephemeral:
        reasons.append(("it is ephemeral", f"bd update {bead} --persistent"))
    if found.deferred_until is not None and found.deferred_until > moment:
        ends = terminal.until(found.deferred_until, moment)
        reasons.append((f"it is deferred until {ends}", f"bd update {bead} --defer ''"))
    reasons += [_blocker(one, found.bead.id) for one in blockers]
    if reasons:
        return Condition("ready", False, "; ".join(detail for detail, _ in reasons), reasons[0][1])
    if not found.conditions["status"]:
        return Condition("ready", None, "nothing blocks or defers it; only an open bead is ready")
    detail = "bd's view ready_issues does not have it, for a reason of its own"
    return Condition("ready", False, detail, "bd ready --explain")


def _blocker(one: Blocker, bead: str) -> tuple[str, str]:
    """What is in the way in words, and the command that removes it."""
    name, other = f"{one.bead} ({terminal.cut(one.title, 40)})", shlex.quote(one.bead)
    if one.deferred_until is not None:
        detail = f"its parent {name} is deferred until {terminal.moment(one.deferred_until)}"
        return detail, f"bd update {other} --defer ''"
    which = "it" if one.through == bead else f"its ancestor {one.through}"
    detail = f"{which} is blocked by {name}, which is {terminal.cut(one.status)}"
    return detail, f"bd close {other}   (or: bd dep remove {shlex.quote(one.through)} {other})"


def _suspension(beads: Store) -> Condition:
    reason = beads.control.suspension().dispatch
    if reason is None:
        return Condition("suspension", True, "dispatch is not suspended")
    # A PingSource's reason replaces bd's, which may stand as well.
    by_bd = beads.control.configured().dispatch is not None
    fix = "beads-dispatch resume" if by_bd else "kn source ping resume dispatch"
    return Condition("suspension", False, f"dispatch is suspended: {terminal.cut(reason, 120)}", fix)


def _hold(beads: Store, moment: datetime, bead_id: str) -> Condition:
    hold = beads.control.hold()
    if hold.until is None or not hold.active_at(moment):
        return Condition("hold", True, "dispatch is not held")
    detail = (
        f"dispatch is held until {terminal.until(hold.until, moment)} after {hold.failures} failures of the agent:"
        f" {terminal.cut(hold.reason, 200)}"
    )
    return Condition("hold", False, detail, f"beads-dispatch dispatch {shlex.quote(bead_id)}   (tries it now)")


def _slots(beads: Store, limits: DispatchLimits, moment: datetime, agent: BeadBoard | None) -> Condition:
    since = moment - limits.slot_silence
    claimed = [(bead, activity) for bead, activity in beads.activity.in_progress(limits.assignee) if bead.record.claim]
    taking = [bead.id for bead, activity in claimed if activity.at > since]
    detail = f"{len(taking)} of {limits.max_in_flight} slots taken" + (f": {', '.join(taking)}" if taking else "")
    fix = f"beads-dispatch release {shlex.quote(taking[0])}   (only if its agent is gone)" if taking else None
    if agent is None:
        detail += "; the agent was not asked, BEADBOARD_URL is not set"
        return Condition("slots", len(taking) < limits.max_in_flight, detail, fix)
    try:
        free = slots.is_free(beads, agent, limits, moment)
    except Unreachable as exc:
        return Condition("slots", False, f"it is unknown whether the agent is busy: {terminal.cut(str(exc), 200)}")
    return Condition("slots", free, f"{detail}; the agent is {'free' if free else 'busy'}", None if free else fix)


def _slots_then(past: Snapshot, limits: DispatchLimits, moment: datetime) -> Condition:
    claimed = [bead.id for bead, _ in past.activity.in_progress(limits.assignee) if bead.record.claim]
    detail = f"{len(claimed)} of our claims in progress then" + (f": {', '.join(claimed)}" if claimed else "")
    if not past.has_all_activity():
        return Condition("slots", None, f"unknown: {detail}; activity and the agent have no history")
    active = past.activity.count_active_claims(limits.assignee, moment - limits.slot_silence)
    if active >= limits.max_in_flight:
        return Condition("slots", False, f"no slot was free: {detail}")
    return Condition("slots", None, f"unknown: {detail}; the agent has no history")
