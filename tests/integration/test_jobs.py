"""How a job ends, seen by reap: on a real Dolt with a real HTTP agent that tells of its jobs."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from beads_dispatch import events, notes, reaper, settings
from beads_dispatch.agents import beadboard
from beads_dispatch.bead import DispatchRecord
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import Dispatched, Held, NoSlot, NothingEligible, Rejected, StillRunning
from beads_dispatch.reaper import ReapResult
from beads_dispatch.store import Hold
from feeder.emitter import Emitter
from feeder.job_watch import JobWatch
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock
from tests.integration.test_dispatch import kinds, record

MANY = 10**6


@pytest.fixture
def backend(agent: support.Agent) -> beadboard.BeadBoard:
    """BeadBoard with claude-agent-service behind it, both at the same address."""
    return beadboard.BeadBoard(
        settings.AgentSettings(agent.url, timeout_seconds=support.PATIENCE_SECONDS, jobs_url=agent.url)
    )


@pytest.fixture
def dispatch(beads: Beads, backend: beadboard.BeadBoard, clock: Clock) -> Dispatcher:
    clock.stop()
    return Dispatcher(beads.store, backend, settings.DispatchLimits(max_in_flight=MANY), clock, clock.sleep)


@pytest.fixture
def reap(beads: Beads, backend: beadboard.BeadBoard, clock: Clock) -> Callable[[], ReapResult]:
    return lambda: reaper.run_once(beads.store, settings.DispatchLimits(), clock(), backend)


Reap = Callable[[], ReapResult]


def job(beads: Beads, bead: str) -> str:
    found = record(beads, bead).job
    assert found
    return found


@pytest.fixture
def watch(beads: Beads, backend: beadboard.BeadBoard, sink: support.Sink) -> Iterator[JobWatch]:
    feeder = settings.FeederSettings(sink.url, {}, sink_timeout_seconds=support.PATIENCE_SECONDS)
    with support.closing(Emitter(feeder)) as emitter:
        yield JobWatch(beads.store, settings.DispatchLimits(), backend, emitter)


def test_a_job_that_runs_is_activity(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """However long its agent writes nothing; and it keeps its slot."""
    beads.add("x-1")
    dispatch.run_once()
    clock.passed += timedelta(hours=5)
    assert reap() == ReapResult()
    beads.add("x-2")
    dispatch.limits = settings.DispatchLimits(max_in_flight=1)
    agent.active = 1
    assert kinds(dispatch.run_once()) == [NoSlot]


def test_a_job_that_ended_well_and_left_its_bead_is_blocked_after_a_minute(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """Not before: the agent may be about to close it."""
    beads.add("x-1")
    dispatch.run_once()
    clock.passed += timedelta(minutes=5)
    agent.phase = "completed"
    assert reap() == ReapResult()
    clock.passed += timedelta(seconds=59)
    assert reap() == ReapResult()
    clock.passed += timedelta(seconds=1)
    name = job(beads, "x-1")
    assert reap() == ReapResult(blocked=["x-1"])
    assert beads.row("x-1")["status"] == "blocked"
    assert beads.notes("x-1")[-1] == f"reaper: job {name} ended and left the bead in progress — blocking"
    assert record(beads, "x-1").claim is None


@pytest.mark.parametrize(
    ("phase", "why"),
    [
        ("failed", "failed: exit status 1"),
        ("", "the service does not know the job: it was restarted, or lost it"),
    ],
)
def test_a_job_that_failed_or_was_lost_reopens_its_bead(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent, phase: str, why: str
) -> None:
    """With a retry delay, and counted as one of its jobs."""
    beads.add("x-1")
    dispatch.run_once()
    clock.passed += timedelta(minutes=5)
    agent.phase = phase
    name = job(beads, "x-1")
    assert reap() == ReapResult(reopened=["x-1"])
    assert beads.row("x-1")["status"] == "open"
    assert beads.notes("x-1")[-1] == f"reaper: job {name} failed: {why} — reopening"
    kept = record(beads, "x-1")
    assert (kept.jobs, kept.claim, kept.job) == (1, None, name)
    assert kinds(dispatch.run_once()) == [NothingEligible]
    clock.passed += timedelta(minutes=2)
    assert kinds(dispatch.run_once()) == [Dispatched, NothingEligible]


def test_a_job_that_was_called_lost_and_runs_after_all_is_not_started_again(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """A backend may forget its jobs for a moment, while its own database is away."""
    beads.add("x-1")
    dispatch.run_once()
    clock.passed += timedelta(minutes=5)
    agent.phase = ""
    assert reap().reopened == ["x-1"]
    agent.phase = "running"
    clock.passed += timedelta(minutes=2)
    assert kinds(dispatch.run_once()) == [StillRunning, NothingEligible]
    assert agent.posts == ["x-1"]


def test_a_404_of_another_service_is_no_loss(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """It is not claude-agent-service that answers: every job would be lost at once, and started again."""
    beads.add("x-1")
    dispatch.run_once()
    agent.report_load = support.answers(404, b"<html>", "text/html")
    clock.passed += timedelta(minutes=5)
    assert reap() == ReapResult()
    clock.passed += timedelta(minutes=26)
    assert reap() == ReapResult(blocked=["x-1"])
    assert beads.notes("x-1")[-1].startswith(notes.NO_PROGRESS)


def test_jobs_that_fail_at_once_cost_three_beads_and_count_none(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """A broken agent: then one bead after each hold, and the rest when a job lasts."""
    names = [f"x-{index}" for index in range(9)]
    beads.insert(names)
    beads.commit("a queue")
    dispatch.limits = settings.DispatchLimits(max_in_flight=1)
    agent.phase = "failed"
    agent.on_post = lambda bead: setattr(agent, "active", 1)
    spent: list[str] = []
    ends = clock() + timedelta(hours=1)
    while clock() < ends:
        spent += [outcome.bead.id for outcome in dispatch.run_once() if isinstance(outcome, Dispatched)]
        clock.passed += timedelta(seconds=5)
        agent.active = 0
        reap()
        clock.passed += timedelta(seconds=10)
    assert spent[:3] == names[:3] and len(set(spent)) <= 4
    assert beads.store.control.hold("agent").failing
    kept = [record(beads, name) for name in names]
    assert {(one.jobs, one.failures, one.failed_at) for one in kept} == {(0, 0, None)}
    assert {beads.row(name)["status"] for name in names} == {"open"}
    agent.phases = {one.job: "failed" for one in kept if one.job}
    agent.phase = "running"
    agent.on_post = lambda bead: None
    clock.passed += timedelta(hours=1)
    assert kinds(dispatch.run_once())[0] is Dispatched
    dispatch.limits = settings.DispatchLimits(max_in_flight=MANY)
    assert kinds(dispatch.run_once()) == [NoSlot]
    clock.passed += timedelta(seconds=61)
    assert kinds(dispatch.run_once()).count(Dispatched) == 8
    assert not beads.store.control.hold("agent").failures


def test_jobs_that_fail_together_are_one_failure(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """With many slots all of them fail at once: one short hold, and nobody's count."""
    names = [f"x-{index}" for index in range(9)]
    beads.insert(names)
    beads.commit("a queue")
    dispatch.run_once()
    agent.phase = ""
    clock.passed += timedelta(seconds=5)
    assert sorted(reap().reopened) == names
    assert beads.store.control.hold("agent").failures == 1
    assert {record(beads, name).jobs for name in names} == {0}


def test_one_job_of_which_nothing_is_told_hides_no_other(
    beads: Beads,
    dispatch: Dispatcher,
    reap: Reap,
    clock: Clock,
    agent: support.Agent,
    sink: support.Sink,
    watch: JobWatch,
) -> None:
    """An answer that cannot be used is that job's, not the agent's: reap acts on the others, and so does the feeder."""
    for number in range(3):
        beads.add(f"x-{number}")
    dispatch.run_once()
    agent.phases = {job(beads, "x-0"): "odd", job(beads, "x-1"): "failed"}
    clock.passed += timedelta(minutes=5)
    assert watch.look(clock) and watch.running == {("", "x-2")}
    assert [event.extensions["cause"] for event in sink.of_type(events.REAP_REQUESTED)] == ["job"]
    assert reap() == ReapResult(reopened=["x-1"])


def test_a_service_that_tells_nothing_is_not_asked_for_each_job(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """Three answers that cannot be used are the agent's."""
    for number in range(8):
        beads.add(f"x-{number}")
    dispatch.run_once()
    clock.passed += timedelta(minutes=5)
    agent.phase, asked = "odd", len(agent.asked)
    assert reap() == ReapResult()
    assert len(agent.asked) - asked == 3


def test_two_bad_beads_hold_nobody(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """Their own jobs fail at once; they are tried again later, and others are not delayed."""
    for name in ("x-1", "x-2", "x-3"):
        beads.add(name)
    dispatch.run_once()
    agent.phases = {job(beads, "x-1"): "failed", job(beads, "x-2"): "failed"}
    clock.passed += timedelta(seconds=5)
    assert sorted(reap().reopened) == ["x-1", "x-2"]
    assert not beads.store.control.hold("agent").failures
    assert record(beads, "x-1").jobs == 1


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_beads_whose_jobs_failed_are_none_that_were_refused(
    beads: Beads, dispatch: Dispatcher, reap: Reap, clock: Clock, agent: support.Agent
) -> None:
    """They have a retry delay as after a refusal, but the agent took them: the next refusal is that bead's own."""
    names = ["x-1", "x-2"]
    for name in names:
        beads.add(name)
    dispatch.run_once()
    clock.passed += timedelta(minutes=5)
    agent.phase = "failed"
    assert sorted(reap().reopened) == names
    agent.behaviour = support.answers(400)
    beads.add("x-3")
    assert kinds(dispatch.run_once()) == [Rejected, NothingEligible]


def test_a_bead_that_is_opened_again_while_its_job_runs_starts_no_second_one(
    beads: Beads, dispatch: Dispatcher, clock: Clock, agent: support.Agent
) -> None:
    """It waits for that job; others go on."""
    beads.add("x-1", priority=0)
    dispatch.run_once()
    beads.workspace.run("update", "x-1", "--status", "open")
    beads.add("x-2")
    assert kinds(dispatch.run_once()) == [StillRunning, Dispatched, NothingEligible]
    assert agent.posts == ["x-1", "x-2"]
    agent.phase = "failed"
    assert kinds(dispatch.run_once()) == [Dispatched, NothingEligible]


def test_a_held_agent_starts_nothing(beads: Beads, dispatch: Dispatcher, clock: Clock) -> None:
    """The hold of one agent is another's business: it holds by name."""
    beads.add("x-1")
    control, down = beads.store.control, Hold(1, clock() + timedelta(minutes=1), "down")
    control.set_hold("agent:other", control.hold("agent:other"), down)
    assert kinds(dispatch.run_once()) == [Dispatched, NothingEligible]
    control.set_hold("agent", control.hold("agent"), down)
    beads.add("x-2")
    assert kinds(dispatch.run_once()) == [Held]


def test_records_of_jobs_survive_a_round_trip() -> None:
    """What reap writes is read again."""
    kept = DispatchRecord(claim="c", job="j", ended_at="2026-07-15T09:30:00Z", failed_at="2026-07-15T09:30:00Z")
    assert DispatchRecord.from_json(kept.to_json()) == kept


def test_the_feeder_knows_whose_job_runs(
    beads: Beads, dispatch: Dispatcher, agent: support.Agent, watch: JobWatch
) -> None:
    """As the backend told last; of one that cannot be reached, nothing."""
    beads.add("x-1")
    dispatch.run_once()
    assert watch.look() and watch.running == {("", "x-1")}
    agent.phase = "completed"
    watch.look()
    assert watch.running == set()
