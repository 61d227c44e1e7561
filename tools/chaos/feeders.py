"""Two feeders at once, each with a name of its own: the same event ids, no second job, both continue."""

import contextlib
import functools
import random
import threading
import time
from collections.abc import Iterator

from beads_dispatch import events, store
from tools import world
from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.chaos.writer import Writer
from tools.database import AGENT
from tools.servers import Agent, Sink
from tools.world import World, meanwhile, not_in_time

check = functools.partial(checks.check, "feeders")


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    changes, beads = (80, 10) if short else (1000, 100)
    here.empty()
    names = [f"f-{number:03}" for number in range(beads)]
    here.add(names, assignee=None)
    with (
        Sink() as first, Sink() as second, Agent() as agent, Writer(here, chance, 20) as writer,
        here.feeder(first.url) as steady, contextlib.ExitStack() as stack,
    ):  # fmt: skip
        restarted = stack.enter_context(here.feeder(second.url, feed_name="second"))
        steady.wait_until_reading()
        restarted.wait_until_reading()
        start = here.commit("start")
        with meanwhile(*(functools.partial(dispatch, here, sink, agent) for sink in (first, second))):
            for number, bead in enumerate(names):
                if number == beads // 2:
                    restarted.stop()
                    restarted = stack.enter_context(here.feeder(second.url, feed_name="second"))
                writer.write(changes // beads)
                here.workspace.run("assign", bead, AGENT)
            broken = not_in_time(lambda: {*agent.posts} >= {*names}, "every bead POSTed", 60)
        broken += history.compare(here, start, first, 60).broken
        broken += not_in_time(lambda: _last(second) == _last(first), "the other has caught up", 60)
        broken += history.published([*first.received, *second.received]).differing
        ids, others = (_ids(sink) for sink in (first, second))
        # The one that was restarted continues from its own position.
        broken += [f"an id that only the restarted one gives: {event}" for event in sorted(others - ids)]
        broken += [f"{bead}: {posts} POSTs" for bead in names if (posts := agent.posts.count(bead)) > 1]
        broken += [] if steady.running and restarted.running else ["a feeder died"]
        broken += ["a traceback in a feeder's log"] if "Traceback" in steady.printed() + restarted.printed() else []
        broken += history.verdict(here).broken
        requests = sum(len(sink.of_type(events.DISPATCH_REQUESTED)) for sink in (first, second))
    figures = (
        f"{len(ids & others)} changes published by both with the same ids, {len(ids - others)} by one alone;"
        f" {requests} requests, {len(names)} beads, {len(agent.posts)} POSTs"
    )
    yield check("two feeders, two dispatchers, one restart", figures, broken)


def _ids(sink: Sink) -> set[str]:
    return {event.id for event in sink.of_type(events.ISSUE_CHANGED)}


def _last(sink: Sink) -> str:
    return sink.of_type(events.ISSUE_CHANGED)[-1].id


def dispatch(here: World, sink: Sink, agent: Agent, stop: threading.Event) -> None:
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
