"""What the feed costs the writers: python -m tools.bench.write_overhead [--rounds N]

`bd update` on three Dolt servers that run side by side: binlog off, binlog on, and binlog on with the feeder reading.
Each round runs one of each, the order changing, so that the machine's other load is the same for all three.
"""

import contextlib
import itertools
import statistics
import sys
import time

from tools import world
from tools.bench import report
from tools.bench.throughput import CountingSink

KINDS = ("binlog off", "binlog on", "binlog and feeder")


def compare(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Percentiles of each kind, and the median of what it takes more than the first kind in the same round."""
    first = found[KINDS[0]]
    return {
        kind: {
            **report.summary(times),
            "more": round(statistics.median(each - base for each, base in zip(times, first, strict=True)), 1),
            "ratio": round(statistics.median(each / base for each, base in zip(times, first, strict=True)), 3),
        }
        for kind, times in found.items()
    }


def main() -> int:
    rounds = report.options(__doc__, rounds=150).rounds
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(CountingSink())
        worlds = {kind: stack.enter_context(world.world(log_bin=kind != KINDS[0])) for kind in KINDS}
        stack.enter_context(worlds[KINDS[2]].feeder(sink.url)).wait_until_reading()
        beads = {kind: here.workspace.create("bead", "ok") for kind, here in worlds.items()}
        orders = itertools.cycle(itertools.permutations(KINDS))
        for number in range(rounds):
            for kind in next(orders):
                # A change of assignee: the feeder publishes it.
                started = time.perf_counter()
                worlds[kind].workspace.run("update", beads[kind], "--assignee", f"person-{number}")
                found[kind].append((time.perf_counter() - started) * 1000)
            if (number + 1) % 25 == 0:
                print(f"{number + 1} of {rounds} rounds", flush=True)
    rows = compare(found)
    report.table("one `bd update`, ms", rows)
    report.write("write_overhead", {"unit": "ms", "rounds": rounds, **rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
