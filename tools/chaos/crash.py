"""kill -9 at every step of dispatch, reap and the feeder; what becomes of the bead, and after how long."""

import collections
import contextlib
import functools
import json
import pathlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import events, notes, reaper, settings, store
from beads_dispatch.bead import Bead, DispatchRecord
from local import processes
from local.processes import Process
from local.system import environment_of
from tools import world
from tools.chaos import checks, history, mutants
from tools.chaos.checks import Check
from tools.chaos.writer import Writer
from tools.database import AGENT
from tools.servers import Agent, Behaviour, Sink, answers, hangs_up, job, trickles
from tools.world import SimulatedClock, World, wait_for

check = functools.partial(checks.check, "crash")

TICK_SECONDS = 120  # PingSource dispatch
REAP_TICKS = 5  # of those, one is PingSource reap's too
_GIVE_UP_SECONDS = 3600
_CHANGES = 5  # that a feeder publishes before it is stopped
_FEEDER_POINTS = 25  # of its steps, others with each seed: each takes 13 s


def _claimed(here: World, bead: str) -> None:
    """A claim that a crash left some minutes ago."""
    here.add([bead])
    then = datetime.now(UTC) - timedelta(minutes=5)
    with contextlib.closing(store.Store(here.dolt)) as beads:
        queue = beads.eligible.first(AGENT, then, 100)
        beads.claims.claim(next(found for found in queue if found.id == bead), then)


def _inactive(here: World, bead: str) -> None:
    """A bead whose agent has been inactive for 40 minutes."""
    then = datetime.now(UTC) - timedelta(minutes=40)
    record = DispatchRecord(claim=f"token-{bead}", attempt=1, at=notes.timestamp(then), job="job-0")
    here.add(
        [bead], status="in_progress", updated_at=then.replace(tzinfo=None, microsecond=0),
        metadata=json.dumps({"dispatch": json.loads(record.to_json())}),
    )  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """A pass that is killed: how the agent answers it, and how the bead is found."""

    name: str
    process: str
    answer: Behaviour = job
    prepare: Callable[[World, str], None] = lambda here, bead: here.add([bead])
    jobs: int = 1  # that the bead may have in the end, at most
    settled: tuple[str, ...] = ("dispatched", "blocked with a reason")


CUT = Scenario("dispatch, connection cut after the POST", "dispatch", hangs_up)
SCENARIOS = (
    Scenario("dispatch, job accepted", "dispatch"),
    Scenario("dispatch, bead refused (400)", "dispatch", answers(400)),
    Scenario("dispatch, agent fails (500)", "dispatch", answers(500)),
    CUT,
    Scenario("reap, an orphaned claim released", "reap", prepare=_claimed),
    Scenario("reap, an inactive bead blocked", "reap", prepare=_inactive, jobs=0, settled=("blocked with a reason",)),
)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    for scenario in SCENARIOS:
        yield killed(here, chance, scenario, short=short)
    yield killed_while_posting(here)
    yield asleep(here)
    yield trickling(here)
    yield feeder_killed(here, chance, short=short)


def killed(here: World, chance: random.Random, scenario: Scenario, *, short: bool) -> Check:
    """Die before each step of the pass in turn; then let ticks come until the bead is settled."""
    here.empty()
    broken: list[str] = []
    ends: collections.Counter[str] = collections.Counter()
    slowest: dict[str, float] = collections.defaultdict(float)
    with Agent() as agent:
        steps = _steps(here, agent, scenario, "x-0", 0)
        points: Sequence[int] = range(1, len(steps) + 1)
        if short:
            writes = [at for at in points if not steps[at - 1].startswith(("SELECT", "SHOW", "GET"))]
            points = sorted(chance.sample(writes, min(3, len(writes))))
        for at in points:
            bead = f"x-{at}"
            _settle_all(here)
            before = agent.jobs.total()
            died_at = _steps(here, agent, scenario, bead, at)[-1]
            agent.behaviour = job
            end, seconds = _settle(here, agent, bead, scenario.settled)
            ends[end] += 1
            slowest[end] = max(slowest[end], seconds)
            jobs = agent.jobs.total() - before
            if jobs > scenario.jobs or end.startswith("not"):
                broken.append(f"killed before step {at} ({died_at}): {jobs} jobs, {end}")
    broken += history.verdict(here).broken
    figures = f"{len(points)} of {len(steps)} steps: " + ", ".join(
        f"{number} {end} (slowest {slowest[end]:.0f} s)" for end, number in ends.most_common()
    )
    return check(scenario.name, figures, broken)


def killed_while_posting(here: World) -> Check:
    """The agent has the POST and has not answered yet: the job may run, so nothing is sent again."""
    here.empty()
    here.add(["x-1"])
    with Agent() as agent, _process(here, agent, "dispatch", 0) as process:
        agent.on_post = lambda bead: process.kill()
        wait_for(lambda: not process.running, "the kill", 30)
        agent.on_post = lambda bead: None
        end, seconds = _settle(here, agent, "x-1")
    jobs = agent.jobs.total()
    broken = [] if jobs == 1 and here.row("x-1")["status"] == "blocked" else [f"{jobs} jobs, {end}"]
    figures = f"{jobs} job, {end} after {seconds:.0f} s (an agent's first note settles it before)"
    return check("killed while the POST is in flight", figures, broken)


def asleep(here: World) -> Check:
    """A dispatcher that sleeps between its claim and its POST for longer than the claim timeout: no second job."""
    here.empty()
    here.add(["x-1"])
    clock = SimulatedClock(datetime.now(UTC))
    with (
        Agent() as agent,
        world.dispatcher(here.dolt, agent.url, clock) as sleeper,
        world.dispatcher(here.dolt, agent.url, clock) as other,
    ):
        claim = sleeper.store.claims.claim

        def claim_and_sleep(bead: Bead, now: datetime, **more: Any) -> Bead:
            claimed = claim(bead, now, **more)
            # Its locks end with its connection, which the server ends while it sleeps.
            sleeper.store._session.rows("SELECT RELEASE_ALL_LOCKS()")
            clock.sleep(200)
            reaper.run_once(other.store, settings.DispatchLimits(), clock())
            other.run_once()
            return claimed

        sleeper.store.claims.claim = claim_and_sleep  # type: ignore[method-assign]
        outcomes = [type(outcome).__name__ for outcome in sleeper.run_once()]
    broken = [] if len(agent.posts) == 1 else [f"{len(agent.posts)} POSTs"]
    broken += history.verdict(here).broken
    return check("a dispatcher asleep for 200 s after its claim", f"{outcomes[0]}, 1 POST by another", broken)


def trickling(here: World) -> Check:
    """An agent that sends its headers byte by byte is not waited for longer than AGENT_TIMEOUT_SECONDS."""
    here.empty()
    here.add(["x-1"])
    began = datetime.now(UTC)
    with Agent(trickles) as agent, world.dispatcher(here.dolt, agent.url, timeout_seconds=1.5) as dispatcher:
        outcome = type(dispatcher.run_once()[0]).__name__
    seconds = (datetime.now(UTC) - began).total_seconds()
    broken = [] if outcome == "OutcomeUnknown" and seconds < 5 else [f"{outcome} after {seconds:.1f} s"]
    return check("endless headers, limit 1.5 s", f"{outcome} after {seconds:.1f} s", broken)


def feeder_killed(here: World, chance: random.Random, *, short: bool) -> Check:
    """Die before each step of the feeder while it publishes changes; another one continues."""
    here.empty()
    broken, slowest = [], 0.0
    with Sink() as sink, Writer(here, chance, 5) as writer:
        with here.feeder(sink.url) as first:
            first.wait_until_reading()
        start = here.commit("start")
        steps = _feeder_steps(here, sink, writer, 0)
        points = [at for at, step in enumerate(steps, 1) if not step.startswith(("SHOW", "SELECT dolt_version"))]
        points = sorted(chance.sample(points, 2 if short else _FEEDER_POINTS))
        for at in points:
            _feeder_steps(here, sink, writer, at)
            with here.feeder(sink.url):
                found = history.compare(here, start, sink, 60)
            slowest = max(slowest, found.seconds)
            broken += [f"killed before step {at}: {line}" for line in found.broken]
    figures = (
        f"{len(points)} of {len(steps)} steps: {found.figures}, all published {slowest:.1f} s after the restart at the"
        " latest"
    )
    return check(f"feeder, publishing {_CHANGES} changes", figures, broken)


def _feeder_steps(here: World, sink: Sink, writer: Writer, at: int) -> list[str]:
    """Run one feeder until it dies before step `at`, or has published the changes and stored its position; returns the
    steps it came to. Where that step does not come, it is stopped after some seconds."""
    journal = _new_journal(here)
    command = ("-m", "tools.chaos.crashing", "feeder", str(at), str(journal))
    known = len(sink.of_type(events.ISSUE_CHANGED))

    def done() -> bool:
        published = len(sink.of_type(events.ISSUE_CHANGED)) >= known + _CHANGES
        stored = journal.read_text().count("REPLACE INTO beads_dispatch.pos") > 1
        return not feeder.running or (published and stored)

    with (
        here.feeder(sink.url, command=command, log=here.log("feeder-crash")) as feeder,
        contextlib.suppress(world.TimedOut),
    ):
        wait_for(lambda: not feeder.running or "reading the binlog" in feeder.printed(), "a start", 60)
        for _ in range(_CHANGES):
            writer.step()
        wait_for(done, "its end", 20)
    return journal.read_text().splitlines()


def _new_journal(here: World) -> pathlib.Path:
    """An empty file for the steps of a process."""
    journal = here.folder / "steps"
    journal.write_text("")
    return journal


def _process(here: World, agent: Agent, name: str, at: int) -> Process:
    command = processes.python(
        "-m", "tools.chaos.crashing", name, str(at), _new_journal(here), "--mutant", mutants.active()
    )
    environment = {**environment_of(here.dolt), "BEADBOARD_URL": agent.url}
    return Process(name, command, here.folder / "logs" / "crashing.log", environment)


def _steps(here: World, agent: Agent, scenario: Scenario, bead: str, at: int) -> list[str]:
    """Prepare a bead, run the pass until it dies before step `at`, and return the steps it came to."""
    scenario.prepare(here, bead)
    agent.behaviour = scenario.answer
    with _process(here, agent, scenario.process, at) as process:
        wait_for(lambda: not process.running, f"{scenario.process} ends", 60)
    status = process.stop()
    if status != (0 if at == 0 else -9):
        raise world.TimedOut(f"{scenario.process} ended with {status} at step {at}; its log is {process.log}")
    return (here.folder / "steps").read_text().splitlines()


def _settle_all(here: World) -> None:
    """Settle what an earlier crash left, so that only the next bead counts."""
    here.sql("UPDATE issues SET status = 'closed' WHERE status <> 'closed'")
    here.sql(f"DELETE FROM {store.STATE_DATABASE}.agent_holds")
    here.commit("settled")


def _settle(here: World, agent: Agent, bead: str, settled: tuple[str, ...] = Scenario.settled) -> tuple[str, float]:
    """Let ticks come, on a simulated clock, until the bead is settled; how, and after how many seconds."""
    clock = SimulatedClock(datetime.now(UTC))
    began = clock()
    with world.dispatcher(here.dolt, agent.url, clock) as dispatcher:
        for tick in range(_GIVE_UP_SECONDS // TICK_SECONDS):
            end = _end(here.row(bead))
            if end in settled or end.startswith("not"):
                return end, (clock() - began).total_seconds()
            clock.sleep(TICK_SECONDS)
            if tick % REAP_TICKS == 0:
                reaper.run_once(dispatcher.store, dispatcher.limits, clock())
            dispatcher.run_once()
    return f"not settled: {here.row(bead)['status']}", (clock() - began).total_seconds()


def _end(row: dict[str, Any]) -> str:
    record = DispatchRecord.from_metadata(json.loads(row["metadata"] or "{}"))
    if row["status"] == "blocked":
        return "blocked with a reason" if notes.NO_PROGRESS in row["notes"] else "not given a reason"
    if row["status"] == "in_progress" and record.job:
        return "dispatched"
    return ""
