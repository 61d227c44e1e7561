"""One change of a bead in an open transaction: the UPDATE with its note and record, and the audit row. And a mark,
which is a statement of its own and no change that others see."""

import json
import secrets
import uuid
from datetime import datetime
from typing import Any

from beads_dispatch import notes
from beads_dispatch.bead import Bead, DispatchRecord
from beads_dispatch.store.activity import TOKEN
from beads_dispatch.store.errors import RowChanged
from beads_dispatch.store.predicate import CHANGES_BY_OTHERS
from beads_dispatch.store.records import OURS
from beads_dispatch.store.schema import BdSchema
from beads_dispatch.store.session import Cursor, Params, ReadSession, Rows, naive

_SET_RECORD = (
    "i.metadata = JSON_SET(IF(COALESCE(JSON_TYPE(i.metadata), 'NULL') = 'OBJECT', i.metadata, JSON_OBJECT()),"
    " '$.dispatch', CAST(%(record)s AS JSON))"
)
# Notes that are full (64 KiB in bd 1.0.2's schema) stay as they are: a person's words are never cut for ours,
# and our note is in the event's comment as well.
_APPEND_NOTE = (
    "i.notes = IF(COALESCE(i.notes, '') = '', %(note)s,"
    " IF(LENGTH(i.notes) + LENGTH(%(note)s) + 1 > %(notes_limit)s, i.notes, CONCAT(i.notes, '\n', %(note)s)))"
)
_TAKE_NOTE_BACK = (
    "i.notes = CASE WHEN i.notes = %(undone)s THEN ''"
    " WHEN RIGHT(i.notes, CHAR_LENGTH(%(undone)s) + 1) = CONCAT('\n', %(undone)s)"
    " THEN LEFT(i.notes, CHAR_LENGTH(i.notes) - CHAR_LENGTH(%(undone)s) - 1) ELSE i.notes END"
)


class BeadChange:
    """One transaction under way: the row, its note and its audit row belong together."""

    def __init__(self, cursor: Cursor, schema: BdSchema, actor: str) -> None:
        self._cursor = cursor
        self._schema = schema
        self._actor = actor

    def rows(self, sql: str, params: Params) -> Rows:
        """A query inside the transaction."""
        self._cursor.execute(sql, params)
        return list(self._cursor.fetchall())

    def changes_by_others(self, bead: Bead) -> int:
        """How often people changed the bead, as the audit trail has it."""
        counted = f"SELECT {CHANGES_BY_OTHERS} AS others FROM issues i WHERE i.id = %(id)s"
        return int(self.rows(counted, {"id": bead.id, "ours": (*OURS, bead.assignee)})[0]["others"])

    def notes_since_claim(self, bead: Bead, after: str = "") -> str | None:
        """Our notes on a bead since its claim, where they are the newest and, if `after` is given, that note is the one
        before them."""
        text = self.rows("SELECT notes FROM issues WHERE id = %(id)s", {"id": bead.id})[0]["notes"] or ""
        found = notes.since_claim(text, bead.record.at)
        return found if found and (not after or text.removesuffix(found).endswith(f"{after}\n")) else None

    def update(
        self,
        bead_id: str,
        now: datetime,
        *,
        note: str,
        undone: str | None = None,
        record: DispatchRecord | None,
        sets: str = "",
        where: str,
        params: Params,
    ) -> int | None:
        """UPDATE one bead if `where` still holds; returns the new row_lock where the schema has one.

        `note`: empty for none. `undone`: the newest note of ours, which is taken away where nobody added another;
        `note` is not added then.

        Raises RowChanged when no row matched.
        """
        lock = secrets.randbits(63) | 1 if self._schema.row_lock else None
        assignments = ["i.updated_at = %(now)s"]
        assignments += [_TAKE_NOTE_BACK if undone else _APPEND_NOTE] if undone or note else []
        assignments += [_SET_RECORD] if record is not None else []
        assignments += ["i.row_lock = %(lock)s"] if lock is not None else []
        assignments += [sets] if sets else []
        values: dict[str, Any] = {
            **params,
            "id": bead_id,
            "note": note,
            "undone": undone,
            "record": record.to_json() if record is not None else None,
            "lock": lock,
            "now": naive(now),
            "notes_limit": self._schema.notes_limit,
        }
        sql = f"UPDATE issues i SET {', '.join(assignments)} WHERE i.id = %(id)s AND {where}"
        if self._cursor.execute(sql, values) != 1:
            raise RowChanged
        return lock

    def audit(self, bead_id: str, note: str, now: datetime, statuses: tuple[str, str] | None = None) -> None:
        """The audit row that bd writes with each of its own changes; `statuses` are old and new."""
        old, new = ({"status": status} for status in statuses) if statuses else ({}, {})
        kind = "status_changed" if statuses else "updated"
        row = (str(uuid.uuid4()), bead_id, kind, self._actor, json.dumps(old), json.dumps(new), note, naive(now))
        self._cursor.execute(
            "INSERT INTO events (id, issue_id, event_type, actor, old_value, new_value, comment, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            row,
        )


def mark(session: ReadSession, bead: Bead, **fields: str) -> None:
    """Write fields of the record on a bead in progress, by plain SQL; nothing where the claim is no longer ours."""
    values = "".join(f", '$.dispatch.{name}', %({name})s" for name in fields)
    session.rows(
        # updated_at stays: the column sets itself otherwise, and reading back would find a change.
        f"UPDATE issues i SET i.metadata = JSON_SET(i.metadata{values}), i.updated_at = i.updated_at"
        f" WHERE i.id = %(id)s AND i.status = 'in_progress' AND {TOKEN} = %(token)s",
        {"id": bead.id, "token": bead.record.claim, **fields},
    )
