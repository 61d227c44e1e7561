"""From the rows of a transaction to changes and request reasons: pure."""

from typing import Any

import pytest

from feeder import changes
from feeder.changes import RequestReason, RowChange, Transaction

GTID = "18af863a-727b-4779-bf7b-a596e243ddc4:7"


def bead(assignee: str | None = None, status: str = "open", name: str = "x-1", title: str = "T") -> dict[str, Any]:
    return {"id": name, "title": title, "priority": 2, "assignee": assignee, "status": status}


def by(actor: str, name: str = "x-1") -> RowChange:
    return RowChange("events", None, {"issue_id": name, "actor": actor})


def transaction(*rows: RowChange) -> Transaction:
    return Transaction(GTID, "db", rows)


def update(before: dict[str, Any], after: dict[str, Any]) -> RowChange:
    return RowChange("issues", before, after)


def published(*rows: RowChange) -> list[changes.Change]:
    return list(filter(changes.is_published, changes.changes_in(transaction(*rows))))


def test_an_assignment_is_one_change_with_its_actor() -> None:
    """The actor is in the audit row of the same transaction; the id is `<gtid>:<row>`."""
    (change,) = published(by("alice"), update(bead(), bead("agent")))
    assert (change.id, change.bead, change.actor) == (f"{GTID}:1", "x-1", "alice")
    assert change.before == {"assignee": None, "status": "open"}
    assert change.after == {"assignee": "agent", "status": "open"}
    assert change.sequence == "00000000000000000007.000001"


def test_what_is_neither_assignee_nor_status_is_not_a_change() -> None:
    """A new title is not published."""
    assert published(update(bead("agent"), bead("agent", title="New"))) == []


@pytest.mark.parametrize(("created", "number"), [(bead(), 0), (bead("agent"), 1), (bead(None, "blocked"), 1)])
def test_a_bead_is_created_open_and_unassigned(created: dict[str, Any], number: int) -> None:
    """Only a creation that differs from that is published."""
    found = published(RowChange("issues", None, created))
    assert len(found) == number
    assert all(change.before == {"assignee": None, "status": None} for change in found)


def test_a_deleted_bead_is_a_change() -> None:
    """Its status is None."""
    (change,) = published(RowChange("issues", bead("agent"), None))
    assert change.after == {"assignee": None, "status": None}


def test_the_actor_is_the_one_of_that_bead() -> None:
    """Two beads in one transaction, two actors."""
    found = published(
        by("alice", "x-1"), by("bob", "x-2"), update(bead(), bead("agent")),
        update(bead(name="x-2"), bead("agent", name="x-2")),
    )  # fmt: skip
    assert [(change.bead, change.actor) for change in found] == [("x-1", "alice"), ("x-2", "bob")]


def test_without_an_audit_row_there_is_no_actor() -> None:
    """Plain SQL: the actor attribute is left out of the event."""
    (change,) = published(update(bead(), bead("agent")))
    assert changes.to_event(change, "db").extensions["actor"] == ""


CAUSES = [
    ("assigned", [by("alice"), update(bead(), bead("agent"))], "change"),
    ("edited while it is in the queue", [by("alice"), update(bead("agent"), bead("agent", title="N"))], "change"),
    ("created for the agent", [by("alice"), RowChange("issues", None, bead("agent"))], "change"),
    ("reopened for the agent", [by("alice"), update(bead("agent", "blocked"), bead("agent"))], "change"),
    ("edited by plain SQL", [update(bead("agent"), bead("agent", title="N"))], "change"),
    ("our own note", [by("beads-dispatcher"), update(bead("agent"), bead("agent", title="N"))], None),
    ("our own claim", [by("beads-dispatcher"), update(bead("agent"), bead("agent", "in_progress"))], None),
    ("our own release", [by("beads-dispatcher"), update(bead("agent", "in_progress"), bead("agent"))], "slot"),
    ("the agent closed its bead", [by("agent"), update(bead("agent", "in_progress"), bead("agent", "closed"))], "slot"),
    ("reaped", [by("beads-reaper"), update(bead("agent", "in_progress"), bead("agent", "blocked"))], "slot"),
    ("reassigned by a person", [by("bob"), update(bead("agent", "in_progress"), bead("bob", "in_progress"))], "slot"),
    ("deleted while in progress", [RowChange("issues", bead("agent", "in_progress"), None)], "slot"),
    ("noted by the agent", [by("agent"), update(bead("agent", "in_progress"), bead("agent", "in_progress"))], None),
    ("somebody's bead closed", [by("bob"), update(bead("bob"), bead("bob", "closed"))], "change"),
    ("somebody's bead deleted", [RowChange("issues", bead("bob"), None)], "change"),
    ("closed bead edited", [by("bob"), update(bead("bob", "closed"), bead("bob", "closed", title="N"))], None),
    ("somebody's bead started", [by("bob"), update(bead("bob"), bead("bob", "in_progress"))], None),
    ("a dependency is removed", [RowChange("dependencies", {"issue_id": "x-1"}, None)], "change"),
    ("a dependency is added", [RowChange("dependencies", None, {"issue_id": "x-1"})], None),
    ("resumed", [RowChange("config", None, {"key": "custom.auto-dispatch.suspend", "value": "false"})], "resume"),
    ("kv resumed", [RowChange("config", None, {"key": "kv.auto-dispatch.suspend", "value": "false"})], "resume"),
    ("key removed", [RowChange("config", {"key": "custom.auto-dispatch.suspend", "value": "true"}, None)], "resume"),
    ("another setting", [RowChange("config", None, {"key": "issue_prefix", "value": "x"})], None),
    ("only an audit row", [by("alice")], None),
]


@pytest.mark.parametrize(("rows", "cause"), [case[1:] for case in CAUSES], ids=[case[0] for case in CAUSES])
def test_what_requests_a_pass(rows: list[RowChange], cause: str | None) -> None:
    """What may have made work available does; nothing else does, and our own writes do not."""
    found = changes.request_reason_in(transaction(*rows), "agent")
    assert (found.cause if found else None) == cause


def test_a_freed_slot_has_precedence_over_a_change() -> None:
    """In one transaction with both, the request makes dispatch wait for the slot."""
    found = changes.request_reason_in(
        transaction(
            update(bead("agent", name="x-2"), bead("agent", name="x-2")),
            update(bead("agent", "in_progress"), bead("agent", "closed")),
            update(bead("agent", name="x-3"), bead("agent", name="x-3")),
        ),
        "agent",
    )
    assert found == RequestReason("slot", f"{GTID}:1", "db")


def diff(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    empty = dict.fromkeys(bead())
    return {f"from_{name}": value for name, value in (before or empty).items()} | {
        f"to_{name}": value for name, value in (after or empty).items()
    }


def test_recovered_changes_have_ids_that_repeat() -> None:
    """The same gap gives the same ids, another gap others; marked as recovered; a plain creation is not published."""
    rows = [
        {"bead": "x-1", "event": "e1", **diff(bead(), bead("agent"))},
        {"bead": "x-2", "event": None, **diff(None, bead(name="x-2"))},
        {"bead": "x-3", "event": None, **diff(None, bead("agent", name="x-3"))},
        {"bead": "x-4", "event": "e1", **diff(bead("agent", name="x-4"), None)},
    ]
    found = list(changes.recovered(rows, changes.sequence_after(7)))
    assert [change.bead for change in found if changes.is_published(change)] == ["x-1", "x-3", "x-4"]
    assert found == list(changes.recovered(rows, changes.sequence_after(7)))
    assert len({change.id for change in found}) == 4
    (later,) = changes.recovered([{**rows[0], "event": "e2"}], "")
    assert later.id != found[0].id
    assert f"{7:020d}.000001" < found[0].sequence < f"{8:020d}.000000"
    assert all(changes.to_event(change, "db").extensions["recovered"] == "true" for change in found)


def test_the_event_of_a_change_has_the_documented_form() -> None:
    """Source, subject, extensions and data, each in its place."""
    (change,) = published(by("alice"), update(bead("agent"), bead(None, "closed")))
    event = changes.to_event(change, "db")
    assert (event.source, event.subject, event.type) == ("/dolt/db", "x-1", "dev.beads.issue.changed.v1")
    assert event.extensions["partitionkey"] == "x-1"
    assert (event.extensions["assignee"], event.extensions["status"]) == ("", "closed")
    assert event.data == {
        "id": "x-1",
        "title": "T",
        "priority": 2,
        "before": {"assignee": "agent", "status": "open"},
        "after": {"assignee": None, "status": "closed"},
        "actor": "alice",
    }
