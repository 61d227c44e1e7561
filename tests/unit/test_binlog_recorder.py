"""What a transaction of ours must not do, checked on rows as the binlog gives them."""

from typing import Any

import pytest

from beads_dispatch import store
from feeder.changes import RowChange, Transaction
from tools.chaos import binlog_recorder


def transaction(before: dict[str, Any] | None, after: dict[str, Any] | None, actor: str) -> Transaction:
    """One bead's change with its audit row."""
    plain = {"id": "x-1", "assignee": "agent", "status": "open", "notes": "theirs"}
    event = RowChange("events", None, {"issue_id": "x-1", "actor": actor})
    sides = [None if side is None else {**plain, **side} for side in (before, after)]
    return Transaction("uuid:1", "beads", (event, RowChange("issues", *sides)))


BREACHES = {
    "opened": ({"status": "closed"}, {"status": "in_progress"}, "and it was closed"),
    "given away": ({"assignee": "bob"}, {"assignee": "agent"}, "took it from bob"),
    "a note cut": ({}, {"notes": "ours"}, "removed something from its notes"),
    "a note cut, as bytes": ({"notes": b"theirs"}, {"notes": b"ours"}, "removed something"),
    "deleted": ({}, None, "created or deleted"),
}


@pytest.mark.parametrize(("before", "after", "text"), BREACHES.values(), ids=BREACHES)
@pytest.mark.parametrize("actor", store.OURS)
def test_a_breach_of_ours_is_reported(
    before: dict[str, Any], after: dict[str, Any] | None, text: str, actor: str
) -> None:
    """Each of them, by the dispatcher and by the reaper."""
    (found,) = binlog_recorder.breaches([transaction(before, after, actor)])
    assert text in found
    assert actor in found


@pytest.mark.parametrize(("before", "after", "text"), BREACHES.values(), ids=BREACHES)
def test_others_may_do_the_same(before: dict[str, Any], after: dict[str, Any] | None, text: str) -> None:
    """The same change by anybody else is not a breach."""
    assert binlog_recorder.breaches([transaction(before, after, "alice")]) == []


def test_a_claim_and_its_record_are_not_a_breach() -> None:
    """What dispatch does to every bead."""
    claim = transaction({}, {"status": "in_progress", "notes": "theirs\nours"}, store.DISPATCHER)
    record = transaction({"status": "closed"}, {"status": "closed", "notes": "theirs\njob"}, store.DISPATCHER)
    assert binlog_recorder.breaches([claim, record]) == []


def test_a_claim_that_was_merged_with_somebodys_change_is_counted() -> None:
    """The bead had been taken when our claim was committed."""
    mine = transaction({}, {"status": "in_progress"}, store.DISPATCHER)
    merged = transaction({"assignee": "bob"}, {"assignee": "bob", "status": "in_progress"}, store.DISPATCHER)
    assert binlog_recorder.merged_claims([mine, merged], "agent") == 1
