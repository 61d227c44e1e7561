"""The product with a flaw in one place, without a line of it being changed.

`python -m tools.chaos.mutants NAME` runs a feeder that has it, `flawed(NAME)` gives it to the process at hand. See
tools.chaos.mutation_test.
"""

import contextlib
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

from beads_dispatch import notes, store
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.store import activity, bead_change
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.control import Control
from beads_dispatch.store.eligible import Eligible
from feeder import __main__ as feeder
from feeder import changes, gap_recovery
from feeder.feed import ChangeFeed

Patches = Iterable[contextlib.AbstractContextManager[Any]]


def _one_in_eight_is_not_told() -> Patches:
    emit = ChangeFeed._emit

    def forgetful(self: ChangeFeed, change: changes.Change) -> bool:
        return True if zlib.crc32(change.id.encode()) % 8 == 0 else emit(self, change)

    return [mock.patch.object(ChangeFeed, "_emit", forgetful)]


def _moves_on_before_the_answer() -> Patches:
    tell = ChangeFeed._publish

    def hasty(self: ChangeFeed, transaction: changes.Transaction) -> bool:
        if transaction.database != store.STATE_DATABASE:
            self._position.add(transaction.gtid)
            self.keeper.mark(str(self._position), changes.seen_in(transaction), told=True)
            self.keeper.save()
        return tell(self, transaction)

    return [mock.patch.object(ChangeFeed, "_publish", hasty)]


def _ids_are_random() -> Patches:
    to_event = changes.to_event
    return [
        mock.patch.object(
            changes, "to_event", lambda change, database: replace(to_event(change, database), id=str(uuid.uuid4()))
        )
    ]


def _never_compares() -> Patches:
    return [mock.patch.object(gap_recovery.GapRecovery, "missed", lambda *_, **__: iter(()))]


def _claims_exclude_nobody() -> Patches:
    def change(self: Any, bead_id: str, now: Any, *, where: str, **more: Any) -> Any:
        return original(self, bead_id, now, where="TRUE" if "i.defer_until" in where else where, **more)

    original = bead_change.BeadChange.update
    return [mock.patch.object(bead_change.BeadChange, "update", change)]


def _never_reads_back() -> Patches:
    return [mock.patch.object(Dispatcher, "_changed_since_claim", lambda *_: None)]


def _no_mark_before_the_post() -> Patches:
    return [mock.patch.object(Claims, "mark_posting", lambda *_: None)]


def _a_lost_answer_is_a_no() -> Patches:
    def forget(self: Claims, bead: Any, why: str, now: Any) -> bool:
        retry = replace(bead.record, retry_at=notes.timestamp(now + timedelta(minutes=2)))
        return self.release(bead, notes.outcome_unknown(why), retry, now, actor=store.DISPATCHER)

    return [mock.patch.object(Claims, "record_unknown", forget)]


def _no_hold() -> Patches:
    return [mock.patch.object(Control, "set_hold", lambda *_: None)]


def _always_the_first() -> Patches:
    eligible = Eligible.first
    return [
        mock.patch.object(
            Eligible, "first", lambda *arguments, **named: eligible(*arguments, **{**named, "probe": False})
        )
    ]


def _a_job_opens_what_was_closed() -> Patches:
    original = bead_change.BeadChange.update

    def change(self: Any, bead_id: str, now: Any, *, note: str, sets: str = "", **more: Any) -> Any:
        sets = "i.status = 'in_progress'" if note.startswith("dispatched: job=") else sets
        return original(self, bead_id, now, note=note, sets=sets, **more)

    return [mock.patch.object(bead_change.BeadChange, "update", change)]


def _notes_are_replaced() -> Patches:
    return [mock.patch.object(bead_change, "_APPEND_NOTE", "i.notes = IF(%(notes_limit)s > 0, %(note)s, i.notes)")]


def _reaps_what_was_sent() -> Patches:
    return [mock.patch.object(activity, "JOB", "NULL"), mock.patch.object(activity, "OUTCOME", "NULL")]


FLAWS: Mapping[str, Callable[[], Patches]] = {
    "one change in eight is not told": _one_in_eight_is_not_told,
    "the position moves before the sink has answered": _moves_on_before_the_answer,
    "a change has another id each time": _ids_are_random,
    "what the binlog does not hold is not looked for": _never_compares,
    "a claim excludes nobody": _claims_exclude_nobody,
    "a claim is not read back": _never_reads_back,
    "no mark before the POST": _no_mark_before_the_post,
    "a claim that was sent is taken back": _reaps_what_was_sent,
    "a lost answer counts as a no": _a_lost_answer_is_a_no,
    "an outage holds nothing up": _no_hold,
    "a poison bead is tried first for ever": _always_the_first,
    "recording a job opens a bead that was closed": _a_job_opens_what_was_closed,
    "our note replaces theirs": _notes_are_replaced,
}


def flawed(name: str) -> contextlib.ExitStack:
    """The product has that flaw, in this process, until the block ends; none without a name."""
    with contextlib.ExitStack() as stack:
        for patch in FLAWS[name]() if name else ():
            stack.enter_context(patch)
        return stack.pop_all()


def main() -> int:
    (name,) = sys.argv[1:]
    sys.argv = ["feeder"]
    with flawed(name):
        return feeder.main()


if __name__ == "__main__":
    sys.exit(main())
