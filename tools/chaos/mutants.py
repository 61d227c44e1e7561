"""The product with one thing broken, by patches at run time.

`python -m tools.chaos.mutants NAME` runs such a feeder, `mutated(NAME)` patches this process. See
tools.chaos.mutation_test.
"""

import contextlib
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

from beads_dispatch import notes, store
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.store import activity, bead_change
from beads_dispatch.store.bead_change import BeadChange
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.control import Control
from beads_dispatch.store.eligible import Eligible
from feeder import __main__ as feeder
from feeder import changes
from feeder.changes import Change, Transaction
from feeder.feed import ChangeFeed
from feeder.gap_recovery import GapRecovery

Patches = Iterable[contextlib.AbstractContextManager[Any]]


def _one_in_eight_unpublished() -> Patches:
    emit = ChangeFeed._emit

    def forgetful(self: ChangeFeed, change: Change) -> bool:
        return True if zlib.crc32(change.id.encode()) % 8 == 0 else emit(self, change)

    return [mock.patch.object(ChangeFeed, "_emit", forgetful)]


def _position_stored_early() -> Patches:
    publish = ChangeFeed._publish

    def hasty(self: ChangeFeed, transaction: Transaction) -> bool:
        if transaction.database != store.STATE_DATABASE:
            self._position.add(transaction.gtid)
            states = {change.bead: change.published_state for change in changes.changes_in(transaction)}
            self._checkpointer.advance(str(self._position), states, published=True)
            self._checkpointer.save()
        return publish(self, transaction)

    return [mock.patch.object(ChangeFeed, "_publish", hasty)]


def _random_ids() -> Patches:
    to_event = changes.to_event
    return [
        mock.patch.object(
            changes, "to_event", lambda change, database: replace(to_event(change, database), id=str(uuid.uuid4()))
        )
    ]


def _no_gap_recovery() -> Patches:
    return [mock.patch.object(GapRecovery, "changes_at", lambda *_, **__: iter(()))]


def _claim_not_exclusive() -> Patches:
    update = BeadChange.update

    def unconditional(self: BeadChange, bead_id: str, now: Any, *, where: str, **more: Any) -> Any:
        return update(self, bead_id, now, where="TRUE" if "i.defer_until" in where else where, **more)

    return [mock.patch.object(BeadChange, "update", unconditional)]


def _no_read_back() -> Patches:
    return [mock.patch.object(Dispatcher, "_changed_since_claim", lambda *_: None)]


def _post_not_marked() -> Patches:
    return [mock.patch.object(Claims, "mark_posting", lambda *_: None)]


def _sent_claim_released() -> Patches:
    return [mock.patch.object(activity, "JOB", "NULL"), mock.patch.object(activity, "OUTCOME", "NULL")]


def _lost_answer_is_a_refusal() -> Patches:
    def forget(self: Claims, bead: Any, why: str, now: Any) -> bool:
        retry = replace(bead.record, retry_at=notes.timestamp(now + timedelta(minutes=2)))
        return self.release(bead, notes.outcome_unknown(why), retry, now, actor=store.DISPATCHER)

    return [mock.patch.object(Claims, "record_unknown", forget)]


def _no_hold() -> Patches:
    return [mock.patch.object(Control, "set_hold", lambda *_: None)]


def _always_the_first() -> Patches:
    first = Eligible.first
    return [
        mock.patch.object(Eligible, "first", lambda *arguments, **named: first(*arguments, **{**named, "probe": False}))
    ]


def _job_reopens() -> Patches:
    update = BeadChange.update

    def reopen(self: BeadChange, bead_id: str, now: Any, *, note: str, sets: str = "", **more: Any) -> Any:
        sets = "i.status = 'in_progress'" if note.startswith(notes.DISPATCHED) else sets
        return update(self, bead_id, now, note=note, sets=sets, **more)

    return [mock.patch.object(BeadChange, "update", reopen)]


def _notes_replaced() -> Patches:
    return [mock.patch.object(bead_change, "_APPEND_NOTE", "i.notes = IF(%(notes_limit)s > 0, %(note)s, i.notes)")]


MUTANTS: Mapping[str, Callable[[], Patches]] = {
    "one change in eight is not published": _one_in_eight_unpublished,
    "the position is stored before the sink accepts": _position_stored_early,
    "a change has another event id each time": _random_ids,
    "no gap is recovered": _no_gap_recovery,
    "a claim is not exclusive": _claim_not_exclusive,
    "a claim is not read back": _no_read_back,
    "the POST is not recorded before it is sent": _post_not_marked,
    "a claim that was sent is released": _sent_claim_released,
    "a lost answer counts as a refusal": _lost_answer_is_a_refusal,
    "an outage starts no hold": _no_hold,
    "a failing bead is always tried first": _always_the_first,
    "recording a job reopens a closed bead": _job_reopens,
    "our note replaces other notes": _notes_replaced,
}

_active = ""


def active() -> str:
    """The mutant that this process is, for the processes that it starts; empty for none."""
    return _active


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Make this process that mutant until the block ends; nothing changes without a name."""
    global _active
    with contextlib.ExitStack() as stack:
        for patch in MUTANTS[name]() if name else ():
            stack.enter_context(patch)
        _active = name
        try:
            yield
        finally:
            _active = ""


def main() -> int:
    (name,) = sys.argv[1:]
    sys.argv = ["feeder"]
    with mutated(name):
        return feeder.main()


if __name__ == "__main__":
    sys.exit(main())
