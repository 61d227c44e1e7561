"""Records the binlog during a run: every transaction by itself, each row before and after, and its actor.

Dolt's history does not separate two writers in one Dolt commit: bd makes its commit a moment after its write, so that a
commit of ours may hold both. A transaction in the binlog holds one writer's change and no more, merged or not.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from beads_dispatch import settings, store
from beads_dispatch.bead import Status
from feeder import binlog, changes
from feeder.changes import RowChange, Transaction
from tools import world

_COLUMNS = {"issues": ("id", "assignee", "status", "notes"), "events": ("issue_id", "actor")}
_PATIENCE_SECONDS = 60


class BinlogRecorder:
    """Records from its start to `transactions`; a context manager."""

    def __init__(self, dolt: settings.DoltSettings) -> None:
        self._dolt = dolt
        self._position = binlog.Position(self._executed())
        self._found: list[Transaction] = []
        self._stopped = False
        self._stream: binlog.Stream | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "BinlogRecorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.close()
        self._thread.join()

    def transactions(self) -> list[Transaction]:
        """All that were committed by now, in order. Raises TimedOut when the binlog does not give them."""
        executed = self._executed()
        world.wait_for(lambda: self._position.covers(executed), f"the recorder reads {executed}", _PATIENCE_SECONDS)
        return list(self._found)

    def _executed(self) -> str:
        with contextlib.closing(store.Store(self._dolt)) as beads:
            return beads.feed_state.executed()

    def _read(self) -> None:
        while not self._stopped:
            try:  # a refused position is a false alarm here: nobody purges
                self._stream = binlog.Stream(self._dolt, self._position, _COLUMNS)
                for item in self._stream:
                    if isinstance(item, Transaction):
                        self._found.append(item)
                        self._position.add(item.gtid)
            except binlog.StreamLost:
                time.sleep(0.2)


def our_changes(transactions: Iterable[Transaction]) -> Iterator[tuple[str, RowChange]]:
    """Every bead's row that a transaction of ours changed, with its actor."""
    for transaction in transactions:
        actors = changes.actors_of(transaction.rows)
        for row in transaction.rows:
            actor = actors.get((row.after or row.before or {}).get("id", ""))
            if row.table == "issues" and actor in store.OURS:
                yield actor, row


def breaches(transactions: Iterable[Transaction]) -> list[str]:
    """What no transaction of ours may do, whatever was committed beside it: open a closed bead, assign a bead to
    anybody, remove anything from its notes, create or delete one."""
    found = []
    for actor, row in our_changes(transactions):
        if row.before is None or row.after is None:
            found.append(f"{actor} created or deleted {row.before or row.after}")
            continue
        before, after, bead = row.before, row.after, row.after["id"]
        if before["status"] == Status.CLOSED != after["status"]:
            found.append(f"{bead}: {actor} made it {after['status']}, and it was closed")
        if (before["assignee"] or "") != (after["assignee"] or ""):
            found.append(f"{bead}: {actor} took it from {before['assignee']} and assigned it to {after['assignee']}")
        if not _text(after["notes"]).startswith(_text(before["notes"])):
            found.append(f"{bead}: {actor} removed something from its notes")
    return found


def merged_claims(transactions: Iterable[Transaction], assignee: str) -> int:
    """Claims that Dolt merged with somebody's change: each has to be withdrawn before anything is sent."""
    return sum(
        1
        for _, row in our_changes(transactions)
        if row.before and row.after and row.before["status"] != Status.IN_PROGRESS == row.after["status"]
        if (row.before["assignee"] or "") != assignee
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
