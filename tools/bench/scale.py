"""What a growing database costs: python -m tools.bench.scale [--rounds N]

The eligibility check, the dispatch pass, the reap pass and explain on 1,000, 100,000 and 1,000,000 beads, of which 99 %
are closed and 10 eligible; then with 20,000 blocked beads before one that is free, and with a queue of 1,000.
The passes are the functions' own, without the event's way to them; the agent answers at once. The plans of their
queries are shown, and written down whole.
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
from beads_dispatch.cli import explain
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.store.session import ReadSession
from feeder.eligibility_check import EligibilityCheck
from tools import world
from tools.bench import generate, report
from tools.database import AGENT, BeadsDatabase
from tools.servers import Agent

SIZES = (1_000, 100_000, 1_000_000)
ELIGIBLE = 10
BLOCKED = 20_000
QUEUE = 1_000
IN_PROGRESS = 1
AIM = 2.0  # times 1,000 beads' cost
AIM_BEHIND_BLOCKED_MS = 300

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


def measure(number: int, eligible: int, rounds: int, blocked: int = 0) -> tuple[dict[str, float], dict[str, str]]:
    """Medians in ms, and the plans."""
    with world.world(log_bin=False) as here, Agent() as agent:
        print(f"making {number} beads, {eligible} of them eligible", flush=True)
        generate.fill(here, number, eligible, IN_PROGRESS)
        if blocked:
            generate.fill_blocked(here, blocked)
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
        _time(found, "explain", lambda: explain.now(beads, _LIMITS, agent.posts[-1], datetime.now(UTC), None))
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
    options = report.options(__doc__, rounds=30, largest=SIZES[-1])
    rounds = options.rounds
    rows: dict[str, dict[str, float]] = {}
    queries: dict[str, str] = {}
    for number in [size for size in SIZES if size <= options.largest]:
        rows[f"{number} beads"], queries = measure(number, ELIGIBLE, rounds)
    small, *_, large = rows.values()
    times = {name: round(large[name] / small[name], 1) for name in small}
    report.table(
        f"median ms of {rounds} (aim: the largest at most {AIM:g} times the smallest)", {**rows, "times": times}
    )
    behind, _ = measure(SIZES[0], 0, rounds, BLOCKED)
    queue, _ = measure(SIZES[0] * 10, QUEUE, rounds)
    more = {f"behind {BLOCKED} blocked": behind, f"a queue of {QUEUE}": queue}
    report.table(f"the same (aim: a dispatch pass behind blocked beads within {AIM_BEHIND_BLOCKED_MS} ms)", more)
    print(f"\nhow the queries read their rows, at {number} beads")
    for sql, plan in queries.items():
        print(f"  {'; '.join(access(plan))}\n      {sql[:110]}…")
    report.write("scale", {"unit": "ms", "rounds": rounds, **rows, "times": times, **more, "plans": queries})
    return 0


if __name__ == "__main__":
    sys.exit(main())
