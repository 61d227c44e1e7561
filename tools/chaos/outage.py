"""The agent is down for an hour of simulated time, or fails on some beads: few notes, and no other bead is delayed."""

import functools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from beads_dispatch import breaker
from tools import world
from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.servers import Agent, Behaviour, answers, hangs_up, job
from tools.world import SimulatedClock, World

check = functools.partial(checks.check, "outage")

TICK_SECONDS = 30  # more often than the PingSource: changes request passes too


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    beads = 20 if short else 100
    yield away(here, chance, beads, reachable=False)
    yield away(here, chance, beads, reachable=True)
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
    end, passes = clock() + timedelta(hours=1), 0
    with Agent(answers(503)) as agent, world.dispatcher(here.dolt, agent.url, clock) as dispatch:
        report_load = agent.report_load
        agent.report_load = report_load if reachable else hangs_up
        while clock() < end:
            dispatch.run_once()
            passes += 1
            clock.sleep(TICK_SECONDS)
        requests = len(agent.asked) + len(agent.posts)
        rows = here.rows()
        agent.received.clear()
        agent.report_load, agent.behaviour = report_load, job
        while agent.jobs.total() < beads and clock() < end + timedelta(minutes=15):
            clock.sleep(TICK_SECONDS)
            dispatch.run_once()
    queue = sorted(rows, key=lambda bead: (rows[bead]["priority"], rows[bead]["updated_at"], bead))
    notes = {bead: row["notes"].count("\n") + 1 for bead, row in rows.items() if row["notes"]}
    first = next((bead for bead in queue if bead not in notes), queue[0])
    lines, bound = sum(notes.values()), most_notes(3600) if reachable else 0
    broken = [] if lines <= bound else [f"{lines} lines of notes, the bound is {bound}"]
    broken += [] if agent.posts == [first, *(bead for bead in queue if bead != first)] else ["not in order"]
    broken += [] if requests <= 2 * passes else [f"{requests} requests to the agent in {passes} passes"]
    broken += history.verdict(here).broken
    figures = (
        f"{beads} beads wait 1 h: {lines} lines of notes on {len(notes)} beads (bound {bound}), {requests} requests to"
        f" the agent in {passes} passes; then all {len(agent.posts)} in order"
    )
    return check("the agent up, every POST a 503" if reachable else "the agent down", figures, broken)


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
