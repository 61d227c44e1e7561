"""Can each promise's check fail? python -m chaos.sabotage [name ...] [--seed N]

Breaks the product in one place at a time, without a line of it being changed, and runs the checks that must notice, in
their short form. Ends non-zero when one of them held all the same.
"""

import argparse
import contextlib
import random
import secrets
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from unittest import mock

from beads import log, notes, store
from chaos import claims, crash, feed, feeders, gap, hostile, outage, people, report, world
from chaos.report import Row
from chaos.world import World
from feeder import __main__ as feeder
from feeder import changes, missed
from feeder.feed import Feed
from functions.dispatch.dispatcher import Dispatcher
from local import processes

Patches = Iterable[contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Sabotage:
    """One way in which the product could be wrong; the patches that make it so; the rows of the checks that must
    notice, of which one has to be broken."""

    name: str
    patches: Callable[[], Patches]
    checks: Callable[[World, random.Random], Iterable[Row]]


def _one_in_eight_is_not_told() -> Patches:
    emit = Feed._emit

    def forgetful(self: Feed, change: changes.Change) -> bool:
        return True if zlib.crc32(change.id.encode()) % 8 == 0 else emit(self, change)

    return [mock.patch.object(Feed, "_emit", forgetful)]


def _moves_on_before_the_answer() -> Patches:
    tell = Feed._tell

    def hasty(self: Feed, transaction: changes.Transaction) -> bool:
        if transaction.database != store.STATE_DATABASE:
            self._position.add(transaction.gtid)
            self.keeper.mark(str(self._position), changes.seen_in(transaction), told=True)
            self.keeper.save()
        return tell(self, transaction)

    return [mock.patch.object(Feed, "_tell", hasty)]


def _ids_are_random() -> Patches:
    to_event = changes.to_event
    return [
        mock.patch.object(
            changes, "to_event", lambda change, database: replace(to_event(change, database), id=str(uuid.uuid4()))
        )
    ]


def _never_compares() -> Patches:
    return [mock.patch.object(missed.Comparison, "missed", lambda *_, **__: iter(()))]


def _claims_exclude_nobody() -> Patches:
    def change(self: Any, bead_id: str, now: Any, *, where: str, **more: Any) -> Any:
        return original(self, bead_id, now, where="TRUE" if "i.defer_until" in where else where, **more)

    original = store._Transaction.change
    return [mock.patch.object(store._Transaction, "change", change)]


def _never_reads_back() -> Patches:
    return [mock.patch.object(Dispatcher, "_changed_since_claim", lambda *_: None)]


def _no_mark_before_the_post() -> Patches:
    return [mock.patch.object(store.Store, "mark_posting", lambda *_: None)]


def _a_lost_answer_is_a_no() -> Patches:
    def forget(self: store.Store, bead: Any, why: str, now: Any) -> bool:
        retry = replace(bead.record, retry_at=notes.timestamp(now + timedelta(minutes=2)))
        return self.roll_back(bead, notes.outcome_unknown(why), retry, now, actor=store.DISPATCHER)

    return [mock.patch.object(store.Store, "record_unknown", forget)]


def _no_hold() -> Patches:
    return [mock.patch.object(store.Store, "set_hold", lambda *_: None)]


def _always_the_first() -> Patches:
    eligible = store.Store.eligible
    return [
        mock.patch.object(
            store.Store, "eligible", lambda *arguments, **named: eligible(*arguments, **{**named, "probe": False})
        )
    ]


def _a_job_opens_what_was_closed() -> Patches:
    original = store._Transaction.change

    def change(self: Any, bead_id: str, now: Any, *, note: str, sets: str = "", **more: Any) -> Any:
        sets = "i.status = 'in_progress'" if note.startswith("dispatched: job=") else sets
        return original(self, bead_id, now, note=note, sets=sets, **more)

    return [mock.patch.object(store._Transaction, "change", change)]


def _notes_are_replaced() -> Patches:
    return [mock.patch.object(store, "_APPEND_NOTE", "i.notes = IF(%(notes_limit)s > 0, %(note)s, i.notes)")]


def _reaps_what_was_sent() -> Patches:
    return [mock.patch.object(store, "_JOB", "NULL"), mock.patch.object(store, "_OUTCOME", "NULL")]


# functions-framework's own door for CloudEvents, which the product does without: see docs/architecture.md.
_PLAIN_DOOR = """\
import functions_framework


@functions_framework.cloud_event
def dispatch(event):
    pass
"""


def _behind_the_plain_door(here: World, chance: random.Random) -> Iterator[Row]:
    source = here.folder / "plain" / "main.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text(_PLAIN_DOOR)
    port = processes.free_port()
    command = processes.python("-m", "functions_framework", "--source", source, "--target", "dispatch")
    environment = {"HOST": "127.0.0.1", "PORT": str(port), "XDG_RUNTIME_DIR": str(here.folder)}
    process = processes.Process("plain door", command, here.log("plain-door"), environment)
    try:
        process.wait_until(lambda: processes.listening(port), "listen")
        yield hostile.generated("a plain door", port, 50, chance.randrange(2**32))
    finally:
        process.stop()


_KILLS = replace(feed.SHORT, kills=12, changes=240, bd_every=0, patience_seconds=10)

SABOTAGES = (
    Sabotage("one change in eight is not told", _one_in_eight_is_not_told,
             lambda here, chance: [feed.killed(here, chance, replace(_KILLS, kills=1, changes=60))]),
    Sabotage("the position moves before the sink has answered", _moves_on_before_the_answer,
             lambda here, chance: [feed.killed(here, chance, _KILLS)]),
    Sabotage("a repeat has another id", _ids_are_random,
             lambda here, chance: [feed.killed(here, chance, _KILLS)]),
    Sabotage("two feeders give two ids", _ids_are_random,
             lambda here, chance: feeders.run(here, chance, short=True)),
    Sabotage("what the binlog does not hold is not looked for", _never_compares,
             lambda here, chance: [gap.off_and_on(here, chance, gap.SHORT, watched=False)]),
    Sabotage("a claim excludes nobody", _claims_exclude_nobody,
             lambda here, chance: claims.competing(here, chance, claims.SHORT)),
    Sabotage("a claim is not read back", _never_reads_back,
             lambda here, chance: [claims.merged(here, 10)]),
    Sabotage("no mark before the POST", _no_mark_before_the_post,
             lambda here, chance: [crash.killed_while_posting(here)]),
    Sabotage("a claim that was sent is taken back", _reaps_what_was_sent,
             lambda here, chance: [crash.killed_while_posting(here)]),
    Sabotage("a lost answer counts as a no", _a_lost_answer_is_a_no,
             lambda here, chance: [crash.killed(here, chance, crash.CUT, short=False)]),
    Sabotage("an outage holds nothing up", _no_hold,
             lambda here, chance: [outage.away(here, chance, 20, "posts", "the service there, every POST a 503")]),
    Sabotage("a poison bead is tried first for ever", _always_the_first,
             lambda here, chance: [outage.poison(here, "500", "500", 1, 10)]),
    Sabotage("recording a job opens a bead that was closed", _a_job_opens_what_was_closed,
             lambda here, chance: people.run(here, chance, short=True)),
    Sabotage("our note replaces theirs", _notes_are_replaced,
             lambda here, chance: people.run(here, chance, short=True)),
    Sabotage("a door that fails on bad events and repeats their headers", list, _behind_the_plain_door),
)  # fmt: skip


def named(name: str) -> Sabotage:
    """Raises KeyError."""
    return {sabotage.name: sabotage for sabotage in SABOTAGES}[name]


def sabotaged(name: str) -> contextlib.ExitStack:
    """The product is wrong in that way, in this process, until the block ends; in no way without a name."""
    with contextlib.ExitStack() as stack:
        for patch in named(name).patches() if name else ():
            stack.enter_context(patch)
        return stack.pop_all()


def noticed(here: World, name: str, chance: random.Random) -> list[Row]:
    """Run the checks against the sabotaged product, its processes among them; returns the rows that are broken."""
    here.sabotage = name
    try:
        with sabotaged(name):
            return [row for row in named(name).checks(here, chance) if row.broken]
    finally:
        here.sabotage = ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.sabotage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", metavar="name", nargs="*", help="; ".join(each.name for each in SABOTAGES))
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--feeder", metavar="NAME", help="run a feeder that is wrong in that way, and nothing else")
    options = parser.parse_args(arguments)
    known = [sabotage.name for sabotage in SABOTAGES]
    unknown = [name for name in [*options.names, options.feeder] if name and name not in known]
    if unknown:
        parser.error(f"no sabotage is called {unknown[0]!r}; there are: {'; '.join(known)}")
    if options.feeder:
        sys.argv = ["feeder"]
        with sabotaged(options.feeder):
            return feeder.main()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    log.configure("chaos", level="CRITICAL")
    processes.end_cleanly_on_sigterm()
    unnoticed = []
    with world.world() as here:
        for name in options.names or known:
            report.say(f"sabotage: {name}")
            if not noticed(here, name, random.Random(f"{seed}-{name}")):
                unnoticed.append(name)
    print(f"\n{len(options.names or known)} sabotages, {len(unnoticed)} not noticed; seed {seed}")
    for name in unnoticed:
        print(f"NOT NOTICED  {name}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
