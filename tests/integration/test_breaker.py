"""A fault of the agent costs few beads, however long the queue is; on a real Dolt with a real HTTP agent."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import pytest

from beads_dispatch import notes, outcomes
from beads_dispatch.cli import main
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import AgentFailed, Dispatched, GivenUp, Held, OutcomeUnknown, Rejected
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory
from tools import servers
from tools.servers import Behaviour

QUEUE = 25
MANY = 10**6
HTML = support.answers(200, b"<html><body>Not this page</body></html>", "text/html")


def queue(beads: Beads, number: int = QUEUE) -> list[str]:
    names = [f"x-{index:03}" for index in range(number)]
    beads.insert(names)
    beads.commit("a queue")
    return names


def passes(dispatch: Dispatcher, clock: Clock, minutes: float) -> list[outcomes.Outcome]:
    """What passes do in so many minutes: one each 30 s, as ticks and changes bring them."""
    found: list[outcomes.Outcome] = []
    ends = clock() + timedelta(minutes=minutes)
    while clock() < ends:
        found += dispatch.run_once()
        clock.passed += timedelta(seconds=30)
    return found


@contextlib.contextmanager
def failing_status(agent: support.Agent) -> Iterator[None]:
    """BeadBoard's status fails as well: all of it is away, not one route. The agent's /health is another service."""
    whole = agent.report_load
    agent.report_load = lambda handler: handler.answer(502) if "agent-status" in handler.path else whole(handler)
    yield
    agent.report_load = whole


@pytest.mark.parametrize("health", [True, False], ids=["beside AGENT_HEALTH_URL", "alone"])
@pytest.mark.parametrize("behaviour", [HTML, support.hangs_up, servers.stalls], ids=["HTML", "cut", "never answers"])
def test_an_answer_that_cannot_be_used_costs_few_beads(
    beads: Beads,
    agent: support.Agent,
    make_dispatcher: DispatcherFactory,
    clock: Clock,
    behaviour: Behaviour,
    health: bool,
) -> None:
    """At most 3 of them at first, at most 4 in the first hour; the hold gives the reason, and the rest go in order."""
    names = queue(beads)
    agent.behaviour = behaviour
    dispatch = make_dispatcher(health=health, timeout_seconds=1, max_in_flight=MANY)
    at_first = passes(dispatch, clock, 5)
    assert 1 <= sum(isinstance(outcome, OutcomeUnknown) for outcome in at_first) <= 3
    assert "no usable answer" in beads.store.control.hold("agent").reason
    in_the_hour = at_first + passes(dispatch, clock, 55)
    spent = [outcome.bead.id for outcome in in_the_hour if isinstance(outcome, OutcomeUnknown)]
    assert len(spent) <= 4 and spent == names[: len(spent)]
    agent.behaviour = support.job
    clock.passed += timedelta(hours=1)
    before = len(agent.posts)
    dispatch.run_once()
    assert agent.posts[before:] == names[len(spent) :]


def test_an_agent_that_is_wholly_away_costs_one_bead(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Beside AGENT_HEALTH_URL: after the first failure BeadBoard's status is asked before the next bead is claimed."""
    queue(beads)
    agent.behaviour = HTML
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    with failing_status(agent):
        found = passes(dispatch, clock, 60)
    assert sum(isinstance(outcome, OutcomeUnknown) for outcome in found) == 1
    assert all(isinstance(o, OutcomeUnknown | Held) or (isinstance(o, AgentFailed) and o.bead is None) for o in found)
    assert len(agent.posts) == 1


def test_an_agent_that_refuses_every_bead_costs_few_and_counts_none(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """400 to everything, its own database is away: 3 beads at first, 4 in the first hour, none counted or blocked."""
    names = queue(beads, 200)
    agent.behaviour = support.answers(400, b'{"error": "no such task"}')
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    passes(dispatch, clock, 5)
    assert sorted(set(agent.posts)) == names[:3]
    assert beads.store.control.hold("agent").refusing
    passes(dispatch, clock, 55)
    assert sorted(set(agent.posts)) == names[:4]
    found = [found.bead for found in beads.store.eligible.diagnose("agent", clock())]
    assert {bead.status for bead in found} == {"open"} and len(found) == 200
    assert {(bead.record.failures, bead.record.retry_at) for bead in found} == {(0, None)}
    assert notes.not_counted() in beads.notes("x-000")
    agent.behaviour = support.job
    clock.passed += timedelta(hours=1)
    before = len(agent.posts)
    dispatch.stopping = lambda: len(agent.posts) == before + 10
    assert [type(outcome) for outcome in dispatch.run_once()[:-1]] == [Dispatched] * 10
    assert not beads.store.control.hold("agent").failures


@pytest.mark.parametrize("health", [True, False], ids=["beside AGENT_HEALTH_URL", "alone"])
@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_beads_that_come_slowly_to_an_agent_that_refuses_every_bead_cost_few(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock, health: bool
) -> None:
    """One every 3 minutes, each tried again before the next one comes: at most 3 are counted, and none is blocked."""
    names = [f"x-{index:03}" for index in range(QUEUE)]
    agent.behaviour = support.answers(400, b'{"error": "no such task"}')
    dispatch = make_dispatcher(health=health, max_in_flight=MANY)
    clock.stop()
    found: list[outcomes.Outcome] = []
    for name in names:
        beads.add(name)
        found += passes(dispatch, clock, 3)
    assert {outcome.bead.id for outcome in found if isinstance(outcome, Rejected)} <= set(names[:3])
    assert beads.store.control.hold("agent").refusing
    rows = [beads.row(name) for name in names]
    assert {row["status"] for row in rows} == {"open"}
    assert {found.bead.record.failures for found in beads.store.eligible.diagnose("agent", clock())} == {0}
    agent.behaviour = support.job
    clock.passed += timedelta(hours=1)
    before = len(agent.posts)
    dispatch.run_once()
    assert sorted(agent.posts[before:]) == names


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_beads_that_come_once_an_hour_to_an_agent_that_refuses_every_bead_cost_few(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Each is refused five times before the next one comes: the two that are blocked by then count as well."""
    names = [f"x-{index}" for index in range(6)]
    agent.behaviour = support.answers(400)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    clock.stop()
    for name in names:
        beads.add(name)
        passes(dispatch, clock, 60)
    assert [beads.row(name)["status"] for name in names] == ["blocked"] * 2 + ["open"] * 4
    assert beads.store.control.hold("agent").refusing


@pytest.mark.parametrize("health", [True, False], ids=["beside AGENT_HEALTH_URL", "alone"])
@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_short_queue_is_not_blocked_by_an_agent_whose_status_fails(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock, health: bool
) -> None:
    """Two beads, refused four times each before the status fails as well: all of these refusals are taken back."""
    names = ["x-1", "x-2"]
    for name in names:
        beads.add(name)
    agent.behaviour = support.answers(400)
    dispatch = make_dispatcher(health=health, max_in_flight=MANY)
    clock.stop()
    passes(dispatch, clock, 20)
    assert [beads.store.claims.read_back(name).record.failures for name in names] == [4, 4]  # type: ignore[union-attr]
    with failing_status(agent):
        passes(dispatch, clock, 40)
    assert {beads.row(name)["status"] for name in names} == {"open"}
    assert [beads.store.claims.read_back(name).record.failures for name in names] == [0, 0]  # type: ignore[union-attr]
    assert "agent-status" in beads.store.control.hold("agent").reason
    agent.behaviour = support.job
    clock.passed += timedelta(minutes=10)
    assert [type(outcome) for outcome in dispatch.run_once()[:2]] == [Dispatched, Dispatched]


def test_a_refusal_whose_agent_fails_a_status_request_is_not_counted(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Beside AGENT_HEALTH_URL nobody has asked BeadBoard itself before: it is asked after the first refusal."""
    for name in ("x-1", "x-2"):
        beads.add(name)
    agent.behaviour = support.answers(400)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    with failing_status(agent):
        found = passes(dispatch, clock, 60)
    assert agent.posts == ["x-1"]
    assert all(isinstance(outcome, AgentFailed | Held) for outcome in found)
    assert beads.notes("x-1")[-1].startswith("dispatch failed HTTP 400")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_bad_beads_alone_are_blocked(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock, number: int
) -> None:
    """Refused five times by an agent whose status is well; also where an outage came before."""
    names = queue(beads, number)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    clock.stop()
    agent.behaviour = support.answers(503)
    passes(dispatch, clock, 5)
    agent.behaviour = support.answers(400)
    clock.passed += timedelta(minutes=10)
    passes(dispatch, clock, 50)
    assert {beads.row(name)["status"] for name in names} == {"blocked"}


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_refusal_of_every_bead_that_follows_an_outage_costs_few(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """The beads with which the agent failed, and which it has not taken since, are counted no more than others."""
    names = queue(beads, 6)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    clock.stop()
    agent.behaviour = support.answers(503)
    passes(dispatch, clock, 120)
    agent.behaviour = support.answers(400)
    found = passes(dispatch, clock, 60)
    assert len({outcome.bead.id for outcome in found if isinstance(outcome, Rejected)}) <= 3
    assert {beads.row(name)["status"] for name in names} == {"open"}
    assert {found.bead.record.failures for found in beads.store.eligible.diagnose("agent", clock())} == {0}


def test_three_refused_beads_with_an_accepted_one_between_are_their_own_fault(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Each is refused for itself: counted, and nothing is held."""
    bad = ["x-1", "x-2", "x-4"]
    for name in ("x-1", "x-2", "x-3", "x-4", "x-5"):
        beads.add(name)
    refuse, accept = support.answers(422), support.job
    agent.behaviour = lambda handler: (refuse if agent.posts[-1] in bad else accept)(handler)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    found = []
    for _ in range(5):
        found += dispatch.run_once()
        clock.passed += timedelta(seconds=1)
    assert [outcome.bead.id for outcome in found if isinstance(outcome, Rejected)] == bad
    assert [outcome.bead.id for outcome in found if isinstance(outcome, Dispatched)] == ["x-3", "x-5"]
    assert not beads.store.control.hold("agent").failures


def test_three_bad_beads_hold_up_the_others_once(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """As long as it seems that the agent refuses everything. Then they are refused for themselves, up to `blocked`,
    and what is assigned meanwhile is not delayed."""
    bad, good = ["a-1", "a-2", "a-3"], queue(beads, 5)
    beads.insert(bad, priority=0)
    beads.commit("bad beads")
    refuse = support.answers(422)
    agent.behaviours = dict.fromkeys(bad, refuse)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    passes(dispatch, clock, 7)
    assert set(good) <= set(agent.posts)
    passes(dispatch, clock, 20)
    beads.add("late")
    dispatch.run_once()
    assert agent.posts[-1] == "late"
    passes(dispatch, clock, 60)
    assert {beads.row(bead)["status"] for bead in bad} == {"blocked"}


def test_refusals_are_taken_back_when_the_agent_turns_out_to_be_away(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Two beads were refused, and then it does not even answer a status request: that was its fault too."""
    for name in ("x-1", "x-2"):
        beads.add(name)
    agent.behaviour = support.answers(400)
    dispatch = make_dispatcher(max_in_flight=MANY)
    assert [type(outcome) for outcome in dispatch.run_once()[:2]] == [Rejected, Rejected]
    beads.add("x-3")
    with failing_status(agent):
        assert isinstance(dispatch.run_once()[-1], AgentFailed)
    for name in ("x-1", "x-2"):
        assert beads.notes(name)[-1] == notes.not_counted()
        assert beads.store.claims.read_back(name).record.failures == 0  # type: ignore[union-attr]


def test_a_bead_that_its_agent_opens_again_and_again_is_given_up(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """As many jobs as MAX_ATTEMPTS, then blocked with words; a person who opens it again gives it as many more."""
    beads.workspace.run("create", "A bead", "--id", "x-1", "--assignee", "agent", "--acceptance", "Works.", "--force")
    dispatch = make_dispatcher(max_attempts=3, max_in_flight=MANY)

    def until_blocked() -> list[type]:
        found: list[outcomes.Outcome] = []
        while not any(isinstance(outcome, GivenUp) for outcome in found):
            found += dispatch.run_once()[:1]
            if beads.row("x-1")["status"] == "in_progress":
                beads.workspace.run("update", "x-1", "--status", "open", actor="agent")
        return [type(outcome) for outcome in found]

    assert until_blocked() == [Dispatched, Dispatched, Dispatched, GivenUp]
    assert beads.row("x-1")["status"] == "blocked"
    assert beads.notes("x-1")[-1] == notes.given_up(3)
    beads.workspace.run("update", "x-1", "--status", "open", actor="ann")
    assert until_blocked() == [Dispatched, Dispatched, Dispatched, GivenUp]
    beads.workspace.run("update", "x-1", "--status", "open", actor="ann")
    assert isinstance(dispatch.run_once()[0], Dispatched)


@pytest.mark.parametrize("actor", ["ann", "agent"])
@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_change_by_a_person_starts_the_count_of_jobs_anew(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, actor: str
) -> None:
    """After 2 of 3 jobs: 3 more follow, and 1 more where its agent changed the bead."""
    beads.workspace.run("create", "A bead", "--id", "x-1", "--assignee", "agent", "--acceptance", "Works.", "--force")
    dispatch = make_dispatcher(max_attempts=3, max_in_flight=MANY)

    def job() -> type:
        outcome = dispatch.run_once()[0]
        if isinstance(outcome, Dispatched):
            beads.workspace.run("update", "x-1", "--status", "open", actor="agent")
        return type(outcome)

    assert [job(), job()] == [Dispatched] * 2
    beads.workspace.run("update", "x-1", "--priority", "1", actor=actor)
    more = 3 if actor == "ann" else 1
    assert [job() for _ in range(more + 1)] == [*([Dispatched] * more), GivenUp]


def test_one_command_ends_what_an_outage_left(
    beads: Beads,
    agent: support.Agent,
    make_dispatcher: DispatcherFactory,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Listed first and nothing changed; then all are open again, each with a note, and the hold is over."""
    queue(beads, 3)
    agent.behaviour = HTML
    assert isinstance(make_dispatcher(max_in_flight=MANY).run_once()[-1], OutcomeUnknown)
    env = {"BEADS_DIR": str(beads.workspace.beads_dir), "BEADS_ACTOR": "ann"}
    before = beads.rows()
    release = ["release", "--outcome", "unknown", "--since", "2h"]
    assert main.run(release, env) == 0
    assert "x-000, claimed" in capsys.readouterr().out
    assert beads.rows() == before
    assert main.run(["release", "--outcome", "unknown", "--since", "2100-01-01", "--yes"], env) == 0
    assert beads.rows() == before
    assert main.run([*release, "--yes"], env) == 0
    assert beads.row("x-000")["status"] == "open"
    assert beads.notes("x-000")[-1] == notes.released("ann")
    assert beads.store.control.hold("agent").failures == 1
    assert main.run(["resume", "--now"], env) == 0
    assert not beads.store.control.hold("agent").failures
    agent.behaviour = support.job
    assert [type(outcome) for outcome in make_dispatcher(max_in_flight=MANY).run_once()[:3]] == [Dispatched] * 3
    assert main.run(["release", "--outcome", "unknown", "--since", "soon"], env) == 1
    with pytest.raises(SystemExit):
        main.run(["release"], env)
