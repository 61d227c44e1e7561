"""How soon a bead starts when its moment comes: python -m tools.bench.due [--moments N]

N beads are deferred, each until a second of its own. There is no tick, and nobody runs `bd ready`. The delay is from
the moment to the POST.
"""

import sys
from datetime import UTC, datetime, timedelta

from tools import world
from tools.bench import report
from tools.servers import Agent

AIM_MS = 1000
_LEAD_SECONDS = 5  # until the first moment
_PATIENCE_SECONDS = 30  # after the last


def measure(number: int) -> list[float]:
    """The delays in ms; a bead that started before its moment has a negative one."""
    with (
        world.world() as here,
        Agent() as agent,
        here.system(agent.url, environment={"MAX_IN_FLIGHT": str(world.MANY)}),
    ):
        first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_LEAD_SECONDS)
        moments = {f"due-{index:03}": first + timedelta(seconds=index) for index in range(number)}
        for bead, moment in moments.items():
            here.insert([bead], status="deferred", defer_until=moment.replace(tzinfo=None))
        here.commit("deferred beads")
        print(f"{number} moments, one a second", flush=True)
        world.wait_for(lambda: len(agent.received) >= number, "every bead is POSTed", number + _PATIENCE_SECONDS)
    return [(posted - moments[bead].timestamp()) * 1000 for posted, bead in agent.received]


def main() -> int:
    number = report.options(__doc__, moments=100).moments
    delays = measure(number)
    summary = report.summary(delays)
    more = {"early": sum(delay < 0 for delay in delays), f"later than {AIM_MS} ms": sum(d > AIM_MS for d in delays)}
    report.table("moment to POST, ms", {"delay": summary})
    report.table("of these", {"beads": more})
    report.write("due", {"unit": "ms", "moments": number, "delay": summary, **more})
    return 1 if any(more.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
