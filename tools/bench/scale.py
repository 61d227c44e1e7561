"""What a growing database costs: python -m tools.bench.scale [--rounds N]

The eligibility check, the dispatch pass and the reap pass on 1,000, 10,000 and 100,000 beads, of which 1, 100 and
10,000 are eligible. The two passes are the functions' own, without the event's way to them; the agent answers at once.
The plans of their queries are shown, and written down whole.
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from beads_dispatch import reaper, settings
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.store.session import ReadSession
from feeder.eligibility_check import EligibilityCheck
from tools import world
from tools.bench import generate, report
from tools.database import AGENT, BeadsDatabase
from tools.servers import Agent

SIZES = ((1_000, 1), (10_000, 100), (100_000, 10_000))
IN_PROGRESS = 1
AIM = 2.0  # times 1,000 beads' cost

_LIMITS = settings.DispatchLimits()
_TABLES = ("issues", "dependencies", "events", "comments")


@contextlib.contextmanager
def recorded_queries() -> Iterator[dict[str, Any]]:
    """The queries of the block, each once, with its parameters."""
    rows = ReadSession.rows
    found: dict[str, Any] = {}

    def recorded(self: ReadSession, sql: str, params: Any = None) -> Any:
        if sql.lstrip().startswith("SELECT"):
            found.setdefault(sql, params)
        return rows(self, sql, params)

    with mock.patch.object(ReadSession, "rows", recorded):
        yield found


def plans(database: BeadsDatabase, queries: dict[str, Any]) -> dict[str, str]:
    """Dolt's plan of each query on bd's tables."""
    found = {}
    with database.cursor() as cursor:
        for sql, params in queries.items():
            if any(f" {table} " in sql for table in _TABLES):
                cursor.execute(f"EXPLAIN PLAN {sql}", params)
                lines = [str(next(iter(row.values()))) for row in cursor.fetchall()]
                found[" ".join(sql.split())] = "\n".join(lines)
    return found


def access(plan: str) -> list[str]:
    """How a plan reads its tables: `issues by status, updated_at`, or `events whole`."""
    found = []
    lines = [line.lstrip(" │├└─") for line in plan.splitlines()]
    for number, line in enumerate(lines):
        if line.startswith("IndexedTableAccess("):
            index = next(later for later in lines[number:] if later.startswith("index: ["))
            table = line.partition("(")[2].rstrip(")")
            columns = [name.rpartition(".")[2] for name in index.removeprefix("index: [").rstrip("]").split(",")]
            found.append(f"{table} by {', '.join(columns)}")
        elif line == "Table":
            name = next(later for later in lines[number:] if later.startswith("name: "))
            found.append(f"{name.removeprefix('name: ')} whole")
    return list(dict.fromkeys(found))


def measure(number: int, eligible: int, rounds: int) -> tuple[dict[str, float], dict[str, str]]:
    """Medians in ms, and the plans."""
    with world.world() as here, contextlib.closing(Agent()) as agent:
        print(f"making {number} beads, {eligible} of them eligible", flush=True)
        generate.fill(here, number, eligible, IN_PROGRESS)
        print(f"measuring, {rounds} rounds", flush=True)
        with world.dispatcher(here.dolt, agent.url, max_in_flight=1) as dispatcher, recorded_queries() as queries:
            dispatcher.store.feed_state.prepare()
            found = _rounds(here, dispatcher, agent, rounds)
        return {name: round(statistics.median(times[2:]), 2) for name, times in found.items()}, plans(here, queries)


def _rounds(here: world.World, dispatcher: Dispatcher, agent: Agent, rounds: int) -> dict[str, list[float]]:
    beads = dispatcher.store
    check = EligibilityCheck(beads, _LIMITS, None)
    # A clock at which the bead in progress is not inactive for long: a pass that finds nothing.
    quiet = beads.activity.inactive(AGENT, datetime.now(UTC))[0].updated_at + timedelta(minutes=5)
    found: dict[str, list[float]] = {}
    agent.on_post = lambda bead: setattr(agent, "active", 1)
    for _ in range(rounds + 2):
        _time(found, "eligibility check", check.count_eligible)
        _time(found, "first eligible", lambda: beads.eligible.first(AGENT, datetime.now(UTC), 1))
        agent.active = 0
        _time(found, "dispatch pass", lambda: _one_bead(dispatcher, agent))
        _time(found, "reap check", check.count_reapable)
        _time(found, "reap pass", lambda: reaper.run_once(beads, _LIMITS, quiet))
        here.sql("UPDATE issues SET status = 'open', notes = '', metadata = '{}' WHERE id = %s", agent.posts[-1])
    return found


def _one_bead(dispatcher: Dispatcher, agent: Agent) -> None:
    """A pass that dispatches one bead: the agent is busy from its POST on."""
    before = len(agent.posts)
    dispatcher.run_once()
    if len(agent.posts) != before + 1:
        raise AssertionError(f"a pass dispatched {len(agent.posts) - before} beads instead of one")


def _time(found: dict[str, list[float]], name: str, act: Callable[[], object]) -> None:
    started = time.perf_counter()
    act()
    found.setdefault(name, []).append((time.perf_counter() - started) * 1000)


def main() -> int:
    rounds = report.options(__doc__, rounds=30).rounds
    rows: dict[str, dict[str, float]] = {}
    queries: dict[str, str] = {}
    for number, eligible in SIZES:
        rows[f"{number} beads"], queries = measure(number, eligible, rounds)
    small, *_, large = rows.values()
    times = {name: round(large[name] / small[name], 1) for name in small}
    report.table(f"median ms of {rounds} (aim: 100,000 beads at most {AIM:g} times 1,000)", {**rows, "times": times})
    print("\nhow the queries read their rows, at 100,000 beads")
    for sql, plan in queries.items():
        print(f"  {'; '.join(access(plan))}\n      {sql[:110]}…")
    report.write("scale", {"unit": "ms", "rounds": rounds, **rows, "times": times, "plans": queries})
    return 0


if __name__ == "__main__":
    sys.exit(main())
