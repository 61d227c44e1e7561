"""One reap pass on a real Dolt, on each bd version."""

import json
from datetime import timedelta

import pytest

from beads_dispatch import notes, reaper, store, suspension
from beads_dispatch.bead import Bead, DispatchRecord
from beads_dispatch.settings import DispatchLimits
from tests.conftest import Beads
from tests.integration.conftest import Clock

LIMITS = DispatchLimits()


def claimed(beads: Beads, clock: Clock, bead: str = "x-1") -> Bead:
    """A bead that dispatch has claimed, and no more."""
    beads.add(bead)
    found = next(found for found in beads.store.eligible.first("agent", clock(), 9) if found.id == bead)
    return beads.store.claims.claim(found, clock())


def dispatched(beads: Beads, clock: Clock, bead: str = "x-1") -> Bead:
    """A bead that an agent has a job for."""
    found = claimed(beads, clock, bead)
    beads.store.claims.record_dispatched(found, "job-1", clock())
    return found


# What an agent may do to its bead, each is activity; %s is the moment.
ACTIVITY = {
    "note": "UPDATE issues SET notes = 'on it', updated_at = %s WHERE id = 'x-1'",
    "comment": "INSERT INTO comments (id, issue_id, author, text, created_at)"
    " VALUES (UUID(), 'x-1', 'agent', 'hi', %s)",
    "event": "INSERT INTO events (id, issue_id, event_type, actor, created_at)"
    " VALUES (UUID(), 'x-1', 'updated', 'agent', %s)",
    "heartbeat": "INSERT INTO leases VALUES ('x-1', 'agent', %s, %s, %s, '')",
}


def is_active(beads: Beads, clock: Clock, kind: str) -> None:
    if kind == "heartbeat" and not beads.store._session.schema.leases:
        pytest.skip("this bd has no leases")
    statement = ACTIVITY[kind]
    beads.sql(statement, *[clock().replace(tzinfo=None)] * statement.count("%s"))


def reap(beads: Beads, clock: Clock) -> reaper.ReapResult:
    return reaper.run_once(beads.store, LIMITS, clock())


def test_an_inactive_bead_is_blocked_with_a_note(beads: Beads, clock: Clock) -> None:
    """No activity for 30 minutes: blocked, the note byte for byte, by beads-reaper."""
    clock.stop()
    dispatched(beads, clock)
    clock.passed += timedelta(minutes=31, seconds=30)
    assert reap(beads, clock) == reaper.ReapResult(blocked=["x-1"])
    assert beads.row("x-1")["status"] == "blocked"
    assert beads.notes("x-1")[-1] == "reaper: no progress for 31m (threshold 30m) — blocking"
    assert beads.actors("x-1")[-1] == "beads-reaper"
    assert beads.sql("SELECT committer FROM dolt_log LIMIT 1")[0]["committer"] == "beads-reaper"
    assert reap(beads, clock) == reaper.ReapResult()


def test_a_bead_at_work_is_left_alone(beads: Beads, clock: Clock) -> None:
    """29 minutes without activity are not 30."""
    dispatched(beads, clock)
    clock.passed += timedelta(minutes=29)
    assert reap(beads, clock) == reaper.ReapResult()


@pytest.mark.parametrize("kind", ACTIVITY)
def test_any_activity_counts(beads: Beads, clock: Clock, kind: str) -> None:
    """A note, a comment, an event or a lease's heartbeat after the dispatch is progress."""
    dispatched(beads, clock)
    clock.passed += timedelta(minutes=20)
    is_active(beads, clock, kind)
    clock.passed += timedelta(minutes=20)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(minutes=11)
    assert reap(beads, clock).blocked == ["x-1"]


@pytest.mark.parametrize("columns", [{"assignee": "bob"}, {"status": "open"}, {"status": "closed"}])
def test_only_beads_in_progress_for_the_sentinel_are_reaped(
    beads: Beads, clock: Clock, columns: dict[str, str]
) -> None:
    """bob's beads, and beads that nobody works on, are left alone."""
    beads.add("x-1", **{"status": "in_progress", **columns})
    before = beads.row("x-1")
    assert reap(beads, clock) == reaper.ReapResult()
    assert beads.row("x-1") == before


def test_a_bead_that_was_dispatched_by_hand_is_reaped_too(beads: Beads, clock: Clock) -> None:
    """Without a claim of ours: its metadata stays as it is."""
    beads.add("x-1", status="in_progress", metadata='{"team": "blue"}')
    assert reap(beads, clock).blocked == ["x-1"]
    assert json.loads(beads.row("x-1")["metadata"]) == {"team": "blue"}


def test_a_persons_own_work_under_the_agents_name_is_left_alone_on_request(beads: Beads, clock: Clock) -> None:
    """REAP_ONLY_OURS: what has a claim of ours is blocked, what a person set in progress is not."""
    dispatched(beads, clock)
    beads.add("x-2", status="in_progress")
    clock.passed += timedelta(minutes=31)
    only_ours = DispatchLimits(reap_only_ours=True)
    assert reaper.run_once(beads.store, only_ours, clock()).blocked == ["x-1"]
    assert beads.row("x-2")["status"] == "in_progress"
    assert reaper.due_at(beads.store.activity.in_progress("agent", clock())[0][0], only_ours) is None
    assert reap(beads, clock).blocked == ["x-2"]


@pytest.mark.parametrize("change", [
    "UPDATE issues SET updated_at = '2027-01-01' WHERE id = 'x-1'",
    "UPDATE issues SET status = 'closed' WHERE id = 'x-1'",
    "UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'",
    "DELETE FROM issues WHERE id = 'x-1'",
    "INSERT INTO comments (id, issue_id, author, text, created_at) VALUES (UUID(), 'x-1', 'agent', 'hi', '2100-01-01')",
])  # fmt: skip
def test_a_bead_that_changed_since_it_was_read_is_left_alone(beads: Beads, clock: Clock, change: str) -> None:
    """The UPDATE is guarded by the state that was read."""
    dispatched(beads, clock)
    clock.passed += timedelta(minutes=31)
    before = clock() - timedelta(minutes=30)
    found = beads.store.activity.inactive("agent", before)[0]
    beads.sql(change)
    rows = beads.sql("SELECT status, notes FROM issues")
    assert not beads.store.claims.block_inactive(found, before, notes.no_progress(31, 30), clock())
    assert beads.sql("SELECT status, notes FROM issues") == rows


def test_an_orphaned_claim_is_released(beads: Beads, clock: Clock) -> None:
    """No job, no outcome, no activity for 120 s: open again, with a note, and claimed anew."""
    clock.stop()
    claimed(beads, clock)
    clock.passed += timedelta(seconds=119)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(seconds=3)
    assert reap(beads, clock) == reaper.ReapResult(reopened=["x-1"])
    row = beads.row("x-1")
    assert (row["status"], row["assignee"], row["started_at"]) == ("open", "agent", None)
    assert beads.notes("x-1")[-1] == ("auto-dispatcher claim expired: no job and no sign of life for 120s — reopening")
    assert beads.store.claims.claim(beads.store.eligible.first("agent", clock(), 1)[0], clock()).record.attempt == 2


@pytest.mark.parametrize("kind", ACTIVITY)
def test_a_claim_whose_agent_is_active_is_not_released(beads: Beads, clock: Clock, kind: str) -> None:
    """The crash came after the POST, and the agent works: the bead is its own."""
    claimed(beads, clock)
    clock.passed += timedelta(seconds=5)
    is_active(beads, clock, kind)
    clock.passed += timedelta(minutes=10)
    assert reap(beads, clock) == reaper.ReapResult()


def test_an_unknown_outcome_is_not_taken_back_but_blocked_in_time(beads: Beads, clock: Clock) -> None:
    """The job may run: only 30 minutes without activity end it."""
    beads.store.claims.record_unknown(claimed(beads, clock), "no answer", clock())
    clock.passed += timedelta(minutes=10)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(minutes=21)
    assert reap(beads, clock).blocked == ["x-1"]


def test_an_abandoned_claim_that_moved_since_it_was_read_is_left_alone(beads: Beads, clock: Clock) -> None:
    """The agent's first note came between the reaper's look and its write."""
    claimed(beads, clock)
    clock.passed += timedelta(minutes=5)
    found = beads.store.activity.orphaned_claims("agent", clock() - timedelta(minutes=2))[0]
    beads.sql("UPDATE issues SET notes = 'on it', updated_at = '2100-01-01' WHERE id = 'x-1'")
    assert not beads.store.claims.release(found, "no", DispatchRecord(), clock(), actor=store.REAPER, unchanged=True)
    assert beads.row("x-1")["status"] == "in_progress"


@pytest.mark.parametrize(("value", "stops"), [("true", True), ("reap", True), ("dispatch", False)])
def test_suspension_stops_reap(beads: Beads, clock: Clock, value: str, stops: bool) -> None:
    """`true` and `reap` stop it, `dispatch` does not."""
    dispatched(beads, clock)
    clock.passed += timedelta(minutes=31)
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, value)
    result = reap(beads, clock)
    assert (result.suspended is not None, result.blocked) == ((True, []) if stops else (False, ["x-1"]))


def test_a_suspended_pingsource_stops_reap_alone(beads: Beads, clock: Clock) -> None:
    """The PingSource reap is suspended by itself."""
    dispatched(beads, clock)
    clock.passed += timedelta(minutes=31)
    beads.store.control.mirror_pingsource("reap", True)
    assert reap(beads, clock).suspended == "PingSource reap has suspend=true"
    assert beads.store.control.suspension().dispatch is None
