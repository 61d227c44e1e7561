"""Moments that are wrong: from the future, from before the claim, and from a time in which nobody could write."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import reaper, store
from beads_dispatch.outcomes import Dispatched
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store.session import naive
from feeder import ownership
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory

SOURCES = {
    "comment": "INSERT INTO comments (id, issue_id, author, text, created_at) VALUES (UUID(), 'x-1', 'ann', '', %s)",
    "event": "INSERT INTO events (id, issue_id, event_type, actor, created_at)"
    " VALUES (UUID(), 'x-1', 'updated', 'ann', %s)",
    "heartbeat": "REPLACE INTO leases (issue_id, holder, granted_at, lease_expires_at, heartbeat_at)"
    " VALUES ('x-1', 'agent', %s, %s, %s)",
}


def write(beads: Beads, source: str, moment: datetime) -> None:
    if source == "heartbeat" and not beads.sql("SHOW TABLES LIKE 'leases'"):
        pytest.skip("this bd has no leases")
    statement = SOURCES[source]
    beads.sql(statement, *[naive(moment)] * statement.count("%s"))


def reap(beads: Beads, clock: Clock) -> reaper.ReapResult:
    return reaper.run_once(beads.store, DispatchLimits(), clock())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("ahead", [timedelta(minutes=20), timedelta(days=3650)])
def test_what_was_there_before_the_claim_is_not_the_agents_activity(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, source: str, ahead: timedelta
) -> None:
    """The assignment, say, written by a host whose clock is ahead: the 30 minutes count from the claim."""
    beads.add("x-1")
    write(beads, source, clock() + ahead)
    make_dispatcher().run_once()
    ((_, activity),) = beads.store.activity.in_progress("agent", clock())
    assert activity.at <= clock() and "dated" not in activity.what
    clock.passed += timedelta(minutes=29)
    assert reap(beads, clock).blocked == []
    clock.passed += timedelta(minutes=2)
    assert reap(beads, clock).blocked == ["x-1"]


@pytest.mark.parametrize("source", SOURCES)
def test_what_came_after_the_claim_is_activity_all_the_same(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, source: str
) -> None:
    """Of the agent, whose clock is right, though the assigner's is ten years ahead."""
    beads.add("x-1")
    write(beads, source, clock() + timedelta(days=3650))
    make_dispatcher().run_once()
    clock.passed += timedelta(minutes=29)
    write(beads, source, clock())
    clock.passed += timedelta(minutes=29)
    assert reap(beads, clock).blocked == []
    assert len(beads.store.activity.claims("agent")) == 1
    clock.passed += timedelta(minutes=2)
    assert reap(beads, clock).blocked == ["x-1"]


@pytest.mark.parametrize("source", SOURCES)
def test_activity_from_the_future_counts_as_now(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, source: str
) -> None:
    """The agent's clock is ahead: it is active, no moment is later than now, and the words give the date."""
    beads.add("x-1")
    make_dispatcher().run_once()
    write(beads, source, clock() + timedelta(hours=2))
    now = clock()
    ((bead, activity),) = beads.store.activity.in_progress("agent", now)
    assert activity.at == bead.last_activity == now
    assert "dated 20" in activity.what
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == []
    clock.passed += timedelta(minutes=121)
    assert reap(beads, clock).blocked == ["x-1"]


def test_an_agent_whose_clock_is_behind_is_not_reaped_at_once(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Its first write puts the bead's own moment before the claim: that starts no earlier 30 minutes."""
    beads.add("x-1")
    make_dispatcher().run_once()
    beads.sql("UPDATE issues SET updated_at = %s WHERE id = 'x-1'", naive(clock() - timedelta(minutes=40)))
    assert reap(beads, clock).blocked == []
    ((_, activity),) = beads.store.activity.in_progress("agent", clock())
    assert activity.at > clock() - timedelta(minutes=1)
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == ["x-1"]


def test_an_orphaned_claim_is_released_although_the_assignment_is_from_the_future(beads: Beads, clock: Clock) -> None:
    """With real bd, whose clock is two hours ahead of the dispatcher's: create, assign, claim, crash."""
    clock.passed = -timedelta(hours=2)
    bead = beads.workspace.create("t", "It works.")
    beads.workspace.run("assign", bead, "agent", actor="alice")
    beads.workspace.run("comments", "add", bead, "hello", actor="alice")
    (queued,) = beads.store.eligible.first("agent", clock(), 1)
    claimed = beads.store.claims.claim(queued, clock())
    assert claimed.record.foreign
    clock.passed += timedelta(minutes=3)
    assert reap(beads, clock).reopened == [bead]


def test_real_bd_with_a_clock_that_is_ahead(beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock) -> None:
    """Its writes after the claim are activity, those before it are not."""
    clock.passed = -timedelta(hours=2)
    bead = beads.workspace.create("t", "It works.")
    beads.workspace.run("assign", bead, "agent", actor="alice")
    assert any(isinstance(outcome, Dispatched) for outcome in make_dispatcher().run_once())
    ((_, activity),) = beads.store.activity.in_progress("agent", clock())
    assert "dated" not in activity.what
    beads.workspace.run("note", bead, "working on it", actor="agent")
    now = clock()
    ((_, activity),) = beads.store.activity.in_progress("agent", now)
    assert activity.at == now and "dated 20" in activity.what


@pytest.mark.parametrize("gap", [timedelta(minutes=4), timedelta(hours=8)])
def test_a_night_without_dolt_is_no_inactivity(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, gap: timedelta
) -> None:
    """Agents could write nothing then. A feeder that reports again after hours begins their 30 minutes anew, and their
    slots stay taken; a short pause, such as its restart, changes nothing."""
    beads.add("x-1")
    clock.passed = -timedelta(hours=8)
    make_dispatcher().run_once()
    clock.passed = timedelta()
    feed_state, owner = beads.store.feed_state, ownership.Owner(beads.dolt, threading.Event())
    feed_state.report(owner.beat())
    beads.sql(f"UPDATE {store.STATE_DATABASE}.feeders SET beat_at = %s", naive(datetime.now(UTC) - gap))
    found = beads.store.feeders.find()
    assert found is not None and found.away == (gap > timedelta(minutes=5))
    assert (reaper.inactive(beads.store, DispatchLimits(), clock()) == []) == found.away  # before anybody is back
    feed_state.report(owner.beat())
    (claimed,) = beads.store.activity.claims("agent")
    assert claimed.last_activity is not None
    night = gap > timedelta(hours=1)
    assert (claimed.last_activity > clock() - timedelta(minutes=5)) == night
    assert (reap(beads, clock).blocked == []) == night
    if night:
        feed_state.report(owner.beat())  # those that follow change nothing
        clock.passed += timedelta(minutes=31)
        assert reap(beads, clock).blocked == ["x-1"]


def test_a_feeder_that_never_returns_stops_the_reaper_for_half_an_hour_only(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """The first pass after the last report ends the time in which nothing could be seen."""
    beads.add("x-1")
    clock.passed = -timedelta(hours=8)
    make_dispatcher().run_once()
    clock.passed = timedelta()
    beads.store.feed_state.report(ownership.Owner(beads.dolt, threading.Event()).beat())
    beads.sql(f"UPDATE {store.STATE_DATABASE}.feeders SET beat_at = %s", naive(clock() - timedelta(hours=1)))
    assert reap(beads, clock).blocked == []
    (row,) = beads.sql(f"SELECT resumed_at > beat_at AS ended FROM {store.STATE_DATABASE}.feeders")
    assert row["ended"]
    clock.passed += timedelta(minutes=29)
    assert reap(beads, clock).blocked == []
    clock.passed += timedelta(minutes=2)
    assert reap(beads, clock).blocked == ["x-1"]


def test_without_a_report_of_any_feeder_the_reaper_works(beads: Beads, clock: Clock) -> None:
    """A user of before this table, or a system whose feeder never ran."""
    beads.add("x-1", status="in_progress")
    with beads.cursor() as cursor:
        cursor.execute(f"DROP TABLE {store.STATE_DATABASE}.feeders")
    try:
        assert reap(beads, clock).blocked == ["x-1"]
    finally:
        beads.store.feed_state.prepare()
