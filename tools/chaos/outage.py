"""The agent is down for an hour of simulated time, fails with every bead, or with some: few notes, few beads spent, and
no other bead is delayed."""

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import breaker
from beads_dispatch.bead import DispatchRecord, Status
from beads_dispatch.dispatcher import Dispatcher
from tools import world
from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.servers import Agent, Behaviour, answers, hangs_up, job, stalls, trickles
from tools.world import SimulatedClock, World

check = functools.partial(checks.check, "outage")

TICK_SECONDS = 30  # more often than the PingSource: changes request passes too
AT_FIRST, IN_AN_HOUR = 3, 4  # beads at most that an agent spends which fails with every bead

HTML = answers(200, b"<html><body>Not this page</body></html>", "text/html")
REFUSED = "400"
# What an agent may answer to everything, beside what it says in its status: each time the bead may have been lost.
EVERYTHING: dict[str, Behaviour] = {
    "200 with an HTML page": HTML,
    "a closed connection": hangs_up,
    "nothing, ever": stalls,
    "a header that never ends": trickles,
    REFUSED: answers(400, b'{"error": "no such task"}'),
}


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    beads = 20 if short else 100
    yield away(here, chance, beads, reachable=False)
    yield away(here, chance, beads, reachable=True)
    for name, answer in EVERYTHING.items():
        for health in (True,) if short else (True, False):
            yield every(here, name, answer, 25 if short else 100, health=health)
    for name, answer, number in (
        ("500", answers(500), 1),
        ("500", answers(500), 3),
        ("400", answers(400), 2),
        ("a closed connection", hangs_up, 2),
    ):
        yield poison(here, name, answer, number, 10 if short else 40)


def most_notes(seconds: float) -> int:
    """The bound: two lines (claimed, failed) for each hold that fits: 30 s, doubling up to 10 minutes."""
    holds, spent, hold = 0, 0.0, float(breaker.HOLD_SECONDS)
    while spent <= seconds:
        holds, spent, hold = holds + 1, spent + hold, min(2 * hold, breaker.HOLD_LIMIT_SECONDS)
    return 2 * holds


def away(here: World, chance: random.Random, beads: int, *, reachable: bool) -> Check:
    """An hour's ticks while the agent is down, then it is up again. `reachable`: it reports its load, and answers every
    POST with a 503."""
    here.empty()
    for number in range(beads):
        moment = datetime(2026, 1, 1) + timedelta(minutes=chance.randrange(10_000))
        here.add([f"o-{number:03}"], priority=chance.randrange(3), updated_at=moment)
    clock = SimulatedClock(datetime.now(UTC))
    end = clock() + timedelta(hours=1)
    with Agent(answers(503)) as agent, world.dispatcher(here.dolt, agent.url, clock) as dispatch:
        report_load = agent.report_load
        agent.report_load = report_load if reachable else hangs_up
        passes = _passes(dispatch, clock, 3600)
        requests = len(agent.asked) + len(agent.posts)
        rows = here.rows()
        agent.received.clear()
        agent.report_load, agent.behaviour = report_load, job
        while agent.jobs.total() < beads and clock() < end + timedelta(minutes=15):
            clock.sleep(TICK_SECONDS)
            dispatch.run_once()
    queue = _queue(rows)
    notes = {bead: row["notes"].count("\n") + 1 for bead, row in rows.items() if row["notes"]}
    first = next((bead for bead in queue if bead not in notes), queue[0])
    lines, bound = sum(notes.values()), most_notes(3600) if reachable else 0
    broken = [] if lines <= bound else [f"{lines} lines of notes, the bound is {bound}"]
    broken += _order(agent, queue, first)
    broken += [] if requests <= 2 * passes else [f"{requests} requests to the agent in {passes} passes"]
    broken += history.verdict(here).broken
    figures = (
        f"{beads} beads wait 1 h: {lines} lines of notes on {len(notes)} beads (bound {bound}), {requests} requests to"
        f" the agent in {passes} passes; then all {len(agent.posts)} in order"
    )
    return check("the agent up, every POST a 503" if reachable else "the agent down", figures, broken)


def every(here: World, name: str, answer: Behaviour, number: int, *, health: bool) -> Check:
    """An hour in which the agent answers every POST so and is well by its status; then it works. `health`: beside
    AGENT_HEALTH_URL, which is well all the time."""
    here.empty()
    ids = [f"e-{index:03}" for index in range(number)]
    here.add(ids)
    clock = SimulatedClock(datetime.now(UTC))
    with (
        Agent(answer) as agent,
        world.dispatcher(here.dolt, agent.url, clock, timeout_seconds=0.5, health=health) as dispatch,
    ):
        _passes(dispatch, clock, 300)
        at_first = len(set(agent.posts))
        _passes(dispatch, clock, 3300)
        in_the_hour = len(set(agent.posts))
        reason = dispatch.store.control.hold("agent").reason
        rows = here.rows()
        agent.received.clear()
        agent.behaviour = job
        clock.sleep(breaker.COSTLY_HOLD_SECONDS[-1])
        dispatch.run_once()
    waiting = [bead for bead in _queue(rows) if rows[bead]["status"] == Status.OPEN]
    counted = [bead for bead in waiting if DispatchRecord.from_metadata(rows[bead]["metadata"]).failures]
    kept = number if name == REFUSED else number - in_the_hour  # the others: their job may run
    expected = "it refuses every bead" if name == REFUSED else "no usable answer"
    broken = [] if at_first <= AT_FIRST else [f"{at_first} beads at first"]
    broken += [] if in_the_hour <= IN_AN_HOUR else [f"{in_the_hour} beads in the hour"]
    broken += [] if len(waiting) == kept else [f"{len(waiting)} beads wait, expected {kept}"]
    broken += [f"the refusals of {', '.join(counted[:5])} are counted"] if counted else []
    broken += [] if expected in reason else [f"the hold's reason is {reason!r}"]
    broken += _order(agent, waiting, next(iter(agent.posts), ""))
    figures = (
        f"{number} beads wait 1 h: {at_first} sent at first, {in_the_hour} in the hour; then all {len(agent.posts)}"
        " in order"
    )
    return check(f"{name} to every POST, {'beside AGENT_HEALTH_URL' if health else 'alone'}", figures, broken)


def _passes(dispatch: Dispatcher, clock: SimulatedClock, seconds: float) -> int:
    """What ticks do in so many seconds; how many there were."""
    passes, ends = 0, clock() + timedelta(seconds=seconds)
    while clock() < ends:
        dispatch.run_once()
        passes += 1
        clock.sleep(TICK_SECONDS)
    return passes


def _queue(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(rows, key=lambda bead: (rows[bead]["priority"], rows[bead]["updated_at"], bead))


def _order(agent: Agent, queue: Sequence[str], first: str) -> list[str]:
    """Whether the POSTs are in the order of the queue, but for the first one: a hold ends with any bead."""
    expected = [first, *(bead for bead in queue if bead != first)]
    return [] if agent.posts == expected else ["not in order"]


def poison(here: World, name: str, answer: Behaviour, number: int, others: int) -> Check:
    """Urgent beads on which the agent fails, before many on which it does not."""
    here.empty()
    bad, good = [f"p-{index}" for index in range(number)], [f"q-{index:03}" for index in range(others)]
    here.add(bad, priority=0)
    here.add(good, priority=2)
    clock = SimulatedClock(datetime.now(UTC))
    began, waited = clock(), 0.0
    with Agent() as agent, world.dispatcher(here.dolt, agent.url, clock) as dispatch:
        agent.behaviours = dict.fromkeys(bad, answer)
        # As long as five refusals take, with their retry delays; and some holds.
        for _ in range(int((sum(breaker.RETRY_MINUTES) * 60 + 1800) / TICK_SECONDS)):
            dispatch.run_once()
            if not waited and all(agent.jobs[bead] for bead in good):
                waited = (clock() - began).total_seconds() or 1.0
            clock.sleep(TICK_SECONDS)
    rows = here.rows()
    lines = max(rows[bead]["notes"].count("\n") + 1 for bead in bad)
    ends = sorted({rows[bead]["status"] for bead in bad})
    # Each of them costs the others one hold, and the next tick.
    holds = [min(breaker.HOLD_SECONDS * 2**index, breaker.HOLD_LIMIT_SECONDS) for index in range(number)]
    if answer is hangs_up:
        holds = list(breaker.COSTLY_HOLD_SECONDS[:number])
    most = sum(holds) + TICK_SECONDS
    broken = [] if 0 < waited <= most else [f"the others waited {waited:.0f} s, the bound is {most} s"]
    broken += [] if ends == (["in_progress"] if answer is hangs_up else ["blocked"]) else [f"the bad ones are {ends}"]
    broken += [] if lines <= 2 * (breaker.BLOCK_AT + 1) + 1 else [f"{lines} lines of notes on a bad one"]
    figures = (
        f"{others} others waited {waited:.0f} s; the bad ones end {', '.join(ends)} with at most {lines} lines of notes"
    )
    return check(f"{number} urgent bead(s) answered with {name}", figures, broken)
