"""Every SQL statement of this system, one function each. The one place that knows bd's schema.

Facts this file rests on, all measured on Dolt 2.2.0:

- Statements commit by themselves unless a transaction was begun explicitly; PyMySQL's
  `autocommit=False` changes nothing on Dolt.
- Transactions are merged cell by cell at COMMIT. Error 1213 comes only where both sides changed the same
  cell to different values, so a claim carries a token of its own, and is read back after the commit.
- DOLT_COMMIT ends the transaction, and begins one that only COMMIT ends: without it the session goes on reading
  what was there at its next statement, for ever.
- bd rewrites `issues.row_lock` (bd 1.3.0 and newer) with a random number in every write of status, assignee
  or started_at, so that two writers always conflict. We do the same where the column exists.
"""

import contextlib
import hashlib
import json
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymysql
from pymysql.cursors import DictCursor, SSDictCursor

from beads import notes, settings
from beads.bead import Bead, DispatchRecord, Status

DISPATCHER = "beads-dispatcher"
REAPER = "beads-reaper"
OURS = (DISPATCHER, REAPER)

STATE_DATABASE = "beads_dispatch"
SWITCH_KEY = "custom.auto-dispatch.suspend"

_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 30  # far above the slowest query (tens of ms); PyMySQL waits for ever without it
_WRITE_TRIES = 8  # an agent that notes and closes at once conflicts with our record of its job

_CONFLICT = (1213, 1205)
_UNREACHABLE = (0, 1053, 2002, 2003, 2006, 2013)  # no connection, or one that has died
_NO_SUCH_STATE = (1049, 1146)  # unknown database, unknown table: the feeder has not run yet

T = TypeVar("T")


class StoreError(Exception):
    """Dolt refused a statement, or could not be reached. Trying again later may help.

    The text holds the server's error number and message, never a statement's values.
    """


class ClaimLost(Exception):
    """Somebody else changed the bead first. Concurrency at work, not an error."""


@dataclass(frozen=True)
class Switch:
    """Who said stop, in words; None where nobody did."""

    dispatch: str | None = None
    reap: str | None = None


@dataclass(frozen=True)
class Hold:
    """All dispatching waits until `until` after `failures` failures of the agent service in a row."""

    failures: int = 0
    until: datetime | None = None
    reason: str = ""


# What ECMAScript's trim() removes: BeadBoard refuses acceptance criteria that are blank after it. Spelled out,
# because \s means less in Dolt's pure-Go regular expressions than in its ICU ones.
_NOT_BLANK = (
    "[^\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff]"
)

# The predicate, written once: each gate has a name and holds on a row `i` of `issues`. A bead is eligible when
# all hold and it is in the view `ready_issues` (not blocked, not deferred, not ephemeral), which hides what
# differs between bd's schemas.
GATES: Mapping[str, str] = {
    "assignee": "i.assignee = %(assignee)s",
    "status": "i.status = 'open'",
    "acceptance": "i.acceptance_criteria REGEXP %(not_blank)s",
    "template": "COALESCE(i.is_template, 0) = 0",
    # A token has to be stored under metadata.dispatch; metadata that is a list or a text is a person's, and stays.
    "metadata": "COALESCE(JSON_TYPE(i.metadata), 'NULL') IN ('OBJECT', 'NULL')",
    "retry": "COALESCE(JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.retry_at')), '') <= %(now_text)s",
}
_ALL_GATES = " AND ".join(GATES.values())

# What the view asks of the row itself; and whether it has to ask more of it. A bead without such a dependency is
# ready when its own columns say so.
_READY_ALONE = (
    "COALESCE(i.ephemeral, 0) = 0 AND (i.defer_until IS NULL OR i.defer_until <= UTC_TIMESTAMP()) AND i.status = 'open'"
)
_BINDING = "('blocks', 'parent-child')"

# SHA-256 of the definitions (white space folded) for which that is true: bd 1.0.2's and bd 1.3.0's. Any other view
# is asked about every bead. Worth it because the view costs 10 ms on an empty database, twice per dispatch.
_KNOWN_VIEWS = frozenset(
    {
        "f42d75ecbfcdd04407ed818139f18cfb3747b2ba0ca3343f2a801035835a7990",
        "f6de4f6d8722111d84c6a07ac827c4c3884e2b1058b0155d326d15c9d8a2cde4",
    }
)

_BEAD = "i.id, i.title, i.priority, i.status, i.assignee, i.updated_at, i.metadata"

_TOKEN = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.claim'))"
_JOB = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.job'))"
_OUTCOME = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.outcome'))"
_CLAIMED_AT = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.at'))"

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


@dataclass(frozen=True)
class _Schema:
    """What differs between bd's schemas (1.0.2 to 1.3.0), looked at once per connection."""

    row_lock: bool  # issues.row_lock must be rewritten (1.3.0)
    leases: bool  # a lease's heartbeat is a sign of life (1.3.0)
    known_view: bool  # ready_issues is one of _KNOWN_VIEWS
    notes_limit: int  # bytes that issues.notes can hold: TEXT in 1.0.2, LONGTEXT in 1.3.0


class Store:
    """The beads of one database. Not thread-safe: one Store per thread, as PyMySQL's connections are.

    Connects when first used. Every method raises StoreError when Dolt cannot be reached or refuses.
    """

    def __init__(self, dolt: settings.Dolt) -> None:
        self._dolt = dolt
        self._connection: pymysql.Connection[Any] | None = None
        self._second: pymysql.Connection[Any] | None = None
        self._schema: _Schema | None = None

    # --- connections -------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Drop connections that died since they were last used, so that a pass does not begin on one."""
        for connection in (self._connection, self._second):
            if connection is not None:
                try:
                    connection.ping(reconnect=False)
                except (pymysql.Error, OSError):
                    self.close()
                    return

    def close(self) -> None:
        """Close what is open; a later call connects again."""
        for connection in (self._connection, self._second):
            if connection is not None:
                with contextlib.suppress(pymysql.Error, OSError):
                    connection.close()
        self._connection = self._second = self._schema = None

    def _main(self) -> "pymysql.Connection[Any]":
        if self._connection is None:
            self._connection = connect(self._dolt)
        return self._connection

    def _other(self) -> "pymysql.Connection[Any]":
        if self._second is None:
            self._second = connect(self._dolt)
        return self._second

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """The one seam between PyMySQL's errors and ours."""
        try:
            yield
        except pymysql.Error as exc:
            code, text = (*exc.args, "", "")[:2]
            if code in _CONFLICT:
                raise ClaimLost(str(text)) from exc
            if code in _UNREACHABLE:
                self.close()
            raise StoreError(_explain(self._dolt, code, text)) from exc
        except OSError as exc:
            self.close()
            raise StoreError(_explain(self._dolt, 0, exc)) from exc

    def _rows(self, sql: str, params: Mapping[str, Any] | None = None, *, second: bool = False) -> list[dict[str, Any]]:
        """One statement, committed by itself; tried again when it conflicts with somebody else's."""

        def statement() -> list[dict[str, Any]]:
            with self._translated():
                connection = self._other() if second else self._main()
                with connection.cursor(DictCursor) as cursor:
                    cursor.execute(sql, params)
                    return list(cursor.fetchall())

        return _until_done("a statement", statement)

    def _columns(self) -> _Schema:
        if self._schema is None:
            columns = {row["Field"]: row["Type"].lower() for row in self._rows("SHOW COLUMNS FROM issues")}
            view = self._rows("SHOW CREATE VIEW ready_issues")[0]["Create View"]
            digest = hashlib.sha256(" ".join(view.split()).encode()).hexdigest()
            self._schema = _Schema(
                known_view=digest in _KNOWN_VIEWS,
                row_lock="row_lock" in columns,
                leases=bool(self._rows("SHOW TABLES LIKE 'leases'")),
                notes_limit=2**32 - 1 if columns["notes"] == "longtext" else 2**16 - 1,
            )
        return self._schema

    def _write(self, actor: str, message: str, work: Callable[["_Transaction"], T]) -> T:
        """Run `work` in one transaction and make it one Dolt commit whose author is `actor`.

        Raises ClaimLost when another transaction changed the same cells first; nothing is left then.
        """
        schema = self._columns()
        with self._translated():
            connection = self._main()
            connection.begin()
            try:
                with connection.cursor(DictCursor) as cursor:
                    result = work(_Transaction(cursor, schema, actor))
                    cursor.execute("CALL DOLT_ADD('issues', 'events')")
                    author = f"{actor} <{actor}@localhost>"
                    cursor.execute("CALL DOLT_COMMIT('-m', %s, '--author', %s)", (message, author))
                connection.commit()
                return result
            except BaseException:
                with contextlib.suppress(pymysql.Error, OSError):
                    connection.rollback()
                raise

    def _write_until_done(self, actor: str, message: str, work: Callable[["_Transaction"], T]) -> T:
        """As `_write`, tried again after a conflict: for what must be recorded beside other people's writes."""
        return _until_done(message, lambda: self._write(actor, message, work))

    # --- what may be dispatched --------------------------------------------------------------------------

    def switch(self) -> Switch:
        """Who has suspended dispatch or reap: bd's config, or the PingSource as the feeder mirrors it.

        A value in bd's config that is neither a yes, a no nor a name stops both: a switch that was meant to
        stop something must not be defeated by a typing error.
        """
        dispatch = reap = None
        rows = self._rows("SELECT `value` FROM config WHERE `key` = %(key)s", {"key": SWITCH_KEY})
        value = rows[0]["value"].strip().lower() if rows else "false"
        if value not in ("", "false", "no", "off", "0"):
            said = f"bd config {SWITCH_KEY} is {value}"
            dispatch = None if value == "reap" else said
            reap = None if value == "dispatch" else said
        for row in self._state("SELECT name, suspended FROM {state}.switches WHERE feed = %(feed)s"):
            if row["suspended"]:
                said = f"PingSource {row['name']} has suspend=true"
                dispatch = said if row["name"] == "dispatch" else dispatch
                reap = said if row["name"] == "reap" else reap
        return Switch(dispatch, reap)

    def hold(self) -> Hold:
        """The hold on all dispatching."""
        for row in self._state("SELECT failures, held_until, reason FROM {state}.holds WHERE feed = %(feed)s"):
            return Hold(
                row["failures"], row["held_until"].replace(tzinfo=UTC) if row["held_until"] else None, row["reason"]
            )
        return Hold()

    def set_hold(self, known: Hold, new: Hold) -> None:
        """Replace the hold, unless somebody else did since `known` was read."""
        if not self._state("SELECT failures FROM {state}.holds WHERE feed = %(feed)s"):
            self._state("INSERT IGNORE INTO {state}.holds (feed, failures, reason) VALUES (%(feed)s, 0, '')")
        self._state(
            "UPDATE {state}.holds SET failures = %(failures)s, held_until = %(until)s, reason = %(reason)s"
            " WHERE feed = %(feed)s AND failures = %(known)s",
            {
                "failures": new.failures,
                "until": _naive(new.until) if new.until else None,
                "reason": new.reason[:255],
                "known": known.failures,
            },
        )

    def eligible(self, assignee: str, now: datetime, limit: int, skip: Sequence[str] = ()) -> list[Bead]:
        """The first `limit` eligible beads in the order in which they are dispatched, without those in `skip`."""
        params = {**_gate_params(assignee, now), "skip": tuple(skip), "limit": limit}
        where = _ALL_GATES + (" AND i.id NOT IN %(skip)s" if skip else "")
        order = "ORDER BY i.priority, i.updated_at, i.id LIMIT %(limit)s"
        if self._columns().known_view:
            rows = self._rows(
                f"SELECT i.*, EXISTS (SELECT 1 FROM dependencies d WHERE d.issue_id = i.id AND d.type IN {_BINDING})"
                f" AS bound FROM (SELECT {_BEAD} FROM issues i WHERE {where} AND {_READY_ALONE} {order}) i"
                " ORDER BY i.priority, i.updated_at, i.id",
                params,
            )
            if not any(row["bound"] for row in rows):
                return [Bead.from_row(row) for row in rows]
        return [
            Bead.from_row(row)
            for row in self._rows(f"SELECT {_BEAD} FROM ready_issues i WHERE {where} {order}", params)
        ]

    def count_eligible(self, assignee: str, now: datetime) -> int:
        """How many beads dispatch would take now, slots aside."""
        params = _gate_params(assignee, now)
        alone = self._rows(f"SELECT COUNT(*) AS n FROM issues i WHERE {_ALL_GATES} AND {_READY_ALONE}", params)
        if not alone[0]["n"]:
            return 0
        if self._columns().known_view and not self._rows(
            "SELECT 1 FROM dependencies d JOIN issues i ON i.id = d.issue_id"
            f" WHERE d.type IN {_BINDING} AND {_ALL_GATES} LIMIT 1",
            params,
        ):
            return int(alone[0]["n"])
        return int(self._rows(f"SELECT COUNT(*) AS n FROM ready_issues i WHERE {_ALL_GATES}", params)[0]["n"])

    def at_work(self, assignee: str, since: datetime) -> int:
        """How many beads with a claim of ours are in progress and showed life after `since`."""
        rows = self._rows(
            f"SELECT COUNT(*) AS n FROM (SELECT {self._last_progress()} AS last_progress FROM issues i"
            f" WHERE i.assignee = %(assignee)s AND i.status = 'in_progress' AND {_TOKEN} IS NOT NULL) p"
            " WHERE p.last_progress > %(since)s",
            {"assignee": assignee, "since": _naive(since)},
        )
        return int(rows[0]["n"])

    # --- the claim and what becomes of it ----------------------------------------------------------------

    def claim(self, bead: Bead, now: datetime) -> Bead:
        """Claim an eligible bead in one transaction; returns it as it now stands, with our token.

        Raises ClaimLost when it is no longer eligible or somebody else's change came first.
        """
        token = str(uuid.uuid4())
        record = DispatchRecord(
            claim=token,
            attempt=bead.record.attempt + 1,
            at=notes.timestamp(now),
            failures=bead.record.failures,
        )

        def work(transaction: _Transaction) -> Bead:
            lock = transaction.change(
                bead.id,
                now,
                note=notes.claimed(now),
                record=record,
                sets="i.status = 'in_progress', i.started_at = COALESCE(i.started_at, %(now)s)",
                where=_ALL_GATES + " AND COALESCE(i.defer_until, %(now)s) <= %(now)s",
                params=_gate_params(bead.assignee, now),
            )
            transaction.event(bead.id, notes.claimed(now), now, (bead.status, Status.IN_PROGRESS))
            return replace(bead, status=Status.IN_PROGRESS, updated_at=_whole(now), record=record, row_lock=lock)

        try:
            return self._write(DISPATCHER, f"{DISPATCHER}: claim {bead.id}", work)
        except _NotOurs:
            raise ClaimLost(f"{bead.id} is no longer eligible") from None

    def read_back(self, bead_id: str) -> Bead | None:
        """The bead as others see it, on another connection than the claim's; None when it was deleted."""
        lock = ", i.row_lock" if self._columns().row_lock else ""
        rows = self._rows(f"SELECT {_BEAD}{lock} FROM issues i WHERE i.id = %(id)s", {"id": bead_id}, second=True)
        return Bead.from_row(rows[0]) if rows else None

    def record_dispatched(self, bead: Bead, job_id: str, now: datetime) -> bool:
        """Note the job on a bead we claimed. False when the claim is no longer ours."""
        record = replace(bead.record, job=job_id, failures=0)
        return self._amend(bead, now, notes.dispatched(job_id), record, "record the job of")

    def record_unknown(self, bead: Bead, why: str, now: datetime) -> bool:
        """Note that the POST was sent and no usable answer came: the job may run, so nothing is rolled back."""
        record = replace(bead.record, outcome="unknown")
        return self._amend(bead, now, notes.outcome_unknown(why), record, "record the unknown outcome of")

    def roll_back(
        self,
        bead: Bead,
        note: str,
        record: DispatchRecord,
        now: datetime,
        *,
        actor: str,
        status: Status = Status.OPEN,
        unchanged: bool = False,
    ) -> bool:
        """End our claim on a bead: `open` again, or `blocked`. False when the claim is no longer ours.

        `unchanged`: also not when anybody wrote to the bead since it was read.
        """

        def work(transaction: _Transaction) -> bool:
            transaction.change(
                bead.id,
                now,
                note=note,
                record=replace(record, claim=None),
                # started_at was set by our claim where it is the claim's moment; bd clears it too.
                sets="i.status = %(status)s, i.started_at = IF(i.started_at = %(claimed)s, NULL, i.started_at)",
                where=f"i.status = 'in_progress' AND {_TOKEN} = %(token)s"
                + (" AND i.updated_at = %(seen)s" if unchanged else ""),
                params={
                    "status": status,
                    "claimed": _claimed_at(bead),
                    "token": bead.record.claim,
                    "seen": _naive(bead.updated_at),
                },
            )
            transaction.event(bead.id, note, now, (Status.IN_PROGRESS, status))
            return True

        return self._unless_lost(lambda: self._write_until_done(actor, f"{actor}: give back {bead.id}", work))

    def withdraw(self, bead: Bead, why: str, now: datetime) -> bool:
        """Undo our part of a claim that was merged with a person's change; their part stays.

        `status` goes back to open only where it is ours: not where they set in_progress themselves, nor where
        they closed or blocked the bead since.
        """
        record = replace(bead.record, claim=None, at=None)

        def work(transaction: _Transaction) -> bool:
            theirs = transaction.rows(
                "SELECT 1 FROM events WHERE issue_id = %(id)s AND created_at >= %(claimed)s AND actor NOT IN %(ours)s"
                " AND event_type IN ('claimed', 'status_changed') LIMIT 1",
                {"id": bead.id, "claimed": _claimed_at(bead), "ours": OURS},
            )
            keep = "i.status" if theirs else "IF(i.status = 'in_progress', 'open', i.status)"
            started = "i.started_at" if theirs else "IF(i.started_at = %(claimed)s, NULL, i.started_at)"
            transaction.change(
                bead.id,
                now,
                note=notes.withdrawn(why),
                record=record,
                sets=f"i.status = {keep}, i.started_at = {started}",
                where=f"{_TOKEN} = %(token)s",
                params={"token": bead.record.claim, "claimed": _claimed_at(bead)},
            )
            transaction.event(bead.id, notes.withdrawn(why), now)
            return True

        return self._unless_lost(
            lambda: self._write_until_done(DISPATCHER, f"{DISPATCHER}: withdraw the claim on {bead.id}", work)
        )

    def _amend(self, bead: Bead, now: datetime, note: str, record: DispatchRecord, verb: str) -> bool:
        """Add to a bead with our claim, whatever its status is by now: a fast agent may have closed it."""

        def work(transaction: _Transaction) -> bool:
            transaction.change(
                bead.id,
                now,
                note=note,
                record=record,
                where=f"{_TOKEN} = %(token)s",
                params={"token": bead.record.claim},
            )
            transaction.event(bead.id, note, now)
            return True

        return self._unless_lost(lambda: self._write_until_done(DISPATCHER, f"{DISPATCHER}: {verb} {bead.id}", work))

    @staticmethod
    def _unless_lost(write: Callable[[], bool]) -> bool:
        try:
            return write()
        except _NotOurs:
            return False

    # --- what is stuck -----------------------------------------------------------------------------------

    def stuck(self, assignee: str, before: datetime) -> list[Bead]:
        """Beads in progress for the sentinel whose last sign of life is older than `before`."""
        rows = self._rows(
            f"SELECT * FROM (SELECT {_BEAD}, {self._last_progress()} AS last_progress FROM issues i"
            " WHERE i.assignee = %(assignee)s AND i.status = 'in_progress') p"
            " WHERE p.last_progress < %(before)s ORDER BY p.last_progress, p.id",
            {"assignee": assignee, "before": _naive(before)},
        )
        return [Bead.from_row(row) for row in rows]

    def abandoned(self, assignee: str, before: datetime) -> list[Bead]:
        """Beads whose claim has neither job nor outcome, was made before `before`, and where nobody else has
        shown life since: what a crash between two steps of dispatch leaves."""
        others = "FROM {table} o WHERE o.issue_id = i.id AND o.created_at >= i.updated_at AND o.{actor} NOT IN %(ours)s"
        heartbeat = (
            " AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.issue_id = i.id AND l.heartbeat_at > i.updated_at)"
            if self._columns().leases
            else ""
        )
        rows = self._rows(
            f"SELECT {_BEAD} FROM issues i WHERE i.assignee = %(assignee)s AND i.status = 'in_progress'"
            f" AND {_TOKEN} IS NOT NULL AND {_JOB} IS NULL AND {_OUTCOME} IS NULL"
            f" AND {_CLAIMED_AT} < %(before_text)s AND i.updated_at < %(before)s"
            f" AND NOT EXISTS (SELECT 1 {others.format(table='events', actor='actor')})"
            f" AND NOT EXISTS (SELECT 1 {others.format(table='comments', actor='author')})"
            f"{heartbeat} ORDER BY i.updated_at, i.id",
            {"assignee": assignee, "before": _naive(before), "before_text": notes.timestamp(before), "ours": OURS},
        )
        # A write by anybody else moves updated_at past the claim's moment.
        return [bead for bead in map(Bead.from_row, rows) if notes.timestamp(bead.updated_at) == bead.record.at]

    def block_stuck(self, bead: Bead, before: datetime, note: str, now: datetime) -> bool:
        """Block a bead that `stuck` returned. False when it changed or showed life since it was read."""

        def work(transaction: _Transaction) -> bool:
            transaction.change(
                bead.id,
                now,
                note=note,
                record=replace(bead.record, claim=None) if bead.record.attempt else None,
                sets="i.status = 'blocked'",
                where=(
                    "i.assignee = %(assignee)s AND i.status = 'in_progress' AND i.updated_at = %(seen)s"
                    f" AND COALESCE({_TOKEN}, '') = %(token)s"
                ),
                params={
                    "assignee": bead.assignee,
                    "seen": _naive(bead.updated_at),
                    "token": bead.record.claim or "",
                },
            )
            alive = transaction.rows(
                f"SELECT 1 FROM (SELECT {self._last_progress(updated='%(seen)s')} AS last_progress FROM issues i"
                " WHERE i.id = %(id)s) p WHERE p.last_progress >= %(before)s",
                {"id": bead.id, "seen": _naive(bead.updated_at), "before": _naive(before)},
            )
            if alive:
                raise _NotOurs
            transaction.event(bead.id, note, now, (Status.IN_PROGRESS, Status.BLOCKED))
            return True

        try:
            return self._write(REAPER, f"{REAPER}: block {bead.id}", work)
        except (ClaimLost, _NotOurs):
            return False

    def _last_progress(self, updated: str = "i.updated_at") -> str:
        """SQL for the newest sign of life on a row `i`: the bead, its events, its comments, its heartbeat."""
        signs = [
            updated,
            f"COALESCE((SELECT MAX(e.created_at) FROM events e WHERE e.issue_id = i.id), {updated})",
            f"COALESCE((SELECT MAX(c.created_at) FROM comments c WHERE c.issue_id = i.id), {updated})",
        ]
        if self._columns().leases:
            signs.append(f"COALESCE((SELECT l.heartbeat_at FROM leases l WHERE l.issue_id = i.id), {updated})")
        return f"GREATEST({', '.join(signs)})"

    # --- the past ----------------------------------------------------------------------------------------

    def history(self, bead_id: str) -> list[dict[str, Any]]:
        """Every version of a bead in Dolt's history, oldest first: commit date (UTC, milliseconds), and assignee,
        status and metadata before and after. What is not committed yet is not in it."""
        return self._rows(
            "SELECT to_commit_date AS at, from_assignee, from_status, from_metadata,"
            " to_assignee, to_status, to_metadata"
            " FROM dolt_diff_issues WHERE COALESCE(to_id, from_id) = %(id)s AND to_commit <> 'WORKING'"
            " ORDER BY to_commit_date",
            {"id": bead_id},
        )

    # --- the feed's own: position, mirrored switch -------------------------------------------------------

    def prepare_state(self) -> None:
        """Make the database `beads_dispatch` and its tables where they are missing.

        One row per bead database in each, so that several may share a server.
        """
        self._rows(f"CREATE DATABASE IF NOT EXISTS {STATE_DATABASE}")
        for table in (
            "positions (feed VARCHAR(64) PRIMARY KEY, gtid_set LONGTEXT NOT NULL, dolt_commit VARCHAR(64) NOT NULL)",
            "switches (feed VARCHAR(64), name VARCHAR(16), suspended BOOLEAN NOT NULL, PRIMARY KEY (feed, name))",
            "holds (feed VARCHAR(64) PRIMARY KEY, failures INT NOT NULL, held_until DATETIME,"
            " reason VARCHAR(255) NOT NULL)",
        ):
            self._rows(f"CREATE TABLE IF NOT EXISTS {STATE_DATABASE}.{table}")

    def position(self) -> tuple[str, str] | None:
        """The feed's stored position: a GTID set, and a Dolt commit that holds nothing newer. None at first."""
        for row in self._state("SELECT gtid_set, dolt_commit FROM {state}.positions WHERE feed = %(feed)s"):
            return row["gtid_set"], row["dolt_commit"]
        return None

    def set_position(self, gtid_set: str, commit: str) -> None:
        """Store the feed's position."""
        self._rows(
            f"REPLACE INTO {STATE_DATABASE}.positions (feed, gtid_set, dolt_commit)"
            " VALUES (%(feed)s, %(set)s, %(commit)s)",
            {"feed": self._dolt.database, "set": gtid_set, "commit": commit},
        )

    def set_switch(self, name: str, suspended: bool) -> None:
        """Mirror the switch on a PingSource (`dispatch` or `reap`)."""
        self._rows(
            f"REPLACE INTO {STATE_DATABASE}.switches (feed, name, suspended)"
            " VALUES (%(feed)s, %(name)s, %(suspended)s)",
            {"feed": self._dolt.database, "name": name, "suspended": suspended},
        )

    def head(self) -> tuple[str, str]:
        """The newest Dolt commit, and a GTID set that holds all of it (read in this order)."""
        commit = self._rows("SELECT HASHOF('HEAD') AS head")[0]["head"]
        return self._rows("SELECT @@global.gtid_executed AS executed")[0]["executed"], commit

    def changed_since(self, commit: str) -> Iterator[dict[str, Any]]:
        """Rows of `issues` that differ between a Dolt commit and now, one at a time: a gap may be large."""
        with self._translated():
            # A connection of its own: its statement stays open while others are made.
            connection = connect(self._dolt, cursorclass=SSDictCursor)
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute(
                    "SELECT from_id, from_title, from_priority, from_assignee, from_status,"
                    " to_id, to_title, to_priority, to_assignee, to_status"
                    " FROM dolt_diff(%(commit)s, 'WORKING', 'issues')",
                    {"commit": commit},
                )
                yield from cursor

    def variables(self) -> dict[str, str]:
        """What the feeder's preflight looks at: the server's version and its binlog settings."""
        names = ("log_bin", "gtid_mode", "enforce_gtid_consistency", "binlog_row_metadata")
        row = self._rows(
            "SELECT dolt_version() AS dolt_version, " + ", ".join(f"@@global.{name} AS {name}" for name in names)
        )[0]
        return {name: str(value) for name, value in row.items()}

    def _state(self, sql: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """A statement on our own database; nothing where the feeder has not made it yet."""
        try:
            return self._rows(sql.format(state=STATE_DATABASE), {"feed": self._dolt.database, **(params or {})})
        except StoreError as exc:
            cause = exc.__cause__
            if isinstance(cause, pymysql.Error) and cause.args and cause.args[0] in _NO_SUCH_STATE:
                return []
            raise


class _NotOurs(Exception):
    """The row is no longer in the state that was read: nothing is written."""


class _Transaction:
    """One write in the making: the row, its note and its event belong together."""

    def __init__(self, cursor: DictCursor, schema: _Schema, actor: str) -> None:
        self._cursor = cursor
        self._schema = schema
        self._actor = actor

    def rows(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._cursor.execute(sql, params)
        return list(self._cursor.fetchall())

    def change(
        self,
        bead_id: str,
        now: datetime,
        *,
        note: str,
        record: DispatchRecord | None,
        sets: str = "",
        where: str,
        params: Mapping[str, Any],
    ) -> int | None:
        """UPDATE one bead if `where` still holds; returns the new row_lock where the schema has one.

        Raises _NotOurs when no row matched.
        """
        lock = secrets.randbits(63) | 1 if self._schema.row_lock else None
        assignments = [_APPEND_NOTE, "i.updated_at = %(now)s"]
        assignments += [_SET_RECORD] if record is not None else []
        assignments += ["i.row_lock = %(lock)s"] if lock is not None else []
        assignments += [sets] if sets else []
        matched = self._cursor.execute(
            f"UPDATE issues i SET {', '.join(assignments)} WHERE i.id = %(id)s AND {where}",
            {
                **params,
                "id": bead_id,
                "note": note,
                "record": record.to_json() if record is not None else None,
                "lock": lock,
                "now": _naive(now),
                "notes_limit": self._schema.notes_limit,
            },
        )
        if matched != 1:
            raise _NotOurs
        return lock

    def event(self, bead_id: str, note: str, now: datetime, statuses: tuple[str, str] | None = None) -> None:
        """The audit row that bd writes with each of its own changes; `statuses` are old and new."""
        old, new = ({"status": status} for status in statuses) if statuses else ({}, {})
        self._cursor.execute(
            "INSERT INTO events (id, issue_id, event_type, actor, old_value, new_value, comment, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (
                str(uuid.uuid4()),
                bead_id,
                "status_changed" if statuses else "updated",
                self._actor,
                json.dumps(old),
                json.dumps(new),
                note,
                _naive(now),
            ),
        )


def _until_done(what: str, write: Callable[[], T]) -> T:
    """Call `write` until it conflicts with nobody. Raises StoreError after so many conflicts in a row."""
    for _ in range(_WRITE_TRIES):
        with contextlib.suppress(ClaimLost):
            return write()
    raise StoreError(f"{what}: {_WRITE_TRIES} conflicts with other writers in a row")


def connect(dolt: settings.Dolt, **more: Any) -> "pymysql.Connection[Any]":
    """A connection with time limits: PyMySQL waits for ever without them."""
    arguments: dict[str, Any] = {
        "host": dolt.host,
        "port": dolt.port,
        "user": dolt.user,
        "password": dolt.password,
        "database": dolt.database,
        "charset": "utf8mb4",
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _STATEMENT_SECONDS,
        "write_timeout": _STATEMENT_SECONDS,
        # Not False: PyMySQL would believe it without telling Dolt. Transactions are begun explicitly.
        "autocommit": None,
    }
    return pymysql.connect(**{**arguments, **more})


def _gate_params(assignee: str, now: datetime) -> dict[str, Any]:
    return {"assignee": assignee, "not_blank": _NOT_BLANK, "now": _naive(now), "now_text": notes.timestamp(now)}


def _claimed_at(bead: Bead) -> datetime | None:
    return _naive(datetime.fromisoformat(bead.record.at)) if bead.record.at else None


def _naive(moment: datetime) -> datetime:
    """As Dolt's DATETIME wants it: UTC without a zone, cut to whole seconds (Dolt would round up)."""
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _explain(dolt: settings.Dolt, code: object, text: object) -> str:
    where = f"Dolt at {dolt.host}:{dolt.port}, database {dolt.database}, user {dolt.user}"
    if code in _UNREACHABLE:
        return f"cannot reach {where} ({text or code})"
    return f"{where} refused a statement: error {code}: {text}"
