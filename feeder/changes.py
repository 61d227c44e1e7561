"""What a transaction means: the changes it tells, and whether it may have made work available. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from beads_dispatch import events, store, trace
from beads_dispatch.bead import Status

# Columns that are kept of a row; descriptions of a megabyte are dropped as they come.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "issues": ("id", "title", "priority", "assignee", "status"),
    "events": ("issue_id", "actor"),
    "dependencies": ("issue_id",),
    "config": ("key", "value"),
}


NO_BEAD: Mapping[str, str | None] = {"assignee": None, "status": None}


@dataclass(frozen=True)
class RowChange:
    """One row of a transaction; `before` is None for an insert, `after` for a delete."""

    table: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True)
class Transaction:
    """The rows that were committed together, under one GTID, in the tables we look at."""

    gtid: str
    database: str
    rows: tuple[RowChange, ...] = ()


@dataclass(frozen=True)
class Change:
    """An assignee or status change of one bead. A side is None where the bead did not exist."""

    id: str
    sequence: str
    bead: str
    title: str
    priority: int | None
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]
    actor: str = ""
    recovered: bool = False  # found by comparing, because the binlog did not tell it


@dataclass(frozen=True)
class RequestReason:
    """Why work is asked for, and the id of what caused it."""

    cause: str  # change, slot, tick or resume
    id: str


def changes_in(transaction: Transaction) -> Iterator[Change]:
    """The changes that a transaction tells, in its order.

    A bead is born open and unassigned: only what differs from that is a change at its birth.
    """
    actors = actors_of(transaction.rows)
    for number, row in _numbered(transaction.rows, "issues"):
        if _side(row.before) == _side(row.after) or _plain_birth(row):
            continue
        bead = row.after or row.before or {}
        yield Change(
            id=f"{transaction.gtid}:{number}",
            sequence=_sequence(transaction.gtid, number),
            bead=str(bead["id"]),
            title=str(bead["title"]),
            priority=bead["priority"],
            before=_side(row.before),
            after=_side(row.after),
            actor=actors.get(bead["id"], ""),
        )


def request_reason_in(transaction: Transaction, assignee: str) -> RequestReason | None:
    """Whether a transaction may have made work available for the sentinel `assignee`, and how.

    A freed slot counts for more than a change: it tells dispatch to wait a little for it.
    """
    found = None
    actors = actors_of(transaction.rows)
    for number, row in _numbered(transaction.rows, *COLUMNS):
        cause = _cause_of(row, assignee, actors)
        if cause and (found is None or cause == "slot"):
            found = RequestReason(cause, f"{transaction.gtid}:{number}")
    return found


def seen_in(transaction: Transaction) -> dict[str, store.PublishedState | None]:
    """How each bead that was born, changed or deleted is to be seen now; None for one that is no more."""
    found: dict[str, store.PublishedState | None] = {}
    for number, row in _numbered(transaction.rows, "issues"):
        if row.before is None or _side(row.before) != _side(row.after):
            found |= seen(f"{transaction.gtid}:{number}", str((row.after or row.before or {})["id"]), _side(row.after))
    return found


def seen(event: str, bead: str, after: Mapping[str, str | None]) -> dict[str, store.PublishedState | None]:
    """The same for one bead, told by the event of that id."""
    return {bead: store.PublishedState(after["assignee"] or "", after["status"], event) if after["status"] else None}


def missed(rows: Iterable[Mapping[str, Any]], sequence: str) -> Iterator[Change]:
    """The changes that the binlog did not tell, from the rows of store.unseen; plain births among them.

    Their ids are made of what was told of the bead last and what it became: the same gap gives the same ids, and no
    other gap does.
    """
    for row in rows:
        before = {name: row[f"from_{name}"] for name in COLUMNS["issues"]} if row["from_id"] is not None else None
        after = {name: row[f"to_{name}"] for name in COLUMNS["issues"]} if row["to_id"] is not None else None
        bead = after or before or {}
        told = repr((row["event"], row["bead"], sorted(_side(after).items()))).encode()
        yield Change(
            id=f"recovered:{hashlib.sha256(told).hexdigest()[:32]}",
            sequence=sequence,
            bead=str(row["bead"]),
            title=str(bead["title"]),
            priority=bead["priority"],
            before=_side(before),
            after=_side(after),
            recovered=True,
        )


def is_published(change: Change) -> bool:
    """Whether a change is one that is told: not the birth of a bead that is open and unassigned."""
    return change.before["status"] is not None or change.after != {"assignee": None, "status": Status.OPEN}


def sequence_after(number: int) -> str:
    """For what is told between the transaction of that number and the next."""
    return f"{number:020d}.recovered"


def to_event(change: Change, database: str) -> events.Event:
    """The CloudEvent that tells a change."""
    after = {name: value or "" for name, value in change.after.items()}
    return events.Event(
        id=change.id,
        source=f"/dolt/{database}",
        type=events.ISSUE_CHANGED,
        subject=change.bead,
        extensions={
            "assignee": after["assignee"],
            "status": after["status"],
            "actor": change.actor,
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


def request(cause: RequestReason, waiting: int, event_type: str) -> events.Event:
    """The CloudEvent that asks dispatch or reap for a pass."""
    return events.Event(
        id=cause.id,
        source=events.FEEDER_SOURCE,
        type=event_type,
        extensions={"cause": cause.cause, "traceparent": trace.of_event(cause.id, event_type).traceparent},
        data={"waiting": waiting},
        dataschema=events.SCHEMA_OF.format(type=event_type),
    )


def _cause_of(row: RowChange, assignee: str, actors: Mapping[str, str]) -> str | None:
    before, after = row.before or {}, row.after or {}
    if row.table == "dependencies":
        return "change" if row.before is not None else None
    if row.table == "config":
        return "resume" if suspension.CONFIG_KEY in (before.get("key"), after.get("key")) else None
    if row.table != "issues":
        return None
    at_work = (assignee, Status.IN_PROGRESS)
    if (before.get("assignee"), before.get("status")) == at_work != (after.get("assignee"), after.get("status")):
        return "slot"
    waits = after.get("assignee") == assignee and after.get("status") == Status.OPEN
    if waits and actors.get(after["id"], "") not in store.OURS:
        return "change"
    closed = before.get("status") != Status.CLOSED and after.get("status", Status.CLOSED) == Status.CLOSED
    return "change" if closed else None


def actors_of(rows: Iterable[RowChange]) -> dict[str, str]:
    """Who changed which bead, from the audit rows of the same transaction."""
    return {row.after["issue_id"]: str(row.after["actor"] or "") for row in rows if row.table == "events" and row.after}


def _numbered(rows: Iterable[RowChange], *tables: str) -> Iterator[tuple[int, RowChange]]:
    return ((number, row) for number, row in enumerate(rows) if row.table in tables)


def _side(bead: Mapping[str, Any] | None) -> dict[str, str | None]:
    if bead is None:
        return dict(NO_BEAD)
    return {"assignee": bead["assignee"] or None, "status": bead["status"]}


def _plain_birth(row: RowChange) -> bool:
    return row.before is None and _side(row.after) == {"assignee": None, "status": Status.OPEN}


def _sequence(gtid: str, number: int) -> str:
    """Sorts as text in the order of the feed (CloudEvents' sequence extension)."""
    return f"{int(gtid.rsplit(':', 1)[1]):020d}.{number:06d}"
