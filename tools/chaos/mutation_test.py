"""Can each promise's check fail? python -m tools.chaos.mutation_test [name ...] [--seed N]

Breaks the product in one place at a time (tools.chaos.mutants), and runs the checks that must notice, most in their short form.
Ends non-zero when one of them held all the same.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from local import processes
from tools.chaos import claims, concurrent_edits, crash, feed, feeders, fuzz, gap, mutants, outage, report, world
from tools.chaos.report import Check
from tools.chaos.world import World

Checks = Callable[[World, random.Random], Iterable[Check]]

# functions-framework's own door for CloudEvents, which the product does without: see docs/architecture.md.
_PLAIN_DOOR = """\
import functions_framework


@functions_framework.cloud_event
def dispatch(event):
    pass
"""


def _behind_the_plain_door(here: World, chance: random.Random) -> Iterator[Check]:
    source = here.folder / "plain" / "main.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text(_PLAIN_DOOR)
    port = processes.free_port()
    command = processes.python("-m", "functions_framework", "--source", source, "--target", "dispatch")
    environment = {"HOST": "127.0.0.1", "PORT": str(port), "XDG_RUNTIME_DIR": str(here.folder)}
    process = processes.Process("plain door", command, here.log("plain-door"), environment)
    try:
        process.wait_until(lambda: processes.listening(port), "listen")
        yield fuzz.generated("a plain door", port, 50, chance.randrange(2**32))
    finally:
        process.stop()


_KILLS = replace(feed.SHORT, kills=12, changes=240, bd_every=0, patience_seconds=10)

PLAIN_DOOR = "a door that fails on bad events and repeats their headers"

# For each way in which the product is broken, the checks of which one has to notice.
CHECKS: Mapping[str, Checks] = {
    "one change in eight is not told":
        lambda here, chance: [feed.killed(here, chance, replace(_KILLS, kills=1, changes=60))],
    "the position moves before the sink has answered":
        lambda here, chance: [feed.killed(here, chance, _KILLS)],
    "a change has another id each time":
        lambda here, chance: [feed.killed(here, chance, _KILLS), *feeders.run(here, chance, short=True)],
    "what the binlog does not hold is not looked for":
        lambda here, chance: [gap.off_and_on(here, chance, gap.SHORT, watched=False)],
    "a claim excludes nobody":
        lambda here, chance: claims.competing(here, chance, claims.SHORT),
    "a claim is not read back":
        lambda here, chance: [claims.merged(here, 10)],
    "no mark before the POST":
        lambda here, chance: [crash.killed_while_posting(here)],
    "a claim that was sent is taken back":
        lambda here, chance: [crash.killed_while_posting(here)],
    "a lost answer counts as a no":
        lambda here, chance: [crash.killed(here, chance, crash.CUT, short=False)],
    "an outage holds nothing up":
        lambda here, chance: [outage.away(here, chance, 20, "posts", "the service there, every POST a 503")],
    "a poison bead is tried first for ever":
        lambda here, chance: [outage.poison(here, "500", "500", 1, 10)],
    "recording a job opens a bead that was closed":
        lambda here, chance: concurrent_edits.run(here, chance, short=True, closing=0.9),
    "our note replaces theirs":
        lambda here, chance: concurrent_edits.run(here, chance, short=True),
    PLAIN_DOOR: _behind_the_plain_door,
}  # fmt: skip


def noticed(here: World, name: str, chance: random.Random) -> list[Check]:
    """Run the checks against the broken product, its processes among them; returns the rows that say so."""
    here.flaw = name if name in mutants.FLAWS else ""
    try:
        with mutants.flawed(here.flaw):
            return [row for row in CHECKS[name](here, chance) if row.broken]
    finally:
        here.flaw = ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos.mutation_test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="name", nargs="*", help=f"{'; '.join(CHECKS)}; default: all")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in CHECKS]
    if unknown:
        parser.error(f"no sabotage is called {unknown[0]!r}; there are: {'; '.join(CHECKS)}")
    seed = world.begin(options.seed)
    unnoticed = []
    with world.world() as here:
        for name in options.names or CHECKS:
            report.say(f"sabotage: {name}")
            if not noticed(here, name, random.Random(f"{seed}-{name}")):
                unnoticed.append(name)
    print(f"\n{len(options.names or CHECKS)} sabotages, {len(unnoticed)} not noticed; seed {seed}")
    for name in unnoticed:
        print(f"NOT NOTICED  {name}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
