"""Time starts work: the feeder requests a pass when a moment comes, on a real Dolt with bd's own commands."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import notes, settings, store
from beads_dispatch.cli import main
from feeder.changes import RequestReason
from feeder.eligibility_check import EligibilityCheck
from feeder.requests import DueMoment, PendingRequest
from tests import support
from tests.conftest import Beads
from tests.integration.test_feed import Running


@pytest.fixture
def feeder(beads: Beads, sink: support.Sink) -> Iterator[Callable[[], Running]]:
    """Starts a feed that runs to the end of the test."""
    with contextlib.ExitStack() as running:

        def start() -> Running:
            started = running.enter_context(contextlib.closing(Running(beads.dolt, sink.url)))
            started.wait_until_started(beads)
            return started

        yield start


def moment(later: timedelta) -> datetime:
    """A whole second that is to come, as Dolt keeps it."""
    return (datetime.now(UTC) + later).replace(microsecond=0)


def soon(beads: Beads) -> datetime:
    """A moment that is still to come when a bd command has written it and the feeder has read it, also on a machine on
    which both take seconds: the wait is measured by a bd command."""
    started = time.monotonic()
    beads.workspace.run("list", "--json")
    return moment(timedelta(seconds=3 + 8 * (time.monotonic() - started)))


def text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def requested(sink: support.Sink, cause: str, after: int = 0) -> bool:
    """Whether a pass was requested for this cause, after so many events."""
    return any(event.extensions.get("cause") == cause for event in list(sink.received)[after:])


def wait_until_due(sink: support.Sink, at: datetime) -> None:
    """A pass is requested because a moment has come, and not before it."""
    support.wait_for(lambda: requested(sink, "due"), "a pass is requested at the moment")
    assert datetime.now(UTC) >= at


def by_bd_defer(beads: Beads, at: datetime) -> None:
    beads.workspace.run("defer", "x-1", "--until", text(at))


def by_bd_update(beads: Beads, at: datetime) -> None:
    beads.workspace.run("update", "x-1", "--defer", text(at))


def by_a_parents_date(beads: Beads, at: datetime) -> None:
    beads.add("x-parent", assignee=None)
    beads.depend(("x-1", "x-parent", "parent-child"))
    beads.workspace.run("update", "x-parent", "--defer", text(at))


def by_a_retry_delay(beads: Beads, at: datetime) -> None:
    record = json.dumps({"dispatch": {"failures": 1, "retry_at": text(at)}})
    beads.sql("UPDATE issues SET metadata = %s, updated_at = UTC_TIMESTAMP() WHERE id = 'x-1'", record)


def by_a_hold(beads: Beads, at: datetime) -> None:
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(1, at, "the agent was down"))


HELD_BACK = [by_bd_defer, by_bd_update, by_a_parents_date, by_a_retry_delay, by_a_hold]


@pytest.mark.parametrize("hold_back", HELD_BACK)
def test_a_pass_is_requested_when_the_moment_comes(
    beads: Beads, sink: support.Sink, feeder: Callable[[], Running], hold_back: Callable[[Beads, datetime], None]
) -> None:
    """No tick, and nobody runs bd: not before the moment, and once."""
    feeder()
    beads.add("x-1")
    at = soon(beads)
    hold_back(beads, at)
    wait_until_due(sink, at)
    assert [bead.id for bead in beads.store.eligible.first("agent", datetime.now(UTC), 9)] == ["x-1"]


def test_a_bead_that_is_created_with_a_date_starts_then(
    beads: Beads, sink: support.Sink, feeder: Callable[[], Running]
) -> None:
    """bd create --defer."""
    feeder()
    at = soon(beads)
    beads.workspace.run("create", "Later", "--assignee", "agent", "--acceptance", "Done.", "--defer", text(at))
    wait_until_due(sink, at)


def test_a_moment_that_is_moved_counts_as_it_stands(
    beads: Beads, sink: support.Sink, feeder: Callable[[], Running]
) -> None:
    """From far away to soon: requested soon. One that is removed: the change itself requests the pass."""
    feeder()
    beads.add("x-1")
    by_bd_defer(beads, moment(timedelta(days=30)))
    at = soon(beads)
    by_bd_defer(beads, at)
    wait_until_due(sink, at)
    by_bd_defer(beads, moment(timedelta(days=30)))
    before = len(sink.received)
    beads.workspace.run("undefer", "x-1")
    support.wait_for(lambda: requested(sink, "change", before), "the change requests a pass")


def test_a_moment_that_passed_while_no_feeder_ran_is_not_missed(
    beads: Beads, sink: support.Sink, feeder: Callable[[], Running]
) -> None:
    """The first request of a feeder that starts covers it."""
    beads.add("x-1", status="deferred", defer_until=datetime(2026, 1, 1))
    feeder()
    support.wait_for(lambda: requested(sink, "resume"), "the start requests a pass")


def test_the_end_of_a_hold_by_hand_requests_a_pass(
    beads: Beads, sink: support.Sink, feeder: Callable[[], Running]
) -> None:
    """beads-dispatch resume --now: what waited is dispatched at once, not at the next tick."""
    feeder()
    env = {"BEADS_DIR": str(beads.workspace.beads_dir)}
    by_a_hold(beads, moment(timedelta(hours=1)))
    assert main.run(["resume"], env) == 0  # so that bd's config does not change with the next
    beads.add("x-1")
    before = len(sink.received)
    assert main.run(["resume", "--now"], env) == 0
    support.wait_for(lambda: requested(sink, "resume", before), "the end of the hold requests a pass")


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def causes(pending: PendingRequest) -> list[str]:
    found: list[RequestReason] = []
    while (reason := pending.take(0)) is not None:
        found.append(reason)
    return [reason.cause for reason in found]


def test_a_clock_that_jumps_skips_no_moment(beads: Beads) -> None:
    """Forwards over the moment: it is due at once. Back again: the moment is still to come, and comes."""
    beads.add("x-1", status="deferred", defer_until=moment(timedelta(hours=1)).replace(tzinfo=None))
    clock, pending = SetClock(), PendingRequest()
    with contextlib.closing(store.Store(beads.dolt)) as own:
        moments = DueMoment(EligibilityCheck(own, settings.DispatchLimits(), None), clock)
        moments.look(pending)
        assert causes(pending) == []
        clock.ahead = timedelta(hours=2)
        assert moments.seconds_left() == 0
        moments.look(pending)
        assert causes(pending) == ["due"]
        clock.ahead = timedelta()
        moments.look(pending)  # finds that the clock was set back, and reads again
        clock.ahead = timedelta(hours=1, seconds=1)
        moments.look(pending)
        assert causes(pending) == ["due"]


def test_a_moment_survives_dolt_being_away(beads: Beads) -> None:
    """What cannot be read is read at the next look; the look raises, so that it is logged and waited for."""
    at = moment(timedelta(hours=1))
    beads.add("x-1", status="deferred", defer_until=at.replace(tzinfo=None))
    pending = PendingRequest()

    class Away(EligibilityCheck):
        is_away = True

        def next_due(self, now: datetime) -> datetime | None:
            if self.is_away:
                raise store.StoreError("away")
            return super().next_due(now)

    with contextlib.closing(store.Store(beads.dolt)) as own:
        check = Away(own, settings.DispatchLimits(), None)
        moments = DueMoment(check)
        with pytest.raises(store.StoreError):
            moments.look(pending)
        check.is_away = False
        moments.look(pending)
        assert check.next_due(datetime.now(UTC)) == at
        assert moments.seconds_left() == 1


def test_a_hundred_thousand_moments_cost_one_row(beads: Beads) -> None:
    """The next of them is found without reading the others, where the schema has an index; and never all of them."""
    first = moment(timedelta(days=1))
    many = [f"y-{number}" for number in range(5000)]
    beads.insert(many, assignee="bob", status="deferred", defer_until=(first + timedelta(days=1)).replace(tzinfo=None))
    beads.add("x-1", status="deferred", defer_until=first.replace(tzinfo=None))
    assert beads.store.eligible.next_due("agent", datetime.now(UTC)) == first
    assert beads.store.eligible.next_due("agent", first) == first + timedelta(days=1)
    assert beads.store.eligible.next_due("agent", first + timedelta(days=1)) is None


def test_waiting_ends_when_a_moment_moves() -> None:
    """The thread that waits for a reason reads the moments anew at once, not after its second."""
    pending = PendingRequest()
    threading.Timer(0.05, pending.add_moved).start()
    assert pending.take(support.PATIENCE_SECONDS) is None
    assert pending.take_moved() and not pending.take_moved()


def test_a_retry_moment_that_a_person_wrote_badly_is_passed_over(beads: Beads) -> None:
    """Text that is no moment is nobody's next moment."""
    later = moment(timedelta(minutes=5))
    for bead, written in (("x-1", "tomorrow"), ("x-2", "9999-99-99"), ("x-3", notes.timestamp(later))):
        metadata = json.dumps({"dispatch": {"retry_at": written}})
        beads.add(bead, metadata=metadata, updated_at=datetime.now(UTC).replace(tzinfo=None))
    assert beads.store.eligible.next_due("agent", datetime.now(UTC)) == later
