"""What a quiet day costs on disk: python -m tools.bench.heartbeat [--beats N]

The feeder reports once a minute, with its position. 1,440 reports are written at once to a fresh server, as the feeder
writes them, and as many positions without a report; the size of the server's folder is compared before and after, and
after Dolt has collected its garbage, which it also does by itself as a journal grows.
"""

import contextlib
import pathlib
import sys
import threading

from beads_dispatch import store
from feeder.binlog import Position
from feeder.ownership import Owner
from tools import world
from tools.bench import report

KINDS = ("positions alone", "positions with reports")


def measure(here: world.World, beats: int) -> dict[str, dict[str, float]]:
    """KiB that the folder grows by; those that stay after a garbage collection."""
    folder, found = here.folder / "dolt" / "data", dict[str, dict[str, float]]()
    beat = Owner(here.dolt, threading.Event()).beat()
    with contextlib.closing(store.Store(here.dolt)) as beads:
        beads.feed_state.prepare()
        for kind in KINDS:
            before = _size(folder)
            for _ in range(beats):
                position = str(Position(beads.feed_state.executed()))
                beads.feed_state.set_position(position, {}, beat=beat if kind == KINDS[1] else None)
            grown = _size(folder) - before
            _collect(here)
            beads.close()
            kept = _size(folder) - before
            found[kind] = {
                "KiB": round(grown / 1024),
                "each, bytes": round(grown / beats),
                "after GC": round(kept / 1024),
            }
    return found


def main() -> int:
    beats = report.options(__doc__, beats=1440).beats
    with world.world() as here:
        found = measure(here, beats)
    report.table(f"{beats} times, KiB", found)
    report.write("heartbeat", {"beats": beats, **found})
    return 0


def _size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _collect(here: world.World) -> None:
    with here.cursor() as cursor:
        cursor.execute(f"USE {store.STATE_DATABASE}")
        cursor.execute("CALL DOLT_GC()")


if __name__ == "__main__":
    sys.exit(main())
