"""The beads as they were at a Dolt commit."""

import math
import re
from dataclasses import replace
from typing import Any

from beads_dispatch import settings
from beads_dispatch.store.activity import ActivityReads
from beads_dispatch.store.connection import Connection, connect
from beads_dispatch.store.control import ConfiguredSuspension
from beads_dispatch.store.eligible import Eligible
from beads_dispatch.store.history import History
from beads_dispatch.store.session import ReadSession


class SnapshotSession(ReadSession):
    """Reads a revision of bd's database (`beads/<commit>`), in which Dolt refuses every write, in a transaction that is
    read-only."""

    _schema_seconds = math.inf  # a commit does not change

    def __init__(self, dolt: settings.DoltSettings, commit: str) -> None:
        super().__init__(dolt)
        self._commit = commit

    def move(self, commit: str, *, same_schema: bool) -> None:
        """Go to another commit, on the same connection."""
        if commit != self._commit:
            self._commit = commit
            if not same_schema:
                self._schema = None
            if self._line.connection is not None:
                self.rows(f"USE `{self._revision()}`")

    def _revision(self) -> str:
        if not re.fullmatch("[0-9a-v]{32}", self._commit):
            raise ValueError(f"{self._commit!r} is not a Dolt commit")
        return f"{self.dolt.database}/{self._commit}"

    def _main(self) -> "Connection[Any]":
        if self._line.connection is None:
            self._line.connection = connect(replace(self.dolt, database=self._revision()))
            with self._line.connection.cursor() as cursor:
                cursor.execute("START TRANSACTION READ ONLY")
        return self._line.connection


class Snapshot:
    """The reads that have a meaning in the past; there is no way to write. Every method raises StoreError.

    What has no history is not in it: the hold, the mirrored PingSources, and what bd keeps out of its commits (events
    and heartbeats since bd 1.3.0; a setting of bd's config until something commits it).
    """

    def __init__(self, dolt: settings.DoltSettings, commit: str) -> None:
        self._session = SnapshotSession(dolt, commit)
        self.eligible = Eligible(self._session)
        self.activity = ActivityReads(self._session)
        self.control = ConfiguredSuspension(self._session)
        self.history = History(self._session)

    def move(self, commit: str, *, same_schema: bool = False) -> None:
        """Go to another commit. `same_schema`: bd's tables are as they were, so they need not be read again."""
        self._session.move(commit, same_schema=same_schema)

    def has_beads(self) -> bool:
        """Whether bd's tables were there by then; it makes the view after them."""
        return "ready_issues" in {name for row in self._session.rows("SHOW TABLES") for name in row.values()}

    def has_all_activity(self) -> bool:
        """Whether all activity can be read: not since bd 1.3.0."""
        return self._session.schema.events

    def close(self) -> None:
        """Close what is open; a later call connects again."""
        self._session.close()
