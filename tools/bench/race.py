"""The claim race: python -m tools.bench.race [--processes N] [--beads N]

So many dispatchers at once on the same beads; each bead must be POSTed exactly once, with one claim in its notes.
Ends non-zero if not.
"""

import argparse
import collections
import multiprocessing
import sys
import time
from datetime import UTC, datetime
from typing import Any

from beads_dispatch import dispatcher, log, settings, store
from beads_dispatch.agents import beadboard
from tools.bench import report
from tools.bench.world import InstantAgent, world


def compete(dolt: settings.DoltSettings, url: str, barrier: Any, results: Any) -> None:
    """One dispatcher: passes until nothing is left."""
    dispatch = dispatcher.Dispatcher(
        store.Store(dolt),
        beadboard.BeadBoard(settings.AgentSettings(url, f"{url}/health")),
        settings.DispatchLimits(max_in_flight=10**6),
        lambda: datetime.now(UTC),
        time.sleep,
    )
    barrier.wait()
    kinds: collections.Counter[str] = collections.Counter()
    while True:
        outcomes = dispatch.run_once()
        kinds.update(type(outcome).__name__ for outcome in outcomes[:-1])
        if len(outcomes) == 1:
            break
    results.put(kinds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--beads", type=int, default=200)
    options = parser.parse_args()
    log.configure("bench", level="ERROR")
    agent = InstantAgent()
    with world() as (_, _, dolt):
        beads = store.connect(dolt)
        names = [f"race-{number:04}" for number in range(options.beads)]
        with beads.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes, assignee)"
                " VALUES (%s, 'race', '', '', 'ok', '', 'agent')",
                names,
            )
            cursor.execute("CALL DOLT_COMMIT('-Am', 'beads')")
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(options.processes + 1), context.Queue()
        workers = [
            context.Process(target=compete, args=(dolt, agent.url, barrier, results)) for _ in range(options.processes)
        ]
        for worker in workers:
            worker.start()
        barrier.wait()
        print(f"{options.processes} processes on {options.beads} beads", flush=True)
        started = time.monotonic()
        kinds = sum((results.get() for _ in workers), collections.Counter())
        seconds = time.monotonic() - started
        for worker in workers:
            worker.join()
        with beads.cursor() as cursor:
            cursor.execute("SELECT id, notes FROM issues WHERE id LIKE 'race-%%'")
            claims = {name: text.count("auto-dispatcher claimed at") for name, text in cursor.fetchall()}
        beads.close()
    agent.close()
    posts = collections.Counter(name for _, name in agent.posts)
    wrong = [name for name in names if posts[name] != 1 or claims[name] != 1]
    rows = {
        "race": {
            "beads": options.beads, "POSTs": len(agent.posts), "wrong": len(wrong), "lost races": kinds["LostRace"],
            "withdrawn": kinds["Withdrawn"], "seconds": round(seconds, 1), "beads/s": round(options.beads / seconds, 1),
        }
    }  # fmt: skip
    report.table("exactly one POST and one claim each", rows)
    report.write("race", {"processes": options.processes, **rows["race"]})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
