"""What a transaction means: the changes in it, and whether it may have made work available. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from beads_dispatch import events, store, suspension, trace
from beads_dispatch.bead import Status

# The columns that are kept of a row; long texts, descriptions of a megabyte among them, are dropped at once.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "issues": ("id", "title", "priority", "assignee", "status", "defer_until"),
    "events": ("issue_id", "actor", "comment"),
    "dependencies": ("issue_id",),
    "config": ("key", "value"),
    "agent_holds": ("agent", "held_until"),
}

_COMPARED = ("id", "title", "priority", "assignee", "status")  # what store.feed_state.unpublished gives of each side

Side = Mapping[str, str | None]  # a bead's assignee and status, before or after a change

_NO_BEAD: Side = {"assignee": None, "status": None}
_NEW_BEAD: Side = {"assignee": None, "status": Status.OPEN}


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row of a transaction; `before` is None for an insert, `after` for a delete."""

    table: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True)
class Transaction:
    """The rows of the tables in COLUMNS that were committed together, under one GTID."""

    gtid: str
    database: str
    rows: tuple[RowChange, ...] = ()
    ddl: bool = False  # it changed the schema, or made or dropped a database
    whole: bool = True  # False: it has too many rows, and none is here


@dataclass(frozen=True)
class Change:
    """An assignee or status change of one bead. A side is all None where the bead does not exist."""

    id: str
    sequence: str
    bead: str
    title: str
    priority: int | None
    before: Side
    after: Side
    actor: str = ""
    recovered: bool = False  # found by comparing, because the binlog does not hold it

    @property
    def published_state(self) -> store.PublishedState | None:
        """The bead's state once this change is published; None when the bead was deleted."""
        status = self.after["status"]
        return store.PublishedState(self.after["assignee"] or "", status, self.id) if status else None


@dataclass(frozen=True)
class RequestReason:
    """Why a pass is requested, and the id of what caused it."""

    cause: str  # change, slot, due, job, tick or resume
    id: str
    database: str = ""  # where that was; empty for what belongs to none


def changes_in(transaction: Transaction) -> Iterator[Change]:
    """The changes in a transaction, in its order, those among them that are not published (see is_published)."""
    actors = actors_of(transaction.rows)
    for index, row in enumerate(transaction.rows):
        if row.table != "issues" or _side(row.before) == _side(row.after):
            continue
        sequence = f"{int(transaction.gtid.rpartition(':')[2]):020d}.{index:06d}"
        yield _change(f"{transaction.gtid}:{index}", sequence, row, actors)


def recovered(rows: Iterable[Mapping[str, Any]], sequence: str) -> Iterator[Change]:
    """The changes that the binlog does not hold, from the rows of store.feed_state.unpublished.

    A change's id is made of what was published of the bead last and what the bead became: the same gap gives the same
    ids, and no other gap does.
    """
    for found in rows:
        before, after = (
            {name: found[f"{side}_{name}"] for name in _COMPARED} if found[f"{side}_id"] is not None else None
            for side in ("from", "to")
        )
        row = RowChange("issues", before, after)
        difference = repr((found["event"], found["bead"], sorted(_side(after).items()))).encode()
        change_id = f"recovered:{hashlib.sha256(difference).hexdigest()[:32]}"
        yield _change(change_id, sequence, row, recovered=True)


def is_published(change: Change) -> bool:
    """Whether an event is sent for a change: not for the creation of a bead that is open and unassigned."""
    return change.before["status"] is not None or change.after != _NEW_BEAD


def sequence_after(number: int) -> str:
    """The sequence of what is published between the transaction of that number and the next."""
    return f"{number:020d}.recovered"


def request_reason_in(transaction: Transaction, assignee: str) -> RequestReason | None:
    """Why a transaction may have made work available for the agent; None when it did not.

    A freed slot has precedence over a change: it makes dispatch wait a little for the slot.
    """
    reason = None
    actors = actors_of(transaction.rows)
    for index, row in enumerate(transaction.rows):
        cause = _cause(row, assignee, actors)
        if cause and (reason is None or cause == "slot"):
            where = "" if transaction.database == store.STATE_DATABASE else transaction.database
            reason = RequestReason(cause, f"{transaction.gtid}:{index}", where)
    return reason


def moves_a_moment(transaction: Transaction, assignee: str) -> bool:
    """Whether the next due moment may be another one after a transaction: a defer date, a retry delay or a hold."""
    return any(
        row.table == "agent_holds" or (side.get("assignee") == assignee or side.get("defer_until") is not None)
        for row in transaction.rows
        if row.table in ("issues", "agent_holds")
        for side in (row.before or {}, row.after or {})
    )


def starts_a_job(transaction: Transaction, assignee: str) -> bool:
    """Whether a bead of the agent came to be in progress in a transaction."""
    return any(
        row.table == "issues"
        and row.after is not None
        and (row.after.get("assignee"), row.after.get("status")) == (assignee, Status.IN_PROGRESS)
        for row in transaction.rows
    )


def actors_of(rows: Iterable[RowChange]) -> dict[str, str]:
    """Who changed each bead, from the audit rows of the same transaction."""
    return {row.after["issue_id"]: str(row.after["actor"] or "") for row in rows if row.table == "events" and row.after}


def to_event(change: Change, database: str) -> events.Event:
    """The CloudEvent that publishes a change."""
    return events.Event(
        id=change.id,
        source=f"/dolt/{database}",
        type=events.ISSUE_CHANGED,
        subject=change.bead,
        extensions={
            "assignee": change.after["assignee"] or "",
            "status": change.after["status"] or "",
            "actor": change.actor,
            "database": database,
            "partitionkey": change.bead,
            "sequence": change.sequence,
            "recovered": "true" if change.recovered else "",
            "traceparent": trace.of_event(change.id, events.ISSUE_CHANGED).traceparent,
        },
        data={
            "id": change.bead,
            "title": change.title,
            "priority": change.priority,
            "before": dict(change.before),
            "after": dict(change.after),
            "actor": change.actor,
        },
        dataschema=events.SCHEMA_OF.format(type=events.ISSUE_CHANGED),
    )


def request(reason: RequestReason, count: int, event_type: str, agent: str = "", *, alone: bool = True) -> events.Event:
    """The CloudEvent that requests a pass of dispatch or reap; `count` beads are there for it. Not `alone`: the same
    reason may request passes of other agents too."""
    return events.request(reason.cause, reason.id, count, event_type, agent, alone=alone, database=reason.database)


def _cause(row: RowChange, assignee: str, actors: Mapping[str, str]) -> str | None:
    before, after = row.before or {}, row.after or {}
    match row.table:
        case "issues":
            return _bead_cause(before, after, assignee, actors)
        case "dependencies" if row.before is not None:
            return "change"
        case "agent_holds" if assignee in (before.get("agent"), after.get("agent")):
            return "resume" if before.get("held_until") is not None and after.get("held_until") is None else None
        case "config" if {*suspension.SUSPEND_KEYS, suspension.REPLICA_KEY} & {before.get("key"), after.get("key")}:
            return "resume"
    return None


def _bead_cause(
    before: Mapping[str, Any], after: Mapping[str, Any], assignee: str, actors: Mapping[str, str]
) -> str | None:
    in_progress = (assignee, Status.IN_PROGRESS)
    if (before.get("assignee"), before.get("status")) == in_progress != (after.get("assignee"), after.get("status")):
        return "slot"
    # A date that has passed makes a deferred bead eligible; and the date of a parent holds back its children.
    waiting = after.get("status") == Status.OPEN or after.get("defer_until") is not None
    if after.get("assignee") == assignee and waiting and actors.get(after["id"], "") not in store.OURS:
        return "change"
    if before.get("defer_until") != after.get("defer_until") and before.get("defer_until") is not None:
        return "change"
    closed = before.get("status") != Status.CLOSED and after.get("status", Status.CLOSED) == Status.CLOSED
    return "change" if closed else None


def _change(
    change_id: str, sequence: str, row: RowChange, actors: Mapping[str, str] | None = None, *, recovered: bool = False
) -> Change:
    bead = row.after or row.before or {}
    return Change(
        id=change_id,
        sequence=sequence,
        bead=str(bead["id"]),
        title=str(bead["title"]),
        priority=bead["priority"],
        before=_side(row.before),
        after=_side(row.after),
        actor=(actors or {}).get(bead["id"], ""),
        recovered=recovered,
    )


def _side(bead: Mapping[str, Any] | None) -> Side:
    return {"assignee": bead["assignee"] or None, "status": bead["status"]} if bead else _NO_BEAD
