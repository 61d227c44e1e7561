"""One feeder for many databases of a server, beside one for one of them: from an assignment to its POST, the feeder's
memory, connections to Dolt, and CPU while nothing happens.

    python -m tools.bench.databases [--databases 50] [--beads 2000] [--agents 1]
"""

import contextlib
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator

from local.system import System
from tools import world
from tools.bench import generate, report, resource_usage
from tools.database import insert_rows
from tools.servers import Agent
from tools.world import World

_FIRST = "world"  # the database that World makes
_MOST_SECONDS = 60


def names(databases: int) -> list[str]:
    return [_FIRST, *(f"copy{number:03}" for number in range(1, databases))]


def copy(here: World, databases: int) -> None:
    """Make so many databases of the first one, while the server is stopped."""
    here.server.stop()
    data = here.folder / "dolt" / "data"
    for name in names(databases)[1:]:
        shutil.copytree(data / _FIRST, data / name)
    here.server.start()


def agents_file(here: World, url: str, number: int) -> str:
    """The path of a file with so many agents, all at one service; beads are assigned to the first."""
    lines = [f'[agents.agent{at or ""}]\nurl = "{url}"\nmax_in_flight = {world.MANY}\n' for at in range(number)]
    path = here.folder / "agents.toml"
    path.write_text("\n".join(lines))
    return str(path)


def connections(here: World) -> int:
    """Those to Dolt, of all processes."""
    with here.cursor() as cursor:
        return cursor.execute("SHOW PROCESSLIST")


@contextlib.contextmanager
def system(here: World, agent: Agent, database: str, agents: int) -> Iterator[System]:
    environment = {"DOLT_DATABASE": database, "AGENTS_FILE": agents_file(here, agent.url, agents)}
    with here.system(agent.url, environment=environment) as running:
        time.sleep(5)  # past its start
        yield running


def samples(here: World, agent: Agent, where: list[str], number: int, prefix: str) -> list[float]:
    """Milliseconds from assignments to their POSTs, each in one of these databases."""
    found = []
    for index in range(number + 2):
        bead, database = f"{prefix}-{index}", random.choice(where)
        with here.cursor() as cursor:
            columns = ("id", "title", "description", "design", "acceptance_criteria", "notes")
            insert_rows(cursor, f"`{database}`.issues", columns, [(bead, "a bead", "", "", "It works.", "")])
            time.sleep(0.3 + random.uniform(0, 0.5))  # past the insert's own event, at any phase of Dolt's poll
            cursor.execute(f"UPDATE `{database}`.issues SET assignee = 'agent' WHERE id = %s", (bead,))
        assigned = time.time()
        posted = agent.wait_for(bead, _MOST_SECONDS)
        if index >= 2:  # the first passes connect
            found.append((posted - assigned) * 1000)
    return found


def main() -> int:
    options = report.options(__doc__, databases=50, beads=2000, samples=40, rounds=2, agents=1, minutes=3.0)
    every = names(options.databases)
    found: dict[str, list[float]] = {"one": [], "several": []}
    feeder: dict[str, dict[str, float]] = {}
    with world.world() as here, Agent() as agent:
        generate.fill(here, options.beads, eligible=0)
        copy(here, options.databases)
        for number in range(options.rounds):
            for kind, database, where in (("one", _FIRST, [_FIRST]), ("several", "*", every)):
                print(f"round {number + 1} of {options.rounds}: {kind}", flush=True)
                with system(here, agent, database, options.agents) as running:
                    found[kind] += samples(here, agent, where, options.samples, f"{kind}{number}")
                    pid = running.processes["feeder"].pid
                    if number == options.rounds - 1:
                        before = resource_usage.cpu_seconds(pid)
                        time.sleep(options.minutes * 60)
                        spent = resource_usage.cpu_seconds(pid) - before
                        feeder[kind] = {
                            "core % while idle": round(spent / (options.minutes * 60) * 100, 3),
                            "MiB": round(resource_usage.rss_mib(pid), 1),
                            "peak MiB": round(resource_usage.rss_mib(pid, "VmHWM"), 1),
                            "connections": connections(here),
                        }
    table = {kind: report.summary(taken) for kind, taken in found.items()}
    report.table(f"from an assignment to its POST, ms; {options.databases} databases x {options.beads} beads", table)
    report.table("the feeder", feeder)
    ratio = round(statistics.median(found["several"]) / statistics.median(found["one"]), 2)
    print(f"several / one: {ratio}")
    sizes = {"databases": options.databases, "beads": options.beads, "agents": options.agents}
    report.write("databases", {**sizes, "unit": "ms", **table, "ratio": ratio, "feeder": feeder})
    return 0


if __name__ == "__main__":
    sys.exit(main())
