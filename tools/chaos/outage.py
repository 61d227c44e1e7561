"""The agent service is away for an hour of simulated time, or chokes on one bead: no noise, and nobody waits for it."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from beads_dispatch import dispatcher
from beads_dispatch.cli import verify
from tools.chaos import report
from tools.chaos.report import Check
from tools.chaos.servers import Agent
from tools.chaos.world import Clock, World

PART = "outage"
TICK_SECONDS = 30  # more often than the PingSource: changes ask for passes too


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    beads = 20 if short else 100
    yield away(here, chance, beads, "all", "the service away")
    yield away(here, chance, beads, "posts", "the service there, every POST a 503")
    for name, answer, poisons in (
        ("500", "500", 1),
        ("500", "500", 3),
        ("400", "400", 2),
        ("a hang-up", "cut", 2),
    ):
        yield poison(here, name, answer, poisons, 10 if short else 40)


def most_notes(seconds: float) -> int:
    """The bound: two lines (claimed, failed) for each hold that fits: 30 s, doubling up to 10 minutes."""
    holds, spent, hold = 0, 0.0, float(dispatcher.HOLD_SECONDS)
    while spent <= seconds:
        holds, spent, hold = holds + 1, spent + hold, min(2 * hold, dispatcher.HOLD_LIMIT_SECONDS)
    return 2 * holds


def away(here: World, chance: random.Random, beads: int, down: str, name: str) -> Check:
    """An hour's ticks while it is down, then it is back."""
    here.empty()
    names = [f"o-{number:03}" for number in range(beads)]
    for bead in names:
        moment = datetime(2026, 1, 1) + timedelta(minutes=chance.randrange(10_000))
        here.add([bead], priority=chance.randrange(3), updated_at=moment)
    agent, clock = Agent(), Clock(datetime.now(UTC))
    one = here.dispatcher(agent.url, clock)
    asked = 0

    def asking(*_: object) -> None:
        nonlocal asked
        asked += 1

    agent.on_get = asking
    agent.down = down
    end, passes = clock() + timedelta(hours=1), 0
    try:
        while clock() < end:
            one.run_once()
            passes += 1
            clock.sleep(TICK_SECONDS)
        failed = {row["id"]: row["notes"].count("\n") + 1 for row in here.sql("SELECT * FROM issues WHERE notes <> ''")}
        order = [row["id"] for row in here.sql("SELECT id FROM issues ORDER BY priority, updated_at, id")]
        bound, asked_down = (0 if down == "all" else most_notes(3600)), asked + len(agent.posts)
        agent.down = ""
        agent.posts.clear()
        while len(agent.accepted) < beads and clock() < end + timedelta(minutes=15):
            clock.sleep(TICK_SECONDS)
            one.run_once()
    finally:
        one.store.close()
        agent.close()
    went = [bead for _, bead in agent.accepted]
    first = next((bead for bead in order if bead not in failed), order[0])
    lines = sum(failed.values())
    broken = [] if lines <= bound else [f"{lines} lines of notes, the bound is {bound}"]
    broken += [] if went == [first, *(bead for bead in order if bead != first)] else ["not in order"]
    broken += [] if asked_down <= 2 * passes else [f"asked {asked_down} times in {passes} passes"]
    broken += verify.judge(verify.versions(here.dolt, here.began), verify.written_by_others(here.dolt)).broken
    figures = (
        f"{beads} beads wait 1 h: {lines} lines of notes on {len(failed)} beads (bound {bound}), the service asked"
        f" {asked_down} times in {passes} passes; then all {len(went)} in order"
    )
    return report.check(PART, name, figures, broken)


def poison(here: World, name: str, answer: str, poisons: int, beads: int) -> Check:
    """Urgent beads that the service cannot take, before many that it can."""
    here.empty()
    bad, good = [f"p-{number}" for number in range(poisons)], [f"q-{number:03}" for number in range(beads)]
    here.add(bad, priority=0)
    here.add(good, priority=2)
    clock = Clock(datetime.now(UTC))
    agent = Agent(lambda bead: answer if bead in bad else "ok")
    one = here.dispatcher(agent.url, clock)
    began = clock()
    waited = 0.0
    try:
        # As long as five refusals take, with their retry times; and some holds.
        for _ in range(int((sum(dispatcher.RETRY_MINUTES) * 60 + 1800) / TICK_SECONDS)):
            one.run_once()
            if not waited and {bead for _, bead in agent.accepted} >= set(good):
                waited = (clock() - began).total_seconds() or 1.0
            clock.sleep(TICK_SECONDS)
    finally:
        one.store.close()
        agent.close()
    rows = {row["id"]: row for row in here.sql("SELECT * FROM issues")}
    lines = max(rows[bead]["notes"].count("\n") + 1 for bead in bad)
    ends = sorted({rows[bead]["status"] for bead in bad})
    # Each of them costs the others one hold, and the next tick.
    holds = [min(dispatcher.HOLD_SECONDS * 2**number, dispatcher.HOLD_LIMIT_SECONDS) for number in range(poisons)]
    most = sum(holds) + TICK_SECONDS
    broken = [] if 0 < waited <= most else [f"the others waited {waited:.0f} s, the bound is {most} s"]
    broken += [] if ends == (["in_progress"] if answer == "cut" else ["blocked"]) else [f"the bad ones are {ends}"]
    broken += [] if lines <= 2 * (dispatcher.BLOCK_AT + 1) + 1 else [f"{lines} lines of notes on a bad one"]
    figures = (
        f"{beads} others waited {waited:.0f} s; the bad ones end {', '.join(ends)} with at most {lines} lines of notes"
    )
    return report.check(PART, f"{poisons} urgent bead(s) answered with {name}", figures, broken)
