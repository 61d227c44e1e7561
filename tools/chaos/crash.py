"""kill -9 at every step of dispatch, reap and the feeder; what becomes of the bead, and after how long."""

import collections
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import notes, reaper, settings, store
from beads_dispatch.bead import DispatchRecord
from beads_dispatch.cli import verify
from local import processes
from local.processes import Process
from tools.chaos import report, world, writer
from tools.chaos.report import Check
from tools.chaos.servers import Agent, Sink
from tools.chaos.world import Clock, World

PART = "crash"
TICK_SECONDS = 120  # PingSource dispatch
REAP_TICKS = 5  # of those, one is PingSource reap's too
_GIVE_UP_SECONDS = 3600


@dataclass(frozen=True)
class Scenario:
    """A pass that is killed: how the agent answers it, and how the bead is found."""

    name: str
    process: str
    answer: str = "ok"
    prepare: Callable[[World, str], None] = lambda here, bead: here.add([bead])
    accepted: int = 1  # jobs that the bead may have in the end, at most
    settled: tuple[str, ...] = ("dispatched", "blocked with a reason")


def _claimed(here: World, bead: str) -> None:
    """A claim that a crash left some minutes ago."""
    here.add([bead])
    beads = store.Store(here.dolt)
    then = datetime.now(UTC) - timedelta(minutes=5)
    beads.claims.claim(
        next(found for found in beads.eligible.first(world.SENTINEL, then, 100) if found.id == bead), then
    )
    beads.close()


def _silent(here: World, bead: str) -> None:
    """A bead whose agent has been silent for 40 minutes."""
    then = datetime.now(UTC) - timedelta(minutes=40)
    record = DispatchRecord(claim=f"token-{bead}", attempt=1, at=notes.timestamp(then), job="job-0")
    here.add(
        [bead], status="in_progress", updated_at=then.replace(tzinfo=None, microsecond=0),
        metadata=json.dumps({"dispatch": json.loads(record.to_json())}),
    )  # fmt: skip


CUT = Scenario("dispatch, connection cut after the POST", "dispatch", "cut")
SCENARIOS = (
    Scenario("dispatch, job accepted", "dispatch"),
    Scenario("dispatch, bead refused (400)", "dispatch", "400"),
    Scenario("dispatch, service fails (500)", "dispatch", "500"),
    CUT,
    Scenario("reap, a claim taken back", "reap", prepare=_claimed),
    Scenario("reap, a silent bead blocked", "reap", prepare=_silent, accepted=0, settled=("blocked with a reason",)),
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
    agent = Agent()
    broken: list[str] = []
    ends: collections.Counter[str] = collections.Counter()
    slowest: dict[str, float] = collections.defaultdict(float)
    try:
        steps = _steps(here, agent, scenario, "x-0", 0)
        points = range(1, len(steps) + 1)
        if short:
            writes = [at for at in points if not steps[at - 1].startswith(("SELECT", "SHOW", "GET"))]
            points = sorted(chance.sample(writes, min(3, len(writes))))  # type: ignore[assignment]
        for at in points:
            bead = f"x-{at}"
            _forget(here)
            before = len(agent.accepted)
            died_at = _steps(here, agent, scenario, bead, at)[-1]
            agent.behave = lambda bead: "ok"
            end, seconds = _settle(here, agent, bead, scenario.settled)
            jobs = len(agent.accepted) - before
            ends[end] += 1
            slowest[end] = max(slowest[end], seconds)
            if jobs > scenario.accepted or end.startswith("not"):
                broken.append(f"killed before step {at} ({died_at}): {jobs} jobs, {end}")
    finally:
        agent.close()
    broken += verify.judge(verify.versions(here.dolt, here.began), verify.written_by_others(here.dolt)).broken
    figures = f"{len(points)} of {len(steps)} steps: " + ", ".join(
        f"{number} {end} (slowest {slowest[end]:.0f} s)" for end, number in ends.most_common()
    )
    return report.check(PART, scenario.name, figures, broken)


def killed_while_posting(here: World) -> Check:
    """The agent service has the POST and has not answered yet: the job may run, so nothing is sent again."""
    here.empty()
    agent = Agent()
    here.add(["x-1"])
    process = _process(here, agent, "dispatch", 0)
    agent.on_post = lambda bead: process.kill()
    broken = []
    try:
        world.wait_for(lambda: not process.running, "the kill", 30)
        agent.on_post = lambda bead: None
        end, seconds = _settle(here, agent, "x-1")
        row = here.row("x-1")
        if len(agent.accepted) != 1 or row["status"] != "blocked":
            broken.append(f"{len(agent.accepted)} jobs, {end}")
    finally:
        process.stop()
        agent.close()
    figures = f"{len(agent.accepted)} job, {end} after {seconds:.0f} s (an agent's first note settles it before)"
    return report.check(PART, "killed while the POST is in the air", figures, broken)


def asleep(here: World) -> Check:
    """A dispatcher that sleeps between its claim and its POST for longer than a claim may take: no second job."""
    here.empty()
    agent = Agent()
    here.add(["x-1"])
    clock = Clock(datetime.now(UTC))
    sleeper, other = here.dispatcher(agent.url, clock), here.dispatcher(agent.url, clock)
    claim = sleeper.store.claims.claim

    def claim_and_sleep(bead: Any, now: datetime, **more: Any) -> Any:
        claimed = claim(bead, now, **more)
        clock.sleep(200)
        reaped = store.Store(here.dolt)
        reaper.run_once(reaped, settings.DispatchLimits(), clock())
        reaped.close()
        other.run_once()
        return claimed

    sleeper.store.claims.claim = claim_and_sleep  # type: ignore[method-assign]
    try:
        outcomes = [type(outcome).__name__ for outcome in sleeper.run_once()]
    finally:
        for dispatcher in (sleeper, other):
            dispatcher.store.close()
        agent.close()
    broken = [] if len(agent.posts) == 1 else [f"{len(agent.posts)} POSTs"]
    broken += verify.judge(verify.versions(here.dolt, here.began), verify.written_by_others(here.dolt)).broken
    return report.check(
        PART, "a dispatcher asleep for 200 s after its claim", f"{outcomes[0]}, 1 POST by another", broken
    )


def trickling(here: World) -> Check:
    """An agent service that sends its headers byte by byte is not waited for longer than AGENT_TIMEOUT_SECONDS."""
    here.empty()
    agent = Agent(lambda bead: "trickle")
    here.add(["x-1"])
    dispatcher = here.dispatcher(agent.url, timeout_seconds=1.5)
    began = datetime.now(UTC)
    try:
        outcome = type(dispatcher.run_once()[0]).__name__
    finally:
        dispatcher.store.close()
        agent.close()
    seconds = (datetime.now(UTC) - began).total_seconds()
    broken = [] if outcome == "OutcomeUnknown" and seconds < 5 else [f"{outcome} after {seconds:.1f} s"]
    return report.check(PART, "headers that trickle for 60 s, limit 1.5 s", f"{outcome} after {seconds:.1f} s", broken)


def feeder_killed(here: World, chance: random.Random, *, short: bool) -> Check:
    """Die before each step of the feeder while it tells changes; another one goes on."""
    here.empty()
    sink = Sink()
    writes = writer.Writer(here, chance, 5, bd_every=0)
    journal = here.folder / "steps"
    broken: list[str] = []
    repeats = slowest = 0.0

    def life(at: int) -> list[str]:
        """One feeder until it dies, or has told 5 changes and stored its position."""
        journal.unlink(missing_ok=True)
        log = here.log("feeder-crash")
        feeder = here.feeder(sink.url, command=("-m", "tools.chaos.crashing", "feeder", str(at), str(journal)), log=log)
        try:
            known = len(sink.facts())
            world.wait_for(lambda: not feeder.process.running or "reading the binlog" in feeder.log, "a start", 60)
            for _ in range(5):
                writes.step()
            world.wait_for(
                lambda: (
                    not feeder.process.running
                    or (
                        len(sink.facts()) >= known + 5
                        and journal.read_text().count("REPLACE INTO beads_dispatch.pos") > 1
                    )
                ),
                "its end",
                20,
            )
        except world.Late:
            pass  # it lives, and this step does not come so often
        finally:
            feeder.process.stop()
        return journal.read_text().splitlines()

    try:
        first = here.feeder(sink.url)
        first.wait_until_reading()
        first.process.stop()
        start = here.commit("start")
        steps = life(0)
        points = [
            at for at in range(1, len(steps) + 1) if not steps[at - 1].startswith(("SHOW", "SELECT dolt_version"))
        ]
        if short:
            points = sorted(chance.sample(points, 2))
        for at in points:
            life(at)
            feeder = here.feeder(sink.url)
            number = world.count(world.changed_since(here, start))

            def all_told(number: int = number) -> bool:
                return world.count(world.told(sink.facts())[0]) >= number

            try:
                slowest = max(slowest, world.wait_for(all_told, "all told", 60))
            except world.Late as exc:
                broken.append(f"killed before step {at}: {exc}")
            finally:
                feeder.process.stop()
        found, repeats, differ = world.told(sink.facts())
        broken += world.compare(world.changed_since(here, start), found) + differ
    finally:
        writes.close()
        sink.close()
    figures = f"{len(points)} of {len(steps)} steps: {world.count(found)} changes, 0 missed, {repeats:.0f} repeats" + (
        f" (same ids), all told {slowest:.1f} s after the restart at the latest"
    )
    return report.check(PART, "feeder, telling 5 changes", figures, broken)


def _process(here: World, agent: Agent, name: str, at: int) -> Process:
    environment = {**here.environment(), "BEADBOARD_URL": agent.url, "AGENT_HEALTH_URL": f"{agent.url}/health"}
    journal = here.folder / "steps"
    journal.write_text("")
    command = processes.python("-m", "tools.chaos.crashing", name, str(at), journal, "--flaw", here.flaw)
    return Process(name, command, here.folder / "logs" / "crashing.log", environment)


def _steps(here: World, agent: Agent, scenario: Scenario, bead: str, at: int) -> list[str]:
    """Prepare a bead, run the pass until it dies before step `at`, and return the steps it came to."""
    scenario.prepare(here, bead)
    agent.behave = lambda bead: scenario.answer
    process = _process(here, agent, scenario.process, at)
    try:
        world.wait_for(lambda: not process.running, f"{scenario.process} ends", 60)
    finally:
        status = process.stop()
    steps = (here.folder / "steps").read_text().splitlines()
    if status != (0 if at == 0 else -9):
        raise world.Late(f"{scenario.process} ended with {status} at step {at}; its log is {process.log}")
    return steps


def _forget(here: World) -> None:
    """Settle what an earlier crash left, so that only the bead at hand is looked at."""
    here.sql("UPDATE issues SET status = 'closed' WHERE status <> 'closed'")
    here.sql(f"DELETE FROM {store.STATE_DATABASE}.holds")
    here.commit("settled")


def _settle(here: World, agent: Agent, bead: str, settled: tuple[str, ...] = Scenario.settled) -> tuple[str, float]:
    """Let ticks come, on a clock that is moved, until the bead is settled; how, and after how many seconds."""
    clock = Clock(datetime.now(UTC))
    began = clock()
    dispatcher = here.dispatcher(agent.url, clock)
    limits = replace(settings.DispatchLimits(), max_in_flight=10**6)
    try:
        for tick in range(_GIVE_UP_SECONDS // TICK_SECONDS):
            end = _end(here.row(bead))
            if end in settled or end.startswith("not"):
                return end, (clock() - began).total_seconds()
            clock.sleep(TICK_SECONDS)
            if tick % REAP_TICKS == 0:
                reaper.run_once(dispatcher.store, limits, clock())
            dispatcher.run_once()
    finally:
        dispatcher.store.close()
    return f"not settled: {here.row(bead)['status']}", (clock() - began).total_seconds()


def _end(row: dict[str, Any]) -> str:
    record = DispatchRecord.from_metadata(json.loads(row["metadata"] or "{}"))
    if row["status"] == "blocked":
        return "blocked with a reason" if "reaper: no progress" in row["notes"] else "not given a reason"
    if row["status"] == "in_progress" and record.job:
        return "dispatched"
    return ""
