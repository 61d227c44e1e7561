"""Moments that are wrong: from the future, from before the claim, and from a time in which nobody could write."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import notes, reaper, store
from beads_dispatch.breaker import LASTING
from beads_dispatch.outcomes import Dispatched, Held, Rejected
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store.session import naive
from feeder import ownership
from feeder.eligibility_check import EligibilityCheck
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory

SOURCES = {
    "comment": "INSERT INTO comments (id, issue_id, author, text, created_at) VALUES (UUID(), 'x-1', 'ann', '', %s)",
    "event": "INSERT INTO events (id, issue_id, event_type, actor, created_at)"
    " VALUES (UUID(), 'x-1', 'updated', 'ann', %s)",
    "heartbeat": "REPLACE INTO leases (issue_id, holder, granted_at, lease_expires_at, heartbeat_at)"
    " VALUES ('x-1', 'agent', %s, %s, %s)",
}

CHANGE = "UPDATE issues SET updated_at = %s WHERE id = 'x-1'"  # as bd does with each update
ACTIVITY = {**SOURCES, "change": CHANGE}


def write(beads: Beads, source: str, moment: datetime) -> None:
    if source == "heartbeat" and not beads.sql("SHOW TABLES LIKE 'leases'"):
        pytest.skip("this bd has no leases")
    statement = ACTIVITY[source]
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
    """Until reap has seen it: it is active, no moment is later than now, and the words give the date."""
    beads.add("x-1")
    make_dispatcher().run_once()
    write(beads, source, clock() + timedelta(hours=2))
    now = clock()
    ((bead, activity),) = beads.store.activity.in_progress("agent", now)
    assert activity.at == bead.last_activity == now
    assert "dated 20" in activity.what
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == []
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == ["x-1"]


@pytest.mark.parametrize("source", ACTIVITY)
@pytest.mark.parametrize("ahead", [timedelta(minutes=20), timedelta(days=36500)])
def test_activity_from_the_future_counts_as_the_moment_at_which_reap_saw_it(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, source: str, ahead: timedelta
) -> None:
    """30 minutes after that pass the bead is blocked, and until then every reader has that moment."""
    clock.stop()
    beads.add("x-1")
    make_dispatcher().run_once()
    write(beads, source, clock() + ahead)
    clock.passed += timedelta(minutes=5)
    seen = clock().replace(microsecond=0)
    assert reap(beads, clock) == reaper.ReapResult()
    for _ in range(2):
        clock.passed += timedelta(minutes=12)
        assert reap(beads, clock) == reaper.ReapResult()
        ((bead, activity),) = beads.store.activity.in_progress("agent", clock())
        assert activity.at == bead.last_activity == seen
        assert "dated 20" in activity.what or "dated 21" in activity.what
        assert [one.last_activity for one in beads.store.activity.claims("agent")] == [seen]
        assert reaper.due_at(bead, DispatchLimits()) == seen + timedelta(minutes=30)
    clock.passed += timedelta(minutes=7)
    assert [bead.id for bead in reaper.inactive(beads.store, DispatchLimits(), clock())] == ["x-1"]
    assert reap(beads, clock).blocked == ["x-1"]
    assert beads.notes("x-1")[-1].startswith("reaper: no progress for 31m")


@pytest.mark.parametrize("source", ACTIVITY)
@pytest.mark.parametrize("ahead", [timedelta(), timedelta(days=30000), timedelta(days=36500, minutes=1)])
def test_what_is_written_after_it_is_activity(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, source: str, ahead: timedelta
) -> None:
    """Of a clock that is right, or of one that is wrong in another way: 30 minutes from there."""
    beads.add("x-1")
    make_dispatcher().run_once()
    write(beads, "comment", clock() + timedelta(days=36500))
    reap(beads, clock)
    clock.passed += timedelta(minutes=29)
    write(beads, source, clock() + ahead)
    clock.passed += timedelta(minutes=5)
    assert reap(beads, clock).blocked == []
    clock.passed += timedelta(minutes=24)
    assert reap(beads, clock).blocked == []
    clock.passed += timedelta(minutes=7)
    assert reap(beads, clock).blocked == ["x-1"]


@pytest.mark.parametrize("source", ACTIVITY)
def test_an_agent_whose_clock_is_ahead_lives_as_long_as_it_writes(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock, source: str
) -> None:
    """Ten minutes ahead, two hours long; its last write counts as the pass that saw it."""
    beads.add("x-1")
    make_dispatcher().run_once()
    for minute in range(0, 120, 5):
        write(beads, source, clock() + timedelta(minutes=10))
        if minute % 10 == 0:
            assert reap(beads, clock) == reaper.ReapResult()
        clock.passed += timedelta(minutes=5)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(minutes=29)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(minutes=2)
    assert reap(beads, clock).blocked == ["x-1"]


def test_however_much_is_dated_ahead(beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock) -> None:
    """An agent in another year wrote for hours: the mark on its bead stays small, so that the bead can be claimed."""
    beads.add("x-1")
    make_dispatcher().run_once()
    for second in range(120):
        write(beads, "comment", clock() + timedelta(days=365, seconds=second))
    reap(beads, clock)
    assert len(str(beads.row("x-1")["metadata"])) < 1000
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == ["x-1"]
    beads.sql("UPDATE issues SET status = 'open' WHERE id = 'x-1'")
    make_dispatcher().run_once()
    reap(beads, clock)
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == ["x-1"]


def test_a_claim_that_is_dated_ahead_is_reaped(beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock) -> None:
    """The dispatcher's clock was wrong: so are the claim's moment, the bead's and the audit row's."""
    beads.add("x-1")
    clock.passed = timedelta(days=3650)
    make_dispatcher().run_once()
    clock.passed = timedelta()
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(minutes=29)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(minutes=2)
    assert reap(beads, clock).blocked == ["x-1"]


def test_an_orphaned_claim_that_is_dated_ahead_is_released(beads: Beads, clock: Clock) -> None:
    """After the 120 s of any other, from the pass that saw it."""
    beads.add("x-1")
    clock.passed = timedelta(days=3650)
    (queued,) = beads.store.eligible.first("agent", clock(), 1)
    beads.store.claims.claim(queued, clock())
    clock.passed = timedelta()
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(seconds=115)
    assert reap(beads, clock) == reaper.ReapResult()
    clock.passed += timedelta(seconds=10)
    assert reap(beads, clock).reopened == ["x-1"]


def test_an_unknown_outcome_that_is_dated_ahead_is_asked_for(beads: Beads, clock: Clock) -> None:
    """A claim whose moment is wrong is old 120 s after reap saw it."""
    limits = DispatchLimits()
    beads.add("x-1")
    clock.passed = timedelta(days=3650)
    (queued,) = beads.store.eligible.first("agent", clock(), 1)
    beads.store.claims.record_unknown(beads.store.claims.claim(queued, clock()), "no answer", clock())
    clock.passed = timedelta()
    reap(beads, clock)
    ((bead, _),) = beads.store.activity.in_progress("agent", clock())
    assert not reaper.is_unresolved(bead, limits, clock())
    assert reaper.is_unresolved(bead, limits, clock() + timedelta(seconds=125))


def test_a_tick_requests_the_pass_that_sees_it(beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock) -> None:
    """Nothing is inactive yet, and without that pass nothing ever would be."""
    beads.add("x-1")
    make_dispatcher().run_once()
    check = EligibilityCheck(beads.store, DispatchLimits(), None)
    assert check.count_reapable() == 0
    write(beads, "comment", clock() + timedelta(days=36500))
    assert check.count_reapable() == 1
    reap(beads, clock)
    assert check.count_reapable() == 0


def test_the_mark_is_of_one_claim(beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock) -> None:
    """Not written where that was released meanwhile, and no change of the bead: a claim is read back unchanged."""
    beads.add("x-1")
    make_dispatcher().run_once()
    write(beads, "comment", clock() + timedelta(days=36500))
    ((bead, _),) = beads.store.activity.in_progress("agent", clock())
    before = beads.row("x-1")
    beads.store.claims.mark_seen(replace(bead, record=replace(bead.record, claim="another")), clock())
    assert beads.row("x-1") == before
    beads.store.claims.mark_seen(bead, clock())
    after = beads.row("x-1")
    assert after["metadata"] != before["metadata"]
    assert {**after, "metadata": ""} == {**before, "metadata": ""}


def test_what_was_blocked_is_released_in_bulk_all_the_same(beads: Beads, clock: Clock) -> None:
    """`release --outcome unknown` lists what nobody touched since reap blocked it, whatever is dated ahead there."""
    beads.add("x-1")
    (queued,) = beads.store.eligible.first("agent", clock(), 1)
    begun = clock() - timedelta(minutes=1)
    beads.store.claims.record_unknown(beads.store.claims.claim(queued, clock()), "no answer", clock())
    write(beads, "comment", clock() + timedelta(days=36500))
    reap(beads, clock)
    clock.passed += timedelta(minutes=31)
    assert reap(beads, clock).blocked == ["x-1"]
    assert [bead.id for bead in beads.store.activity.reaped_unresolved("agent", begun)] == ["x-1"]
    write(beads, "comment", clock() + timedelta(days=36501))
    assert beads.store.activity.reaped_unresolved("agent", begun) == []


def test_a_hold_that_a_clock_years_ahead_began_holds_nothing(
    beads: Beads, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """No hold is longer than an hour; one by a clock that is some minutes ahead is obeyed."""
    beads.add("x-1")
    hold = store.Hold(2, clock() + timedelta(minutes=65), "it refuses every bead")
    beads.store.control.set_hold("agent", store.Hold(), hold)
    assert [type(outcome) for outcome in make_dispatcher().run_once()] == [Held]
    beads.store.control.set_hold("agent", hold, replace(hold, until=datetime(2100, 1, 1, tzinfo=UTC)))
    assert isinstance(make_dispatcher().run_once()[0], Dispatched)
    assert not beads.store.control.hold("agent").failures


def test_a_retry_delay_that_a_clock_years_ahead_began_is_none(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """No retry delay is longer than half an hour; one by a clock that is some minutes ahead is obeyed."""
    beads.add("x-1")
    agent.behaviour = support.answers(400)
    for ahead, waits in ((timedelta(minutes=20), True), (timedelta(days=36500), False)):
        beads.sql("UPDATE issues SET metadata = '{}' WHERE id = 'x-1'")
        clock.passed = ahead
        assert isinstance(make_dispatcher().run_once()[0], Rejected)
        clock.passed = timedelta()
        (found,) = beads.store.eligible.diagnose("agent", clock())
        assert found.holds(except_for="retry") and found.holds() is not waits
    agent.behaviour = support.job
    assert isinstance(make_dispatcher().run_once()[0], Dispatched)


def test_what_a_clock_years_ahead_dated_is_not_the_last_that_the_agent_did(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """A bead that it accepted then, and one that it refused: beads in a row are counted without them."""
    clock.passed = timedelta(days=36500)
    for bead, answer in (("old-1", support.job), ("old-2", support.answers(400))):
        agent.behaviour = answer
        beads.add(bead)
        make_dispatcher(max_in_flight=100).run_once()
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'old-1'")
    clock.passed = timedelta()
    assert beads.store.activity.refused_in_a_row("agent", clock()) == []
    assert not beads.store.activity.lasted("agent", clock(), clock(), LASTING)
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'old-2'")
    names = [f"x-{number}" for number in range(8)]
    beads.insert(names)
    beads.commit("a queue")
    make_dispatcher(health=True, max_in_flight=100).run_once()
    assert agent.posts == ["old-1", "old-2", *names[:3]]
    assert beads.store.control.hold("agent").refusing


def test_a_job_that_a_clock_years_ahead_dated_lasts_no_longer_than_others(beads: Beads, clock: Clock) -> None:
    """It hides none of those that failed in a row."""
    for bead, status, at in (("old-1", "closed", clock() + timedelta(days=36500)), ("x-1", "open", clock())):
        beads.add(bead)
        (queued,) = beads.store.eligible.first("agent", clock() + timedelta(days=36501), 1)
        claimed = beads.store.claims.claim(queued, at)
        record = replace(claimed.record, job="job-1", failed_at=notes.timestamp(at) if status == "open" else None)
        metadata = json.dumps({"dispatch": json.loads(record.to_json())})
        beads.sql("UPDATE issues SET status = %s, metadata = %s WHERE id = %s", status, metadata, bead)
    assert [bead.id for bead in beads.store.activity.failed_in_a_row("agent", clock(), LASTING)] == ["x-1"]


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
