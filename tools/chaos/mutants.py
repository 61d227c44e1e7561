"""The product with one thing broken, by patches at run time.

`python -m tools.chaos.mutants NAME` runs such a feeder, `mutated(NAME)` patches this process. See
tools.chaos.mutation_test.
"""

import contextlib
import sys
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

from beads_dispatch import dispatcher, notes, store
from beads_dispatch.events import Event
from beads_dispatch.store import activity, bead_change
from beads_dispatch.store.bead_change import BeadChange
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.control import Control
from beads_dispatch.store.eligible import Eligible
from beads_dispatch.store.relations import Relations
from beads_dispatch.store.session import Session
from feeder import __main__ as feeder
from feeder import changes
from feeder.changes import Change, Transaction
from feeder.deaths import DeathCounter
from feeder.feed import ChangeFeed
from feeder.gap_recovery import GapRecovery
from feeder.request_feed import RequestFeed

_emit, _publish, _to_event = ChangeFeed._emit, ChangeFeed._publish, changes.to_event
_update, _first = BeadChange.update, Eligible.first


def _forget_one_in_eight(self: ChangeFeed, change: Change, database: str) -> bool:
    return True if zlib.crc32(change.id.encode()) % 8 == 0 else _emit(self, change, database)


def _store_position_first(self: ChangeFeed, transaction: Transaction) -> bool:
    if transaction.database != store.STATE_DATABASE:
        self._position.add(transaction.gtid)
        found, database = changes.changes_in(transaction), transaction.database
        states = {(database, change.bead): change.published_state for change in found}
        self._checkpointer.advance(str(self._position), states, published=True)
        self._checkpointer.save()
    return _publish(self, transaction)


def _with_a_random_id(change: Change, database: str) -> Event:
    return replace(_to_event(change, database), id=str(uuid.uuid4()))


def _claim_anyway(self: BeadChange, bead_id: str, now: Any, *, where: str, **more: Any) -> Any:
    return _update(self, bead_id, now, where="TRUE" if "i.defer_until" in where else where, **more)


def _release_after_no_answer(self: Claims, bead: Any, why: str, now: Any) -> bool:
    retry = replace(bead.record, retry_at=notes.timestamp(now + timedelta(minutes=2)))
    return self.release(bead, notes.outcome_unknown(why), retry, now, actor=store.DISPATCHER)


def _without_probes(*arguments: Any, **named: Any) -> Any:
    return _first(*arguments, **{**named, "probe": None})


def _reopen_with_the_job(self: BeadChange, bead_id: str, now: Any, *, note: str, sets: str = "", **more: Any) -> Any:
    sets = "i.status = 'in_progress'" if note.startswith(notes.DISPATCHED) else sets
    return _update(self, bead_id, now, note=note, sets=sets, **more)


@contextlib.contextmanager
def _no_lock(self: Session, agent: str) -> Iterator[bool]:
    yield True


class _Together(contextlib.AbstractContextManager[None]):
    """Several patches at once, as often as they are entered."""

    def __init__(self, *patches: contextlib.AbstractContextManager[Any]) -> None:
        self._patches = patches

    def __enter__(self) -> None:
        self._entered = contextlib.ExitStack()
        for patch in self._patches:
            self._entered.enter_context(patch)

    def __exit__(self, *_: object) -> None:
        self._entered.close()


MUTANTS: Mapping[str, contextlib.AbstractContextManager[Any]] = {
    "one change in eight is not published": mock.patch.object(ChangeFeed, "_emit", _forget_one_in_eight),
    "the position is stored before the sink accepts": mock.patch.object(ChangeFeed, "_publish", _store_position_first),
    "a change has another event id each time": mock.patch.object(changes, "to_event", _with_a_random_id),
    "no gap is recovered": mock.patch.object(GapRecovery, "can_go_on", lambda *_, **__: False),
    "what a restored database holds is not compared": mock.patch.object(
        ChangeFeed, "_take", lambda self, transaction: self._publish(transaction)
    ),
    "deaths are not counted": mock.patch.object(DeathCounter, "begin", lambda *_: None),
    "changes request no pass": mock.patch.multiple(RequestFeed, _look_at=lambda *_: None, _unsure=lambda *_: None),
    # The lock on an agent's slots would hide it: with it, one dispatcher claims after the other.
    "a claim is not exclusive": _Together(
        mock.patch.object(BeadChange, "update", _claim_anyway), mock.patch.object(Session, "slot_lock", _no_lock)
    ),
    "slots are not counted one after the other": mock.patch.object(Session, "slot_lock", _no_lock),
    "a claim is not read back": mock.patch.object(dispatcher, "_changed_since_claim", lambda *_: None),
    "the POST is not recorded before it is sent": mock.patch.object(Claims, "mark_posting", lambda *_: None),
    "a claim that was sent is released": mock.patch.multiple(activity, JOB="NULL", OUTCOME="NULL"),
    "a lost answer counts as a refusal": mock.patch.object(Claims, "record_unknown", _release_after_no_answer),
    "an outage starts no hold": mock.patch.object(Control, "set_hold", lambda *_: None),
    "a failing bead is always tried first": mock.patch.object(Eligible, "first", _without_probes),
    "what other beads do to a bead is ignored": mock.patch.object(
        Relations, "unmet", lambda _, beads, *more: {bead: set() for bead in beads}
    ),
    "recording a job reopens a closed bead": mock.patch.object(BeadChange, "update", _reopen_with_the_job),
    "our note replaces other notes": mock.patch.object(
        bead_change, "_APPEND_NOTE", "i.notes = IF(%(notes_limit)s > 0, %(note)s, i.notes)"
    ),
}

_active = ""


def active() -> str:
    """The mutant that this process is, for the processes that it starts; empty for none."""
    return _active


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Make this process that mutant until the block ends; nothing changes without a name."""
    global _active
    with MUTANTS[name] if name else contextlib.nullcontext():
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
