"""Test the promises of docs/architecture.md under faults: python -m tools.chaos [part ...] [--seed N] [--short]

Prints a seed, progress, and a table at the end. The same seed chooses the same beads, moments and faults; the timing of
the processes still differs. Exits non-zero when a promise is broken.
"""

import argparse
import importlib
import random
import secrets
import sys
import time
import traceback
from collections.abc import Collection

from beads_dispatch import log
from local import interrupts
from tools import world
from tools.chaos import checks

PARTS = ("feed", "gap", "large", "claims", "slots", "crash", "outage", "concurrent_edits", "fuzz", "feeders", "oracle")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the form that the tests run")
    options = begin(parser, "part", PARTS)
    found: list[checks.Check] = []
    seconds = {}
    with world.world() as here:
        for name in options.names:
            began = time.monotonic()
            part = importlib.import_module(f"tools.chaos.{name}")
            try:
                found.extend(part.run(here, random.Random(f"{options.seed}-{name}"), short=options.short))
            except Exception as exc:  # noqa: BLE001 - the other parts are run all the same
                traceback.print_exc()
                found.append(checks.check(name, "runs to its end", "no", [f"{type(exc).__name__}: {exc}"]))
            seconds[name] = time.monotonic() - began
    checks.print_table(found)
    print("seconds: " + ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items()) + f"; seed {options.seed}")
    return 1 if any(each.broken for each in found) else 0


def begin(parser: argparse.ArgumentParser, noun: str, known: Collection[str]) -> argparse.Namespace:
    """Parse the command line: `names` of what is known, by default all, and the `seed`, which is printed; and prepare
    the process."""
    parser.add_argument("names", metavar=noun, nargs="*", help=f"{', '.join(known)}; default: all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="default: a random one")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"there is no {noun} {unknown[0]!r}; the {noun}s are {', '.join(known)}")
    options.names = options.names or list(known)
    print(f"seed {options.seed}", flush=True)
    log.configure("chaos", level="CRITICAL")
    interrupts.exit_once()
    return options


if __name__ == "__main__":
    sys.exit(main())
