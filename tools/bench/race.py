"""The claim race: python -m tools.bench.race [--processes N] [--beads N]

N dispatchers at once on the same beads; each bead must be POSTed exactly once, with one claim in its notes. Exits
non-zero otherwise.
"""

import collections
import multiprocessing
import sys
import time
from typing import Any

from beads_dispatch import notes, settings
from tools import world
from tools.bench import report
from tools.servers import Agent


def compete(dolt: settings.DoltSettings, url: str, barrier: Any, results: Any) -> None:
    """One dispatcher process: passes until nothing is left; sends how often each outcome came."""
    kinds: collections.Counter[str] = collections.Counter()
    with world.dispatcher(dolt, url) as dispatcher:
        barrier.wait()
        while len(outcomes := dispatcher.run_once()) > 1:
            kinds.update(type(outcome).__name__ for outcome in outcomes[:-1])
    results.put(kinds)


def race(here: world.World, agent_url: str, processes: int) -> tuple[collections.Counter[str], float]:
    """Run the dispatchers; how often each outcome came, and the seconds."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes + 1), context.Queue()
    arguments = (here.dolt, agent_url, barrier, results)
    workers = [context.Process(target=compete, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.monotonic()
    kinds: collections.Counter[str] = collections.Counter()
    for _ in workers:
        kinds.update(results.get())
    seconds = time.monotonic() - started
    for worker in workers:
        worker.join()
    return kinds, seconds


def main() -> int:
    options = report.options(__doc__, processes=8, beads=200)
    names = [f"race-{number:04}" for number in range(options.beads)]
    with world.world() as here, Agent() as agent:
        here.add(names)
        print(f"{options.processes} processes on {options.beads} beads", flush=True)
        kinds, seconds = race(here, agent.url, options.processes)
        claims = {bead: row["notes"].count(notes.CLAIMED) for bead, row in here.rows().items()}
    posts = collections.Counter(agent.posts)
    wrong = [name for name in names if posts[name] != 1 or claims[name] != 1]
    row = {
        "beads": options.beads, "POSTs": posts.total(), "wrong": len(wrong), "lost races": kinds["LostRace"],
        "withdrawn": kinds["Withdrawn"], "seconds": round(seconds, 1), "beads/s": round(options.beads / seconds, 1),
    }  # fmt: skip
    report.table("exactly one POST and one claim each", {"race": row})
    report.write("race", {"processes": options.processes, **row})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
