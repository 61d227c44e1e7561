"""What the feed costs the writers: python -m tools.bench.write_overhead [--rounds N]

`bd update` on three Dolt servers that run side by side: binlog off, binlog on, and binlog on with the feeder reading.
Each round runs one of each, the order changing, so that what else the machine does falls on all three.
"""

import argparse
import contextlib
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

from beads_dispatch import log, settings
from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tools import toolchain
from tools.bench import report
from tools.bench.throughput import Feeder, Sink

KINDS = ("binlog off", "binlog on", "binlog and feeder")


@contextlib.contextmanager
def workspace(folder: pathlib.Path, *, log_bin: bool) -> Iterator[Workspace]:
    """A workspace on a server of its own."""
    server = DoltServer(toolchain.dolt(), folder / "dolt", processes.free_port(), log_bin=log_bin)
    server.start()
    try:
        made = Workspace(toolchain.bd(), folder / "workspace")
        made.init(server.port, "bench")
        yield made
    finally:
        server.stop()


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    rounds = parser.parse_args().rounds
    log.configure("bench", level="ERROR")
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with contextlib.ExitStack() as closing:
        folder = pathlib.Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="beads-bench-")))
        print("starting three Dolt servers and a feeder", flush=True)
        spaces = {
            kind: closing.enter_context(workspace(folder / str(number), log_bin=number > 0))
            for number, kind in enumerate(KINDS)
        }
        sink = closing.enter_context(Sink())
        dolt = settings.dolt({"BEADS_DIR": str(spaces[KINDS[2]].beads_dir)})
        closing.enter_context(Feeder(dolt, sink, folder / "log"))
        beads = {kind: space.create("bead", "ok") for kind, space in spaces.items()}
        orders = itertools.cycle(itertools.permutations(KINDS))
        for number in range(rounds):
            for kind in next(orders):
                # A change of assignee: the feeder has something to tell.
                started = time.perf_counter()
                spaces[kind].run("update", beads[kind], "--assignee", f"person-{number}")
                found[kind].append((time.perf_counter() - started) * 1000)
            if (number + 1) % 25 == 0:
                print(f"{number + 1} of {rounds} rounds", flush=True)
    rows = compare(found)
    report.table("one `bd update`, ms", rows)
    report.write("burden", {"unit": "ms", "rounds": rounds, **rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
