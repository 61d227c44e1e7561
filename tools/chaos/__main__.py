"""python -m tools.chaos [part ...] [--seed N] [--short]: the promises of docs/architecture.md under faults.

Prints a seed (give it again to choose the same beads, moments and faults; the machine still decides who comes first),
progress, and a table at the end. Ends non-zero when a promise is broken.
"""

import argparse
import importlib
import random
import sys
import time
import traceback

from tools.chaos import report, world

PARTS = ("feed", "gap", "claims", "crash", "outage", "people", "hostile", "feeders")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", metavar="part", nargs="*", default=[], help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--short", action="store_true", help="the form that the tests run")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]}; there are {', '.join(PARTS)}")
    seed = world.begin(options.seed)
    rows: list[report.Check] = []
    seconds = {}
    with world.world() as here:
        for name in options.parts or PARTS:
            began = time.monotonic()
            part = importlib.import_module(f"tools.chaos.{name}")
            try:
                rows.extend(part.run(here, random.Random(f"{seed}-{name}"), short=options.short))
            except Exception as exc:  # noqa: BLE001 - the other parts still have something to say
                traceback.print_exc()
                rows.append(report.check(name, "runs to its end", "it did not", f"{type(exc).__name__}: {exc}"))
            seconds[name] = time.monotonic() - began
    report.table(rows)
    print("seconds: " + ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items()) + f"; seed {seed}")
    return 1 if any(found.broken for found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
