"""Two feeders at once, as in a rollout: the same event ids, no second job, both continue."""

import contextlib
import functools
import random
import threading
import time
from collections.abc import Iterator, Sequence

from beads_dispatch import events, store
from tools import world
from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.chaos.writer import Writer
from tools.database import AGENT
from tools.servers import Agent, Sink
from tools.world import Feeder, World, wait_for

check = functools.partial(checks.check, "feeders")


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    changes, beads = (80, 10) if short else (1000, 100)
    here.empty()
    writer = Writer(here, chance, 20)
    names = [f"f-{number:03}" for number in range(beads)]
    here.add(names, assignee=None)
    sinks, agent, stop = [Sink(), Sink()], Agent(), threading.Event()
    feeders = [here.feeder(sink.url) for sink in sinks]
    dispatching = [threading.Thread(target=_dispatch, args=(here, sink, agent, stop)) for sink in sinks]
    try:
        for feeder in feeders:
            feeder.wait_until_reading()
        start = here.commit("start")
        for thread in dispatching:
            thread.start()
        _change(here, writer, changes, names, feeders, sinks[1])
        broken = _wait(here, start, names, agent, sinks)
        stop.set()
        for thread in dispatching:
            thread.join()
        broken += _differences(here, start, sinks)
        broken += [f"{bead}: {posts} POSTs" for bead in names if (posts := agent.posts.count(bead)) > 1]
        broken += ["a feeder died"] if not all(feeder.process.running for feeder in feeders) else []
        broken += ["a traceback in a feeder's log"] if any("Traceback" in feeder.log for feeder in feeders) else []
        broken += history.verdict(here).broken
        ids, others = (_ids(sink) for sink in sinks)
        requests = sum(len(sink.of_type(events.DISPATCH_REQUESTED)) for sink in sinks)
        figures = (
            f"{len(ids & others)} changes published by both with the same ids, {len(ids - others)} by one while the"
            f" other was down; {requests} requests, {len(names)} beads, {len(agent.posts)} POSTs"
        )
        yield check("two feeders, two dispatchers, one restart", figures, broken)
    finally:
        stop.set()
        writer.close()
        for feeder in feeders:
            feeder.process.stop()
        for server in (*sinks, agent):
            server.close()


def _change(
    here: World, writer: Writer, changes: int, names: Sequence[str], feeders: list[Feeder], second: Sink
) -> None:
    """Write so many changes, assign the beads between them, and restart the second feeder half-way."""
    waiting = iter(names)
    while writer.changes < changes:
        writer.step()
        if writer.changes % (changes // len(names)) == 0 and (bead := next(waiting, None)):
            here.workspace.run("assign", bead, AGENT)
        if writer.changes == changes // 2:
            feeders[1].process.stop()
            feeders[1] = here.feeder(second.url)
    for bead in waiting:
        here.workspace.run("assign", bead, AGENT)


def _wait(here: World, start: str, names: Sequence[str], agent: Agent, sinks: Sequence[Sink]) -> list[str]:
    """Wait until everything is done; returns what was not done in time."""
    first, second = sinks
    try:
        wait_for(lambda: {*agent.posts} >= {*names}, "every bead POSTed", 60)
        number = history.count(history.changes_since(here, start))
        wait_for(lambda: history.published(first.received).number >= number, "every change published", 60)
        wait_for(lambda: _last(second) == _last(first), "the other has caught up", 60)
    except world.TimedOut as exc:
        return [str(exc)]
    return []


def _differences(here: World, start: str, sinks: Sequence[Sink]) -> list[str]:
    # The one that was restarted continues from the position that the other stored.
    broken = [f"an id that only the restarted one gives: {event}" for event in sorted(_ids(sinks[1]) - _ids(sinks[0]))]
    found = history.published([*sinks[0].received, *sinks[1].received])
    return broken + history.differences(history.changes_since(here, start), found.changes) + found.differing


def _ids(sink: Sink) -> set[str]:
    return {event.id for event in sink.of_type(events.ISSUE_CHANGED)}


def _last(sink: Sink) -> str:
    return sink.of_type(events.ISSUE_CHANGED)[-1].id


def _dispatch(here: World, sink: Sink, agent: Agent, stop: threading.Event) -> None:
    """A dispatcher that runs a pass for the requests of one feeder."""
    done = 0
    with world.dispatcher(here.dolt, agent.url) as dispatcher:
        while not stop.is_set():
            requests = len(sink.of_type(events.DISPATCH_REQUESTED))
            if requests > done:
                done = requests
                with contextlib.suppress(store.StoreError):
                    dispatcher.run_once()
            time.sleep(0.02)
