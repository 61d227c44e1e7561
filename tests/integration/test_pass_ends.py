"""A pass that ends early, and one that Dolt fails, on a real Dolt with a real HTTP agent."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from beads_dispatch import breaker, dispatcher, events, notes, outcomes, reaper, settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.bead import Bead
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import Dispatched, PassEnded
from local import processes
from local.processes import Process
from tests import agent_servers, support
from tests.agent_servers import A2AService, Relay, passes_on
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory
from tools.proxies import FaultyProxy

MANY = 10**6


def queue(beads: Beads, number: int) -> list[str]:
    names = [f"x-{index:02}" for index in range(number)]
    beads.insert(names)
    beads.commit("a queue")
    return names


def test_a_pass_ends_after_its_time_between_two_beads(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """What it has begun it finishes; the next pass goes on."""
    names = queue(beads, 5)
    clock.stop()
    agent.on_post = lambda bead: clock.sleep(dispatcher.PASS_SECONDS / 2)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    found = dispatch.run_once()
    assert [type(outcome) for outcome in found] == [Dispatched, Dispatched, PassEnded]
    agent.on_post = lambda bead: None
    dispatch.run_once()
    assert agent.posts == names


def test_a_process_that_is_asked_to_stop_begins_no_other_bead(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """The bead at hand is recorded."""
    queue(beads, 3)
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    dispatch.stopping = lambda: bool(agent.posts)
    found = dispatch.run_once()
    assert [type(outcome) for outcome in found] == [Dispatched, PassEnded]
    assert agent.posts == ["x-00"] and beads.notes("x-00")[-1].startswith(notes.DISPATCHED)
    assert beads.row("x-01")["status"] == "open"


def test_sigterm_ends_a_pass_and_requests_another(beads: Beads, agent: support.Agent, tmp_path: Any) -> None:
    """The function under gunicorn, as it runs in the cluster: it answers with the request of the next pass."""
    names = queue(beads, 99)
    posted = threading.Event()
    agent.on_post = lambda bead: posted.set()
    port, source = processes.free_port(), "functions/dispatch/main.py"
    env = {
        **_environment(beads.dolt), "PORT": str(port), "BEADBOARD_URL": agent.url, "MAX_IN_FLIGHT": "100",
        "XDG_RUNTIME_DIR": str(tmp_path), "AGENT_HEALTH_URL": f"{agent.url}/health",
    }  # fmt: skip
    command = processes.python("-m", "functions_framework", "--source", source, "--target", "dispatch")
    process = Process("dispatch", command, tmp_path / "dispatch.log", env)
    try:
        process.wait_until(lambda: processes.listening(port), "listen")
        answers: list[httpx.Response] = []
        headers, body = events.to_http(events.request("change", "g:1:0", 3, events.DISPATCH_REQUESTED))
        ask = threading.Thread(
            target=lambda: answers.append(support.post(f"http://127.0.0.1:{port}/", content=body, headers=headers))
        )
        ask.start()
        assert posted.wait(support.PATIENCE_SECONDS)
        os.kill(process.pid, signal.SIGTERM)  # as in a pod: the first process alone
        ask.join(support.PATIENCE_SECONDS)
        support.wait_for(lambda: not process.running, "the end")
    finally:
        process.stop()
    done = agent.posts
    assert 0 < len(done) < len(names)
    assert all(beads.notes(name)[-1].startswith(notes.DISPATCHED) for name in done)
    assert all(beads.row(name)["status"] == "open" for name in names if name not in done)
    reply = events.from_request(dict(answers[0].headers), answers[0].content)
    assert (answers[0].status_code, reply.type, reply.source) == (200, events.DISPATCH_REQUESTED, "/beads/dispatch")
    assert reply.extensions["cause"] == "resume" and reply.data == {"waiting": 1}


def _environment(dolt: settings.DoltSettings) -> dict[str, str]:
    return {"DOLT_HOST": dolt.host, "DOLT_PORT": str(dolt.port), "DOLT_DATABASE": dolt.database, "HOST": "127.0.0.1"}


@pytest.fixture
def failing(beads: Beads, agent: support.Agent, clock: Clock) -> Iterator[tuple[Dispatcher, FaultyProxy]]:
    """A dispatcher behind a proxy, which refuses Dolt from the read-back of a claim on."""
    proxy = FaultyProxy(beads.dolt.port)
    through = store.Store(replace(beads.dolt, port=proxy.port))
    backend = beadboard.BeadBoard(settings.AgentSettings(agent.url, None, support.PATIENCE_SECONDS))
    dispatch = Dispatcher(through, backend, settings.DispatchLimits(), clock, clock.sleep)
    diagnose = through.claims.diagnose

    def cut_before(bead: Bead, now: Any) -> Any:
        proxy.mode = "refuse"
        proxy.cut()
        return diagnose(bead, now)

    through.claims.diagnose = cut_before  # type: ignore[method-assign]
    yield dispatch, proxy
    through.close()
    proxy.close()


def test_dolt_that_fails_before_the_post_costs_no_bead(
    beads: Beads, agent: support.Agent, failing: tuple[Dispatcher, FaultyProxy], clock: Clock
) -> None:
    """The claim is marked by then: it is released as soon as Dolt is back, and nothing is counted."""
    dispatch, proxy = failing
    queue(beads, 1)

    def back_after(seconds: float) -> None:
        proxy.mode = "pass" if seconds >= 2 else "refuse"

    dispatch.sleep = back_after
    with pytest.raises(store.StoreError):
        dispatch.run_once()
    assert beads.row("x-00")["status"] == "open" and agent.posts == []
    assert beads.notes("x-00")[-1] == notes.not_sent()
    found = beads.store.eligible.first("agent", clock(), 1)[0].record
    assert (found.claim, found.outcome, found.failures, found.outages) == (None, None, 0, 0)


def test_where_dolt_stays_away_the_mark_stays(
    beads: Beads, agent: support.Agent, failing: tuple[Dispatcher, FaultyProxy]
) -> None:
    """Nobody can release it then; a marked claim is never sent again by itself."""
    dispatch, _ = failing
    queue(beads, 1)
    with pytest.raises(store.StoreError):
        dispatch.run_once()
    assert beads.row("x-00")["status"] == "in_progress" and agent.posts == []


def in_hours(hours: float, beads: Beads, clock: Clock, each: Callable[[], object]) -> None:
    """Do `each` again and again, as holds allow."""
    clock.stop()
    ends = clock() + timedelta(hours=hours)
    while clock() < ends:
        each()
        hold = beads.store.control.hold("agent")
        clock.passed += max((hold.until or clock()) - clock(), timedelta(seconds=30))


def with_words(beads: Beads, number: int) -> list[str]:
    names = queue(beads, number)
    beads.sql("UPDATE issues SET notes = 'a person wrote this'")
    beads.commit("words")
    return names


def assert_few_notes(beads: Beads, names: list[str]) -> None:
    """At most 10 on each, whose own words stay; each try is in its audit trail."""
    for name in names:
        assert beads.notes(name)[0] == "a person wrote this"
        assert 1 < len(beads.notes(name)) <= 11, beads.notes(name)
        assert beads.row(name)["status"] == "open"
        assert len(beads.actors(name)) > 2 * breaker.NOTED_OUTAGES


@pytest.mark.parametrize("kind", ["503", "400", "400 and no status"])
@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_an_outage_of_a_weekend_writes_few_notes(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock, kind: str
) -> None:
    """Whether the agent fails or refuses, or the one by turns with a status that fails."""
    names = with_words(beads, 3)
    agent.behaviour = support.answers(int(kind[:3]))
    dispatch = make_dispatcher(health=True, max_in_flight=MANY)
    whole, turn = agent.report_load, itertools.count()

    def once() -> None:
        fails = kind == "400 and no status" and next(turn) % 2
        agent.report_load = lambda on: on.answer(502) if fails and "agent-status" in on.path else whole(on)
        dispatch.run_once()

    in_hours(60 if len(kind) == 3 else 24, beads, clock, once)
    assert len(agent.posts) > 10 * len(names)
    assert_few_notes(beads, names)
    agent.behaviour, agent.report_load = support.job, whole
    clock.passed += timedelta(hours=1)
    assert {type(outcome) for outcome in dispatch.run_once()[:3]} == {outcomes.Dispatched}
    assert all(beads.notes(name)[-2].startswith(notes.CLAIMED) for name in names)


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_weekend_of_lost_requests_writes_few_notes(beads: Beads, clock: Clock) -> None:
    """Each is cut before it arrives, and the service tells later that it has no such task."""
    (name,) = with_words(beads, 1)
    with support.closing(Relay(A2AService())) as relay:
        backend = agent_servers.backend("a2a", relay.url)
        relay.behaviour = support.hangs_up
        dispatch = Dispatcher(beads.store, backend, settings.DispatchLimits(), clock, clock.sleep)

        def once() -> None:
            reaper.run_once(beads.store, settings.DispatchLimits(), clock(), backend)
            dispatch.run_once()

        in_hours(60, beads, clock, once)
        reaper.run_once(beads.store, settings.DispatchLimits(), clock(), backend)
        assert len(relay.received) > 50
        assert_few_notes(beads, [name])
        assert beads.store.claims.read_back(name).record.jobs == 0  # type: ignore[union-attr]
        relay.behaviour = passes_on
        clock.passed += timedelta(hours=1)
        assert type(dispatch.run_once()[0]) is Dispatched


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_day_of_jobs_that_fail_at_once_writes_few_notes(beads: Beads, agent: support.Agent, clock: Clock) -> None:
    """The agent takes each bead, and its job ends within a minute."""
    names = with_words(beads, 3)
    backend = beadboard.BeadBoard(settings.AgentSettings(agent.url, jobs_url=agent.url))
    agent.phase = "failed"
    dispatch = Dispatcher(beads.store, backend, settings.DispatchLimits(max_in_flight=MANY), clock, clock.sleep)

    def once() -> None:
        dispatch.run_once()
        clock.passed += timedelta(seconds=5)
        reaper.run_once(beads.store, settings.DispatchLimits(), clock(), backend)

    in_hours(24, beads, clock, once)
    assert len(agent.posts) > 20
    assert_few_notes(beads, names)


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_dolt_that_fails_before_each_post_writes_few_notes(
    beads: Beads, agent: support.Agent, failing: tuple[Dispatcher, FaultyProxy]
) -> None:
    """Its second connection fails at each pass, and the first one releases the claim: the first time is noted."""
    dispatch, proxy = failing
    (name,) = with_words(beads, 1)
    dispatch.sleep = lambda seconds: setattr(proxy, "mode", "pass")
    for _ in range(10):
        with pytest.raises(store.StoreError):
            dispatch.run_once()
    assert agent.posts == []
    assert_few_notes(beads, [name])
    assert beads.notes(name)[-1] == notes.not_sent()
    beads.workspace.run("note", name, "ann looked at it", actor="ann")
    with pytest.raises(store.StoreError):
        dispatch.run_once()
    assert beads.notes(name)[-1] == notes.not_sent() and "ann looked at it" in beads.notes(name)


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_dispatcher_that_dies_after_each_claim_leaves_few_notes(beads: Beads, clock: Clock) -> None:
    """Reap releases each of its claims, and notes that once."""
    (name,) = with_words(beads, 1)
    clock.stop()
    for _ in range(10):
        beads.store.claims.claim(beads.store.eligible.first("agent", clock(), 1)[0], clock())
        clock.passed += timedelta(minutes=5)
        assert reaper.run_once(beads.store, settings.DispatchLimits(), clock()).reopened == [name]
    assert_few_notes(beads, [name])
