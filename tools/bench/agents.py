"""Two agents, one of which hangs, and the end of a job: python -m tools.bench.agents [--beads N] [--jobs N]

First the delay from an assignment to the POST at an agent that works, alone and while a POST to the other agent hangs,
in rounds that alternate. Then how soon a bead is open again after its job is lost. There is no tick.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

from tools import world
from tools.bench import report
from tools.servers import Agent, job, stalls
from tools.world import World

AIM_TIMES = 2.0  # the median with the other agent hanging, beside the one without
AIM_SECONDS = 20.0  # the median from a job's end to its bead's next state
_PATIENCE_SECONDS = 90
_ROUND = 5
_FILE = """\
[agents.agent]
url = "{well}"
jobs_url = "{well}"
max_in_flight = 1000000

[agents."agent:slow"]
url = "{slow}"
timeout_seconds = 60
max_in_flight = 4
"""


@contextlib.contextmanager
def _system(here: World) -> Iterator[tuple[Agent, Agent]]:
    """The system, its agent that works, and its agent that may hang."""
    with Agent() as well, Agent() as slow:
        path = pathlib.Path(here.folder) / "agents.toml"
        path.write_text(_FILE.format(well=well.url, slow=slow.url))
        with here.system(well.url, environment={"AGENTS_FILE": str(path)}):
            yield well, slow


def _delay_ms(here: World, well: Agent, bead: str) -> float:
    began = time.time()
    here.insert([bead])
    return (well.wait_for(bead, _PATIENCE_SECONDS) - began) * 1000


def measure_posts(here: World, well: Agent, slow: Agent, number: int) -> dict[str, list[float]]:
    """The delays in ms, alone and beside the agent that hangs."""
    found: dict[str, list[float]] = {"alone": [], "beside an agent that hangs": []}
    _delay_ms(here, well, "warm")
    for index in range(0, number, _ROUND):
        names = [f"alone-{index + each}" for each in range(_ROUND)]
        found["alone"] += [_delay_ms(here, well, name) for name in names]
        hanging = f"hanging-{index}"
        slow.behaviour = stalls
        here.insert([hanging], assignee="agent:slow")
        slow.wait_for(hanging, _PATIENCE_SECONDS)
        names = [f"beside-{index + each}" for each in range(_ROUND)]
        found["beside an agent that hangs"] += [_delay_ms(here, well, name) for name in names]
        slow.behaviour = job  # ends the POST without a usable answer, which holds that agent
        here.sql("DELETE FROM beads_dispatch.agent_holds")
        print(f"{index + _ROUND} of {number} beads in each", flush=True)
    return found


def measure_ends(here: World, well: Agent, number: int) -> list[float]:
    """Seconds from the loss of a job to its bead being open again."""
    found = []
    for index in range(number):
        bead = f"lost-{index}"
        here.insert([bead])
        well.wait_for(bead, _PATIENCE_SECONDS)
        world.wait_for(lambda: "dispatched: " in here.row(bead)["notes"], "its record", _PATIENCE_SECONDS)  # noqa: B023
        lost = here.row(bead)["notes"].rpartition("dispatched: job=")[2]
        time.sleep(index % 15)  # any moment between two questions of the feeder
        began = time.monotonic()
        well.phases[lost] = ""
        world.wait_for(lambda: here.row(bead)["status"] == "open", "the bead open again", _PATIENCE_SECONDS)  # noqa: B023
        found.append(time.monotonic() - began)
        here.sql("UPDATE issues SET status = 'closed' WHERE id = %s", bead)
        here.sql("DELETE FROM beads_dispatch.agent_holds")
        print(f"{index + 1} of {number} jobs", flush=True)
    return found


def main() -> int:
    options = report.options(__doc__, beads=40, jobs=15)
    with world.world() as here, _system(here) as (well, slow):
        delays = measure_posts(here, well, slow, options.beads)
        ends = measure_ends(here, well, options.jobs)
    posts = {name: report.summary(each) for name, each in delays.items()}
    times = round(posts["beside an agent that hangs"]["p50"] / posts["alone"]["p50"], 2)
    end = report.summary(ends)
    report.table("assignment to POST, ms", posts)
    report.table("a job is lost to its bead open again, s", {"end": end})
    print(f"\nmedian beside an agent that hangs: {times} times")
    report.write("agents", {"unit": "ms", "posts": posts, "times": times, "end_seconds": end})
    return 0 if times <= AIM_TIMES and end["p50"] <= AIM_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
