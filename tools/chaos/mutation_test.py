"""Does each check fail when its promise is broken? python -m tools.chaos.mutation_test [name ...] [--seed N]

Breaks the product in one place at a time (tools.chaos.mutants) and runs the checks that must notice, most in their
short form, or the test that must fail (tools.chaos.tested_mutants). Exits non-zero when one of them did not.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from local import processes
from tools import world
from tools.chaos import (
    checks,
    claims,
    concurrent_edits,
    crash,
    feed,
    feeders,
    fuzz,
    gap,
    large,
    mutants,
    oracle,
    outage,
    slots,
    tested_mutants,
)
from tools.chaos.__main__ import begin
from tools.chaos.checks import Check
from tools.servers import answers
from tools.world import World

Checks = Callable[[World, random.Random], Iterable[Check]]

# functions-framework's own handler for CloudEvents, which the product does not use: see docs/architecture.md.
_PLAIN_FUNCTION = """\
import functions_framework


@functions_framework.cloud_event
def dispatch(event):
    pass
"""


def _on_a_plain_function(here: World, chance: random.Random) -> Iterator[Check]:
    source = here.folder / "plain" / "main.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text(_PLAIN_FUNCTION)
    port = processes.free_port()
    command = processes.python("-m", "functions_framework", "--source", source, "--target", "dispatch")
    environment = {"HOST": "127.0.0.1", "PORT": str(port), "XDG_RUNTIME_DIR": str(here.folder)}
    with processes.Process("plain function", command, here.log("plain-function"), environment) as process:
        process.wait_until(lambda: processes.listening(port), "listen")
        yield fuzz.generated("a plain function", port, 50, chance.randrange(2**32))


_KILLS = replace(feed.SHORT, kills=12, changes=240, bd_every=0, patience_seconds=10)

PLAIN_FUNCTION = "a function fails on bad events and repeats their headers"

# For each mutant, the checks of which one has to notice.
CHECKS: Mapping[str, Checks] = {
    "one change in eight is not published":
        lambda here, chance: [feed.killed(here, chance, replace(_KILLS, kills=1, changes=60))],
    "the position is stored before the sink accepts":
        lambda here, chance: [feed.killed(here, chance, _KILLS)],
    "a change has another event id each time":
        lambda here, chance: [feed.killed(here, chance, _KILLS), *feeders.run(here, chance, short=True)],
    "no gap is recovered":
        lambda here, chance: [gap.played(here, chance, gap.SHORT, gap.STOPPED)],
    "what a restored database holds is not compared":
        lambda here, chance: [gap.played(here, chance, gap.SHORT, gap.RESTORED)],
    "deaths are not counted":
        lambda here, chance: [large.deadly(here)],
    "changes request no pass":
        lambda here, chance: [large.subscriber_hangs(here, large.SHORT)],
    "a claim is not exclusive":
        lambda here, chance: claims.competing(here, chance, claims.SHORT),
    "a claim is not read back":
        lambda here, chance: [claims.merged(here, 10)],
    "the POST is not recorded before it is sent":
        lambda here, chance: [crash.killed_while_posting(here)],
    "a claim that was sent is released":
        lambda here, chance: [crash.killed_while_posting(here)],
    "a lost answer counts as a refusal":
        lambda here, chance: [crash.killed(here, chance, crash.CUT, short=False)],
    "an outage starts no hold":
        lambda here, chance: [outage.away(here, chance, 20, reachable=True)],
    "a failing bead is always tried first":
        lambda here, chance: [outage.poison(here, "500", answers(500), 1, 10)],
    "what other beads do to a bead is ignored":
        # One graph in three shows it there; bd 1.3.0 keeps most of it in is_blocked.
        lambda here, chance: oracle.checks_of("1.0.2", oracle.compared(here, chance, 20, ["1.0.2"])["1.0.2"]),
    "recording a job reopens a closed bead":
        lambda here, chance: concurrent_edits.run(here, chance, short=True, closing=0.9),
    "our note replaces other notes":
        lambda here, chance: concurrent_edits.run(here, chance, short=True),
    "slots are not counted one after the other":
        lambda here, chance: [slots.kept(here, chance, slots.SHORT, 3, slots.COUNTS_NOT)],
    PLAIN_FUNCTION: _on_a_plain_function,
}  # fmt: skip


def noticed(here: World, name: str, chance: random.Random) -> list[Check]:
    """Run the checks against the mutant, its processes among them; returns those that fail."""
    mutant = name if name in mutants.MUTANTS else ""
    product = here.feeder_command
    here.feeder_command = ("-m", "tools.chaos.mutants", mutant) if mutant else product
    try:
        with mutants.mutated(mutant):
            return [found for found in CHECKS[name](here, chance) if found.broken]
    finally:
        here.feeder_command = product


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos.mutation_test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = begin(parser, "mutant", [*CHECKS, *tested_mutants.TESTED])
    unnoticed = []
    with world.world() as here:
        for name in options.names:
            checks.progress(f"mutant: {name}")
            if name in tested_mutants.TESTED:
                found = tested_mutants.is_noticed(name)
            else:
                found = bool(noticed(here, name, random.Random(f"{options.seed}-{name}")))
            if not found:
                unnoticed.append(name)
    print(f"\n{len(options.names)} mutants, {len(unnoticed)} not noticed; seed {options.seed}")
    for name in unnoticed:
        print(f"NOT NOTICED  {name}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
