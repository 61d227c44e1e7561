"""Two feeders by accident: a rollout, a node that came back. The same ids, no second job, both go on."""

import random
import threading
import time
from collections.abc import Iterator

from beads_dispatch import store
from beads_dispatch.cli import verify
from tools.chaos import report, world, writer
from tools.chaos.report import Check
from tools.chaos.servers import Agent, Sink
from tools.chaos.world import World

PART = "feeders"


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    changes, beads = (80, 10) if short else (1000, 100)
    here.empty()
    writes = writer.Writer(here, chance, 20, bd_every=0)
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
        waiting = iter(names)
        while writes.changes < changes:
            writes.step()
            if writes.changes % (changes // beads) == 0 and (bead := next(waiting, None)):
                here.workspace.run("assign", bead, world.SENTINEL)
            if writes.changes == changes // 2:  # one of them is restarted meanwhile, as in a rollout
                feeders[1].process.stop()
                feeders[1] = here.feeder(sinks[1].url)
        for bead in waiting:
            here.workspace.run("assign", bead, world.SENTINEL)
        broken = []
        try:
            world.wait_for(lambda: set(agent.times()) >= set(names), "every bead POSTed", 60)
            changed = world.changed_since(here, start)
            world.wait_for(
                lambda: world.count(world.told(sinks[0].facts())[0]) >= world.count(changed), "every change told", 60
            )
            world.wait_for(lambda: sinks[1].facts()[-1].id == sinks[0].facts()[-1].id, "the other has caught up", 60)
        except world.Late as exc:
            broken.append(str(exc))
        stop.set()
        for thread in dispatching:
            thread.join()
        # The one that was restarted goes on from where the other had come to.
        ids = [{event.id for event in sink.facts()} for sink in sinks]
        broken += [f"an id that the other one does not give: {event}" for event in sorted(ids[1] - ids[0])]
        found, _, differ = world.told([*sinks[0].facts(), *sinks[1].facts()])
        broken += world.compare(world.changed_since(here, start), found) + differ
        broken += [f"{bead}: {number} POSTs" for bead, number in agent.times().items() if number > 1]
        broken += ["a feeder died"] if not all(feeder.process.running for feeder in feeders) else []
        broken += ["a traceback in a feeder's log"] if any("Traceback" in feeder.log for feeder in feeders) else []
        broken += verify.judge(verify.versions(here.dolt, here.began), verify.written_by_others(here.dolt)).broken
        figures = (
            f"{len(ids[0] & ids[1])} changes told by both with the same ids, {len(ids[0] - ids[1])} by one while the"
            f" other was away;"
            f" {sum(map(len, map(Sink.requests, sinks)))} requests, {len(names)} beads, {len(agent.posts)} POSTs"
        )
        yield report.check(PART, "two feeders, two dispatchers, one restart", figures, broken)
    finally:
        stop.set()
        writes.close()
        for feeder in feeders:
            feeder.process.stop()
        for sink in sinks:
            sink.close()
        agent.close()


def _dispatch(here: World, sink: Sink, agent: Agent, stop: threading.Event) -> None:
    """A dispatcher that is woken by one feeder's requests."""
    one, done = here.dispatcher(agent.url), 0
    while not stop.is_set():
        if len(sink.requests()) > done:
            done = len(sink.requests())
            try:
                one.run_once()
            except store.StoreError:
                continue
        time.sleep(0.02)
    one.store.close()
