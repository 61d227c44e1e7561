"""The feeder's first start and its comparison on a large database: python -m tools.bench.first_start [--beads N]

A real feeder. Its first start counts every bead as published as it is; then a bead changes while the binlog is off, and
the next start compares every bead to find it.
"""

import sys
import time

from beads_dispatch import events
from tools import world
from tools.bench import generate, report, resource_usage
from tools.servers import Sink
from tools.world import World, wait_for

AIM_MIB = 128
_PATIENCE_SECONDS = 900


def measure(here: World, beads: int) -> dict[str, dict[str, float]]:
    """Seconds and the feeder's peak memory, of the first start and of the comparison."""
    print(f"making {beads} beads", flush=True)
    here.empty()
    generate.fill(here, beads, eligible=0)
    here.server.stop()
    here.server.start(log_bin=True)
    print("measuring", flush=True)
    found = {}
    with Sink() as sink:
        began = time.monotonic()
        with here.feeder(sink.url) as feeder:
            feeder.wait_until(lambda: '"action": "start"' in feeder.printed(), "read the binlog", _PATIENCE_SECONDS)
            found["first start"] = _figures(began, feeder.pid)
        here.server.stop()
        here.server.start(log_bin=False)
        here.sql("UPDATE issues SET assignee = 'carol' WHERE id = (SELECT MAX(id) FROM issues)")
        here.server.stop()
        here.server.start(log_bin=True)
        began = time.monotonic()
        with here.feeder(sink.url) as feeder:
            wait_for(lambda: sink.of_type(events.ISSUE_CHANGED), "the change is published", _PATIENCE_SECONDS)
            found["comparison"] = _figures(began, feeder.pid)
    return found


def _figures(began: float, pid: int) -> dict[str, float]:
    return {
        "seconds": round(time.monotonic() - began, 1),
        "feeder's peak MiB": round(resource_usage.rss_mib(pid, "VmHWM"), 1),
    }


def main() -> int:
    beads = report.options(__doc__, beads=1_000_000).beads
    with world.world(log_bin=False) as here:
        found = measure(here, beads)
    report.table(f"on {beads} beads (aim: below {AIM_MIB} MiB)", found)
    report.write("first_start", {"beads": beads, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
