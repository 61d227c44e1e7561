"""What a growing database costs: python -m tools.bench.scale [--rounds N]

The gate, the claim pass and the reap pass on 1,000, 10,000 and 100,000 beads, of which 1, 100 and 10,000 are eligible.
The two passes are the functions' own, with everything but HTTP's way to them; the agent answers at once. The plans of
their queries are shown, and written down whole.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import dispatcher, log, reaper, settings, store
from beads_dispatch.agents import beadboard
from tools.bench import generate, report
from tools.bench.world import InstantAgent, world

SIZES = ((1_000, 1), (10_000, 100), (100_000, 10_000))
AT_WORK = 1
AIM = 2.0  # times 1,000 beads' cost

_RULES = settings.DispatchLimits()


class Listened(store.Store):
    """Keeps each statement that is asked, once."""

    def __init__(self, dolt: settings.DoltSettings) -> None:
        super().__init__(dolt)
        self.asked: dict[str, Mapping[str, Any] | None] = {}

    def _rows(self, sql: str, params: Mapping[str, Any] | None = None, *, second: bool = False) -> list[dict[str, Any]]:
        if sql.lstrip().startswith("SELECT"):
            self.asked.setdefault(sql, params)
        return super()._rows(sql, params, second=second)

    def plans(self) -> dict[str, str]:
        """Dolt's plan of each statement on bd's tables."""
        tables = ("issues", "dependencies", "events", "comments")
        return {
            " ".join(sql.split()): "\n".join(
                str(next(iter(row.values()))) for row in self._rows(f"EXPLAIN PLAN {sql}", params)
            )
            for sql, params in list(self.asked.items())
            if any(f" {table} " in sql for table in tables)
        }


def access(plan: str) -> list[str]:
    """How a plan comes by its tables: `issues by status, updated_at`, or `events whole`."""
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
    agent = InstantAgent(on_post=lambda bead: setattr(agent, "active", 1))
    with world() as (_, _, dolt):
        print(f"making {number} beads, {eligible} of them eligible", flush=True)
        generate.fill(dolt, number, eligible, AT_WORK, say=lambda line: print(line, flush=True))
        beads = Listened(dolt)
        beads.feed_state.prepare()
        gate = Gate(beads, _RULES, None)
        dispatch = dispatcher.Dispatcher(
            beads,
            beadboard.BeadBoard(settings.AgentSettings(agent.url, f"{agent.url}/health")),
            _RULES,
            lambda: datetime.now(UTC),
            time.sleep,
        )
        # A clock at which the bead at work is not silent for long yet: a pass that finds nothing.
        quiet = beads.activity.inactive(_RULES.assignee, datetime.now(UTC))[0].updated_at + timedelta(minutes=5)
        print(f"measuring, {rounds} rounds", flush=True)
        found: dict[str, list[float]] = {}
        for _ in range(rounds + 2):
            _time(found, "gate", gate.waiting)
            _time(found, "first eligible", lambda: beads.eligible.first(_RULES.assignee, datetime.now(UTC), 1))
            agent.active = 0
            _time(found, "claim pass", lambda: _one_bead(dispatch, agent))
            _time(found, "reap gate", gate.stuck)
            _time(found, "reap pass", lambda: reaper.run_once(beads, _RULES, quiet))
            _open_again(dolt, agent.posts[-1][1])
        plans = beads.plans()
        beads.close()
    agent.close()
    return {name: round(statistics.median(times[2:]), 2) for name, times in found.items()}, plans


def _one_bead(dispatch: dispatcher.Dispatcher, agent: InstantAgent) -> None:
    """A pass that dispatches one bead: the agent is busy from its POST on."""
    before = len(agent.posts)
    dispatch.run_once()
    if len(agent.posts) != before + 1:
        raise AssertionError(f"a pass dispatched {len(agent.posts) - before} beads instead of one")


def _open_again(dolt: settings.DoltSettings, bead: str) -> None:
    with store.connect(dolt) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE issues SET status = 'open', notes = '', metadata = '{}' WHERE id = %s", (bead,))


def _time(found: dict[str, list[float]], name: str, act: Callable[[], object]) -> None:
    started = time.perf_counter()
    act()
    found.setdefault(name, []).append((time.perf_counter() - started) * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    log.configure("bench", level="ERROR")
    rows: dict[str, dict[str, float]] = {}
    plans: dict[str, str] = {}
    for number, eligible in SIZES:
        rows[f"{number} beads"], plans = measure(number, eligible, rounds)
    small, *_, large = rows.values()
    times = {name: round(large[name] / small[name], 1) for name in small}
    report.table(f"median ms of {rounds} (aim: 100,000 beads at most {AIM:g} times 1,000)", {**rows, "times": times})
    print("\nhow the queries come by their rows, at 100,000 beads")
    for sql, plan in plans.items():
        print(f"  {'; '.join(access(plan))}\n      {sql[:110]}…")
    report.write("scale", {"unit": "ms", "rounds": rounds, **rows, "times": times, "plans": plans})
    return 0


if __name__ == "__main__":
    sys.exit(main())
