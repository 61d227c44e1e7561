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
import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymysql
from pymysql.cursors import DictCursor

from beads import notes, settings
from beads.bead import POSTING, UNKNOWN, Bead, DispatchRecord, Status

DISPATCHER = "beads-dispatcher"
REAPER = "beads-reaper"
OURS = (DISPATCHER, REAPER)

STATE_DATABASE = "beads_dispatch"
SWITCH_KEY = "custom.auto-dispatch.suspend"

_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 30  # far above the slowest query (tens of ms); PyMySQL waits for ever without it
_TURN_SECONDS = 10  # a write takes some 20 ms; who has waited so long goes on without its turn
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
class Seen:
    """A bead as the feed saw it last, and the id of what it told of it then."""

    assignee: str  # empty for nobody
    status: str
    event: str


@dataclass(frozen=True)
class Hold:
    """All dispatching waits until `until` after `failures` failures of the agent service in a row."""

    failures: int = 0
    until: datetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class Overview:
    """What there is to do at a moment, and what keeps it from being done."""

    waiting: int  # eligible beads; switch, hold and slots aside
    oldest: datetime | None  # the last change of the one of them that has not changed for longest
    running: int  # beads in progress for the sentinel
    switch: Switch
    hold: Hold
    executed: str  # the set of GTIDs that the server has executed


@dataclass(frozen=True)
class Examined:
    """A bead, and what each gate of the predicate says of it."""

    bead: Bead
    gates: Mapping[str, bool]  # by the names in GATES, and `ready`: whether bd's view has it
    ephemeral: bool
    deferred_until: datetime | None
    metadata_type: str  # as JSON_TYPE names it; NULL without metadata


@dataclass(frozen=True)
class Obstacle:
    """Another bead that keeps a bead from being ready."""

    bead: str
    title: str
    status: str
    through: str  # the bead that it blocks: the one asked about, or an ancestor of it
    deferred_until: datetime | None = None  # a parent that is deferred; None for one that blocks


@dataclass(frozen=True)
class Sign:
    """A sign of life of a bead: when, and what it was in words."""

    at: datetime
    what: str


@dataclass(frozen=True)
class Commit:
    """A Dolt commit."""

    hash: str
    at: datetime
    author: str
    message: str


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
_CHEAP = ("assignee", "status", "template")  # gates that look at columns; the others look into texts and JSON
_CHEAP_GATES = " AND ".join(sql for name, sql in GATES.items() if name in _CHEAP)
_DEAR_GATES = " AND ".join(sql for name, sql in GATES.items() if name not in _CHEAP)

# What the view asks of the row itself, the status aside, which is a gate too.
_READY_ALONE = "COALESCE(i.ephemeral, 0) = 0 AND (i.defer_until IS NULL OR i.defer_until <= UTC_TIMESTAMP())"
_CANDIDATES = 8  # beads looked at for the first that is ready, and how many times more when none is
_COUNT_LIMIT = 100
_CLOCK = "UTC_TIMESTAMP()"  # the clock of bd's view
_DEPTH = 50  # as many ancestors the view follows

# SHA-256 of the definitions (white space folded) for which that is true: bd 1.0.2's and bd 1.3.0's. Any other view
# is asked about every bead. Worth it because the view costs 10 ms on an empty database, twice per dispatch.
_KNOWN_VIEWS = frozenset(
    {
        "f42d75ecbfcdd04407ed818139f18cfb3747b2ba0ca3343f2a801035835a7990",
        "f6de4f6d8722111d84c6a07ac827c4c3884e2b1058b0155d326d15c9d8a2cde4",
    }
)

_ORDER = ("i.priority", "i.updated_at", "i.id")
_BEAD = "i.id, i.title, i.priority, i.status, i.assignee, i.updated_at, i.metadata"

_TOKEN = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.claim'))"
_JOB = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.job'))"
_OUTCOME = "JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.outcome'))"
_OUTAGES = "COALESCE(CAST(JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.outages')) AS SIGNED), 0)"
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


# Beads at work that did not change since `before`, which would be a sign of life: first by columns alone, because other
# people's beads in progress may be many, and a row holds texts.
_QUIET = (
    "(SELECT i.id FROM issues i WHERE i.assignee = %(assignee)s AND i.status = 'in_progress'"
    " AND i.updated_at < %(before)s) q JOIN issues i ON i.id = q.id"
)


@dataclass(frozen=True)
class _Schema:
    """What differs between bd's schemas (1.0.2 to 1.3.0), looked at once per connection."""

    row_lock: bool  # issues.row_lock must be rewritten (1.3.0)
    leases: bool  # a lease's heartbeat is a sign of life (1.3.0)
    target: str  # the column of `dependencies` that names the other bead
    view: str  # what ready_issues selects
    known_view: bool  # it is one of _KNOWN_VIEWS
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
        self._has_turn = False

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
            # Without these checks an UPDATE of a bead takes half the time (Dolt reads every table that refers to
            # `issues`), and they could find nothing: we change no key, and an event is only inserted for a bead that
            # the same transaction has changed, which conflicts with whoever deletes it.
            self._connection = connect(self._dolt, init_command="SET foreign_key_checks = 0")
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
                view=view.partition(" AS ")[2],
                known_view=digest in _KNOWN_VIEWS,
                row_lock="row_lock" in columns,
                leases=bool(self._rows("SHOW TABLES LIKE 'leases'")),
                target="depends_on_issue_id" if "depends_on_issue_id" in view else "depends_on_id",  # 1.0.2: the second
                notes_limit=2**32 - 1 if columns["notes"] == "longtext" else 2**16 - 1,
            )
        return self._schema

    def _write(self, actor: str, message: str, work: Callable[["_Transaction"], T]) -> T:
        """Run `work` in one transaction and make it one Dolt commit whose author is `actor`.

        Raises ClaimLost when another transaction changed the same cells first; nothing is left then.
        """
        schema = self._columns()
        with self.turn(), self._in_transaction() as cursor:
            result = work(_Transaction(cursor, schema, actor))
            cursor.execute("CALL DOLT_ADD('issues', 'events')")
            author = f"{actor} <{actor}@localhost>"
            cursor.execute("CALL DOLT_COMMIT('-m', %s, '--author', %s)", (message, author))
        return result

    @contextlib.contextmanager
    def _in_transaction(self) -> Iterator[DictCursor]:
        """One transaction: committed at the end of the block, rolled back where it fails."""
        with self._translated():
            connection = self._main()
            connection.begin()
            try:
                with connection.cursor(DictCursor) as cursor:
                    yield cursor
                connection.commit()
            except BaseException:
                with contextlib.suppress(pymysql.Error, OSError):
                    connection.rollback()
                raise

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait, but not for long, until no other of our processes is writing; for several writes in a row, or one.

        Nothing depends on it: it is the transaction that makes a claim exclusive. But Dolt merges transactions that
        overlap, which takes some 30 times as long as one alone, and a loser finds out for a millisecond here.
        """
        if self._has_turn:
            yield
            return
        digest = hashlib.sha256(self._dolt.database.encode()).hexdigest()[:32]  # a lock's name holds 64 characters
        name = {"name": f"{STATE_DATABASE}.write.{digest}", "seconds": _TURN_SECONDS}
        self._rows("SELECT GET_LOCK(%(name)s, %(seconds)s)", name)
        self._has_turn = True
        try:
            yield
        finally:
            self._has_turn = False
            if self._connection is not None:  # the lock goes with its connection
                self._rows("SELECT RELEASE_LOCK(%(name)s)", name)

    def _write_until_done(self, actor: str, message: str, work: Callable[["_Transaction"], T]) -> T:
        """As `_write`, tried again after a conflict: for what must be recorded beside other people's writes."""
        return _until_done(message, lambda: self._write(actor, message, work))

    # --- what may be dispatched --------------------------------------------------------------------------

    def switch(self) -> Switch:
        """Who has suspended dispatch or reap: bd's config, or the PingSource as the feeder mirrors it.

        A value in bd's config that is neither a yes, a no nor a name stops both: a switch that was meant to
        stop something must not be defeated by a typing error.
        """
        dispatch, reap = self.configured_switch()
        for row in self._state("SELECT name, suspended FROM {state}.switches WHERE feed = %(feed)s"):
            if row["suspended"]:
                said = f"PingSource {row['name']} has suspend=true"
                dispatch = said if row["name"] == "dispatch" else dispatch
                reap = said if row["name"] == "reap" else reap
        return Switch(dispatch, reap)

    def configured_switch(self) -> tuple[str | None, str | None]:
        """What bd's config alone says to dispatch and to reap."""
        rows = self._rows("SELECT `value` FROM config WHERE `key` = %(key)s", {"key": SWITCH_KEY})
        value = rows[0]["value"].strip().lower() if rows else "false"
        if value in ("", "false", "no", "off", "0"):
            return None, None
        said = f"bd config {SWITCH_KEY} is {value}"
        return None if value == "reap" else said, None if value == "dispatch" else said

    def set_configured_switch(self, *, dispatch: bool, reap: bool) -> None:
        """What `bd config set custom.auto-dispatch.suspend` does: write the row, make no Dolt commit of it."""
        value = {(False, False): "false", (True, False): "dispatch", (False, True): "reap", (True, True): "true"}
        self._rows(
            "INSERT INTO config (`key`, `value`) VALUES (%(key)s, %(value)s)"
            " ON DUPLICATE KEY UPDATE `value` = %(value)s",
            {"key": SWITCH_KEY, "value": value[dispatch, reap]},
        )

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

    def eligible(
        self, assignee: str, now: datetime, limit: int, skip: Sequence[str] = (), *, probe: bool = False
    ) -> list[Bead]:
        """The first `limit` eligible beads in the order in which they are dispatched, without those in `skip`.

        `probe`: those with which the service failed least come first.
        """
        params = {**_gate_params(assignee, now), "skip": tuple(skip)}
        order = f"ORDER BY {', '.join((_OUTAGES, *_ORDER) if probe else _ORDER)}"
        skipped = " AND i.id NOT IN %(skip)s" if skip else ""
        rows = self._ready_rows(_BEAD, skipped, order, limit, params)
        return [Bead.from_row(row) for row in rows]

    def _ready_rows(
        self,
        columns: str,
        more: str,
        order: str,
        limit: int,
        params: Mapping[str, Any],
        *,
        enough: int | None = None,
    ) -> list[dict[str, Any]]:
        """The first `limit` rows, in that order, that pass the whole predicate and `more`; or `enough` of them.

        bd's view works out every dependency there is before it looks at a bead. So where its definition is one of those
        we know, the beads at the head of the queue are looked at instead, and what they depend on: a few at first, and
        more of them where too few of these are ready.
        """
        if not self._columns().known_view:
            return self._rows(
                f"SELECT {columns} FROM {self._ready()} i WHERE {_ALL_GATES}{more} {order} LIMIT %(limit)s",
                {**params, "limit": limit},
            )
        # Columns first, texts and JSON of those at the head only: half the time where ten thousand wait.
        first, then = _CHEAP_GATES, _DEAR_GATES
        number = max(limit, _CANDIDATES)
        while True:
            # Ids in order, then the rows of a few: a row holds texts, and costs twice as much as its columns.
            rows = self._rows(
                f"SELECT {columns}, ({then}) AS passes FROM (SELECT i.id FROM issues i"
                f" WHERE {first} AND {self._ready_alone()}{more} {order} LIMIT %(number)s) h"
                f" JOIN issues i ON i.id = h.id {order}",
                {**params, "number": number},
            )
            found = [row for row in rows if row["passes"]]
            held = {bead for _, kept in self._holding([row["id"] for row in found]) for bead in kept}
            ready = [row for row in found if row["id"] not in held]
            if len(ready) >= (enough or limit) or len(rows) < number:
                return ready[:limit]
            first, then, number = _ALL_GATES, "TRUE", number * _CANDIDATES

    def _holding(self, beads: Sequence[str]) -> Iterator[tuple[dict[str, Any], set[str]]]:
        """What keeps beads from being ready for another bead's sake, as bd's view reads the dependencies: what blocks
        one or an ancestor of it, and a parent that is deferred. Rows of `_depends_on`, each with the beads it keeps."""
        level = {bead: {bead} for bead in beads}  # a bead to look at -> the beads in question that it stands for
        seen = {bead: {bead} for bead in beads}
        for depth in range(_DEPTH + 1):
            above: dict[str, set[str]] = {}
            for row in self._depends_on(list(level)) if level else ():
                below = level[row["issue_id"]]
                if row["blocks"] or (depth == 0 and row["deferred"]):
                    yield row, below
                if row["type"] == "parent-child" and (new := below - seen.setdefault(row["id"], set())):
                    above.setdefault(row["id"], set()).update(new)
                    seen[row["id"]] |= new
            level = above

    def _depends_on(self, beads: Sequence[str]) -> list[dict[str, Any]]:
        """What beads depend on: `issue_id`, and of the other bead id, title, status, defer_until, how (`type`), and
        whether it `blocks` now, and whether it is a parent that is `deferred` now."""
        return self._rows(
            "SELECT d.issue_id, d.type, b.id, b.title, b.status, b.defer_until,"
            " d.type = 'blocks' AND b.status NOT IN ('closed', 'pinned') AS blocks,"
            f" d.type = 'parent-child' AND COALESCE(b.defer_until > {self._utc_now()}, FALSE) AS deferred"
            f" FROM dependencies d JOIN issues b ON b.id = d.{self._columns().target}"
            " WHERE d.issue_id IN %(beads)s ORDER BY b.id",  # d.type here would have Dolt read all of that type
            {"beads": tuple(beads)},
        )

    def _ready(self) -> str:
        """SQL for the rows that are ready: bd's view."""
        return "ready_issues"

    def _ready_alone(self) -> str:
        """SQL for what the view asks of a row itself."""
        return _READY_ALONE.replace(_CLOCK, self._utc_now())

    def _utc_now(self) -> str:
        """SQL for the view's clock."""
        return _CLOCK

    def _has_events(self) -> bool:
        """Whether the audit rows can be read."""
        return True

    def count_eligible(
        self, assignee: str, now: datetime, at_most: int = _COUNT_LIMIT, *, enough: int | None = None
    ) -> int:
        """How many beads dispatch would take now, slots aside. No more than `at_most` are counted, so that a long queue
        costs no more than a short one; and where `enough` were found, others are not looked for."""
        return len(self._ready_rows("i.id", "", "", at_most, _gate_params(assignee, now), enough=enough))

    def overview(self, assignee: str, now: datetime) -> Overview:
        """What the metrics tell. Not more than 100 waiting beads are looked at, as in `count_eligible`."""
        self.refresh()
        params = _gate_params(assignee, now)
        rows = self._ready_rows("i.id, i.updated_at", "", "ORDER BY i.updated_at", _COUNT_LIMIT, params)
        running = self._rows(
            "SELECT COUNT(*) AS n FROM issues i WHERE i.assignee = %(assignee)s AND i.status = 'in_progress'", params
        )
        return Overview(
            waiting=len(rows),
            oldest=rows[0]["updated_at"].replace(tzinfo=UTC) if rows else None,
            running=int(running[0]["n"]),
            switch=self.switch(),
            hold=self.hold(),
            executed=self.executed(),
        )

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

    def claim(self, bead: Bead, now: datetime, *, before_its_time: bool = False) -> Bead:
        """Claim an eligible bead in one transaction; returns it as it now stands, with our token.

        `before_its_time`: a person says now, so its retry time is not waited for. Raises ClaimLost when it is no
        longer eligible or somebody else's change came first.
        """
        gates = " AND ".join(sql for gate, sql in GATES.items() if gate != "retry" or not before_its_time)
        token = str(uuid.uuid4())
        record = DispatchRecord(
            claim=token,
            attempt=bead.record.attempt + 1,
            at=notes.timestamp(now),
            failures=bead.record.failures,
            outages=bead.record.outages,
        )

        def work(transaction: _Transaction) -> Bead:
            lock = transaction.change(
                bead.id,
                now,
                note=notes.claimed(now),
                record=record,
                sets="i.status = 'in_progress', i.started_at = COALESCE(i.started_at, %(now)s)",
                where=gates + " AND COALESCE(i.defer_until, %(now)s) <= %(now)s",
                params=_gate_params(bead.assignee, now),
            )
            transaction.event(bead.id, notes.claimed(now), now, (bead.status, Status.IN_PROGRESS))
            return replace(bead, status=Status.IN_PROGRESS, updated_at=_whole(now), record=record, row_lock=lock)

        try:
            return self._write(DISPATCHER, f"{DISPATCHER}: claim {bead.id}", work)
        except _NotOurs:
            raise ClaimLost(f"{bead.id} is no longer eligible") from None

    def mark_posting(self, bead: Bead) -> None:
        """Say on a bead, before its POST, that it is under way: whoever finds the claim after a crash then knows that
        the job may run. Nothing is written where the claim is no longer ours.

        Plain SQL, because it is as durable and a Dolt commit would take three times as long; the mark is in the
        history only where the crash came, in the next commit of whoever makes one.
        """
        with self.turn():
            self._rows(
                # updated_at stays: the column sets itself otherwise, and who reads the bead back would see a change.
                "UPDATE issues i SET i.metadata = JSON_SET(i.metadata, '$.dispatch.outcome', %(outcome)s),"
                " i.updated_at = i.updated_at"
                f" WHERE i.id = %(id)s AND i.status = 'in_progress' AND {_TOKEN} = %(token)s",
                {"id": bead.id, "token": bead.record.claim, "outcome": POSTING},
            )

    def read_back(self, bead_id: str) -> Bead | None:
        """The bead as others see it, on another connection than the claim's; None when it was deleted."""
        lock = ", i.row_lock" if self._columns().row_lock else ""
        rows = self._rows(f"SELECT {_BEAD}{lock} FROM issues i WHERE i.id = %(id)s", {"id": bead_id}, second=True)
        return Bead.from_row(rows[0]) if rows else None

    def record_dispatched(self, bead: Bead, job_id: str, now: datetime) -> bool:
        """Note the job on a bead we claimed. False when the claim is no longer ours."""
        record = replace(bead.record, job=job_id, failures=0, outages=0)
        return self._amend(bead, now, notes.dispatched(job_id), record, "record the job of")

    def record_unknown(self, bead: Bead, why: str, now: datetime) -> bool:
        """Note that the POST was sent and no usable answer came: the job may run, so nothing is rolled back."""
        record = replace(bead.record, outcome=UNKNOWN)
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
            f"SELECT * FROM (SELECT {_BEAD}, {self._last_progress()} AS last_progress FROM {_QUIET}) p"
            " WHERE p.last_progress < %(before)s ORDER BY p.last_progress, p.id",
            {"assignee": assignee, "before": _naive(before)},
        )
        return [Bead.from_row(row) for row in rows]

    def abandoned(self, assignee: str, before: datetime) -> list[Bead]:
        """Beads whose claim has neither job nor outcome, was made before `before`, and where nobody else has
        shown life since: what a crash of dispatch leaves before its POST. A POST that was begun is an outcome."""
        others = "FROM {table} o WHERE o.issue_id = i.id AND o.created_at >= i.updated_at AND o.{actor} NOT IN %(ours)s"
        heartbeat = (
            " AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.issue_id = i.id AND l.heartbeat_at > i.updated_at)"
            if self._columns().leases
            else ""
        )
        params = {"assignee": assignee, "before": _naive(before), "before_text": notes.timestamp(before), "ours": OURS}
        claims = (
            f"SELECT {_BEAD} FROM {_QUIET} WHERE {_TOKEN} IS NOT NULL AND {_JOB} IS NULL AND {_OUTCOME} IS NULL"
            f" AND {_CLAIMED_AT} < %(before_text)s"
        )
        if not self._rows(claims, params):
            return []  # as nearly always; what follows reads all events
        rows = self._rows(
            f"{claims} AND NOT EXISTS (SELECT 1 {others.format(table='events', actor='actor')})"
            f" AND NOT EXISTS (SELECT 1 {others.format(table='comments', actor='author')})"
            f"{heartbeat} ORDER BY i.updated_at, i.id",
            params,
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
            f"COALESCE((SELECT MAX(c.created_at) FROM comments c WHERE c.issue_id = i.id), {updated})",
        ]
        if self._has_events():
            signs.append(f"COALESCE((SELECT MAX(e.created_at) FROM events e WHERE e.issue_id = i.id), {updated})")
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

    def versions(self, bead_id: str) -> list[dict[str, Any]]:
        """Every version of a bead, oldest first: commit, its date and author, what decides on dispatch before and after
        (`accepted`: the acceptance criteria are not blank), and what was added to the notes (2000 characters at most).

        Takes 0.15 ms for each commit of the whole history."""
        sides = ", ".join(
            f"{side}_id, {side}_assignee, {side}_status, {side}_metadata, {side}_priority, {side}_defer_until,"
            f" COALESCE({side}_acceptance_criteria, '') REGEXP %(not_blank)s AS {side}_accepted"
            for side in ("from", "to")
        )
        noted = "CHAR_LENGTH(COALESCE(from_notes, ''))"
        rows = self._rows(
            f"SELECT to_commit AS `commit`, to_commit_date AS at, {sides},"
            f" IF(LEFT(to_notes, {noted}) = COALESCE(from_notes, ''), SUBSTRING(to_notes, {noted} + 1, 2000), '')"
            " AS noted FROM dolt_diff_issues WHERE to_id = %(id)s AND to_commit <> 'WORKING' ORDER BY to_commit_date",
            {"id": bead_id, "not_blank": _NOT_BLANK},
        )
        hashes = [row["commit"] for row in rows]
        authors = {
            row["commit_hash"]: row["author"]
            for row in (
                self._rows(
                    "SELECT commit_hash, author FROM dolt_log WHERE commit_hash IN %(hashes)s", {"hashes": hashes}
                )
                if hashes
                else ()
            )
        }
        return [{**row, "author": authors.get(row["commit"], "")} for row in rows]

    def audit(self, bead_id: str) -> list[dict[str, Any]]:
        """The bead's audit rows as they are now, oldest first: created_at (UTC, whole seconds), actor, and what was
        changed (500 characters at most)."""
        if not self._has_events():
            return []
        return self._rows(
            "SELECT created_at, actor, LEFT(CONCAT(event_type, ' ', COALESCE(new_value, '')), 500) AS what FROM events"
            " WHERE issue_id = %(id)s ORDER BY created_at",
            {"id": bead_id},
        )

    def commit(self, name: str) -> Commit | None:
        """A commit by its hash, the beginning of one, or a ref such as HEAD~3; None when there is none or several."""
        if re.fullmatch("[0-9a-v]{6,32}", name):
            found = self._commits("FROM dolt_log WHERE commit_hash LIKE %(name)s LIMIT 2", {"name": f"{name}%"})
            if found:
                return found[0] if len(found) == 1 else None
        try:
            full = self._rows("SELECT HASHOF(%(name)s) AS full_hash", {"name": name})[0]["full_hash"]
        except StoreError as exc:
            if isinstance(exc.__cause__, pymysql.Error) and exc.__cause__.args[0] not in _UNREACHABLE:
                return None  # what Dolt says of a ref that it does not know has many forms
            raise
        return next(iter(self._commits("FROM dolt_log WHERE commit_hash = %(full)s", {"full": full})), None)

    def commit_at(self, moment: datetime) -> Commit | None:
        """The newest commit that is not newer than a moment."""
        naive = moment.astimezone(UTC).replace(tzinfo=None)
        found = self._commits(
            "FROM dolt_log WHERE date <= %(moment)s ORDER BY date DESC, commit_order DESC LIMIT 1", {"moment": naive}
        )
        return found[0] if found else None

    def first_commit(self) -> Commit:
        """The commit with which the history begins."""
        return self._commits("FROM dolt_log ORDER BY date, commit_order LIMIT 1", {})[0]

    def commits_between(self, first: str, last: str) -> list[Commit]:
        """What leads from one commit to another, oldest first, without the first."""
        return self._commits("FROM dolt_log(%(range)s) ORDER BY date, commit_order", {"range": f"{first}..{last}"})

    def _commits(self, what: str, params: Mapping[str, Any]) -> list[Commit]:
        rows = self._rows(f"SELECT commit_hash, date, author, message {what}", params)
        return [
            Commit(row["commit_hash"], row["date"].replace(tzinfo=UTC), row["author"], row["message"]) for row in rows
        ]

    def tables_between(self, first: str, last: str) -> tuple[set[str], bool]:
        """The tables that differ between two commits, and whether a schema or a view does."""
        rows = self._rows("SELECT * FROM dolt_diff_summary(%(first)s, %(last)s)", {"first": first, "last": last})
        names = {row["to_table_name"] or row["from_table_name"] for row in rows}
        return names, "dolt_schemas" in names or any(row["schema_change"] for row in rows)

    def changes_between(self, first: str, last: str) -> list[dict[str, Any]]:
        """The beads that differ between two commits (or a commit and WORKING): id, title, and assignee, status and
        metadata before and after."""
        return self._rows(
            "SELECT COALESCE(to_id, from_id) AS id, COALESCE(to_title, from_title) AS title, from_assignee,"
            " from_status, from_metadata, to_assignee, to_status, to_metadata"
            " FROM dolt_diff(%(first)s, %(last)s, 'issues')",
            {"first": first, "last": last},
        )

    # --- what people ask ---------------------------------------------------------------------------------

    def examined(self, assignee: str, now: datetime, bead_id: str | None = None) -> list[Examined]:
        """What each gate says of one bead, or of all that are assigned to the sentinel and open, in their order."""
        which = "i.id = %(id)s" if bead_id is not None else f"{GATES['assignee']} AND {GATES['status']}"
        gates = ", ".join(f"{sql} AS gate_{name}" for name, sql in GATES.items())
        params = {**_gate_params(assignee, now), "id": bead_id}
        rows = self._rows(
            f"SELECT {_BEAD}, i.ephemeral, i.defer_until, COALESCE(JSON_TYPE(i.metadata), 'NULL') AS metadata_type,"
            f" {gates} FROM issues i WHERE {which} ORDER BY i.priority, i.updated_at, i.id",
            params,
        )
        if not rows:
            return []
        ready = {row["id"] for row in self._rows(f"SELECT i.id FROM {self._ready()} i WHERE {which}", params)}
        return [
            Examined(
                Bead.from_row(row),
                {**{name: bool(row[f"gate_{name}"]) for name in GATES}, "ready": row["id"] in ready},
                ephemeral=bool(row["ephemeral"]),
                deferred_until=row["defer_until"].replace(tzinfo=UTC) if row["defer_until"] else None,
                metadata_type=row["metadata_type"],
            )
            for row in rows
        ]

    def obstacles(self, bead_id: str) -> list[Obstacle]:
        """The beads that keep one from being ready."""
        return [
            Obstacle(
                row["id"],
                row["title"],
                row["status"],
                through=row["issue_id"],
                deferred_until=row["defer_until"].replace(tzinfo=UTC) if row["deferred"] else None,
            )
            for row, _ in self._holding([bead_id])
        ]

    def in_progress(self, assignee: str) -> list[tuple[Bead, Sign]]:
        """The beads at work for the sentinel, each with its last sign of life, the longest silent first."""
        rows = self._rows(
            f"SELECT {_BEAD} FROM issues i WHERE i.assignee = %(assignee)s AND i.status = 'in_progress'",
            {"assignee": assignee},
        )
        found = [(bead, self._last_sign(bead)) for bead in map(Bead.from_row, rows)]
        return sorted(
            ((replace(bead, last_progress=sign.at), sign) for bead, sign in found),
            key=lambda one: (one[1].at, one[0].id),
        )

    def _last_sign(self, bead: Bead) -> Sign:
        """The newest sign of life; of several in the same second the one that says who."""
        signs = [Sign(bead.updated_at, "the bead changed")]
        sources = [
            "SELECT created_at AS at, CONCAT('comment by ', author) AS what FROM comments WHERE issue_id = %(id)s"
        ]
        if self._has_events():
            sources.append(
                "SELECT created_at AS at, CONCAT('change by ', actor) AS what FROM events WHERE issue_id = %(id)s"
            )
        if self._columns().leases:
            sources.append(
                "SELECT heartbeat_at AS at, CONCAT('heartbeat by ', holder) AS what FROM leases"
                " WHERE issue_id = %(id)s AND heartbeat_at IS NOT NULL"
            )
        for source in sources:
            rows = self._rows(f"{source} ORDER BY at DESC LIMIT 1", {"id": bead.id})
            signs += [Sign(row["at"].replace(tzinfo=UTC), row["what"]) for row in rows]
        newest = max(sign.at for sign in signs)
        return [sign for sign in signs if sign.at == newest][-1]

    # --- the feed's own: position, mirrored switch -------------------------------------------------------

    def prepare_state(self) -> None:
        """Make the database `beads_dispatch` and its tables where they are missing.

        One row per bead database in each, so that several may share a server.
        """
        # Asked for only where it is missing: a user with rights on this database alone may not say CREATE DATABASE.
        name = {"name": STATE_DATABASE}
        if not self._rows("SELECT 1 FROM information_schema.schemata WHERE schema_name = %(name)s", name):
            self._rows(f"CREATE DATABASE IF NOT EXISTS {STATE_DATABASE}")
        for table in (
            "positions (feed VARCHAR(64) PRIMARY KEY, gtid_set LONGTEXT NOT NULL)",
            "seen (feed VARCHAR(64), bead VARCHAR(255), assignee VARCHAR(255) NOT NULL, status VARCHAR(64) NOT NULL,"
            " event VARCHAR(255) NOT NULL, PRIMARY KEY (feed, bead))",
            "switches (feed VARCHAR(64), name VARCHAR(16), suspended BOOLEAN NOT NULL, PRIMARY KEY (feed, name))",
            "holds (feed VARCHAR(64) PRIMARY KEY, failures INT NOT NULL, held_until DATETIME,"
            " reason VARCHAR(255) NOT NULL)",
        ):
            self._rows(f"CREATE TABLE IF NOT EXISTS {STATE_DATABASE}.{table}")

    def position(self) -> str | None:
        """The feed's stored position: the set of GTIDs that were read and told. None at first."""
        for row in self._state("SELECT gtid_set FROM {state}.positions WHERE feed = %(feed)s"):
            return str(row["gtid_set"])
        return None

    def start_position(self, gtid_set: str, origin: str) -> None:
        """Begin a feed: from `gtid_set` on, and every bead counts as seen as it is now, under the name `origin`."""
        params = {"feed": self._dolt.database, "set": gtid_set, "origin": origin}
        self._rows(f"DELETE FROM {STATE_DATABASE}.seen WHERE feed = %(feed)s", params)
        self._rows(
            f"INSERT INTO {STATE_DATABASE}.seen (feed, bead, assignee, status, event)"
            " SELECT %(feed)s, id, COALESCE(assignee, ''), status, %(origin)s FROM issues",
            params,
        )
        self._rows(f"REPLACE INTO {STATE_DATABASE}.positions (feed, gtid_set) VALUES (%(feed)s, %(set)s)", params)

    def set_position(
        self, gtid_set: str, seen: Mapping[str, Seen | None], replaces: Callable[[str], bool] = lambda stored: True
    ) -> None:
        """Store the feed's position, and how the beads that were told until then were seen last (None: deleted).

        Nothing is stored unless `replaces` agrees to the set that is there: where two feeders run, the one that is
        behind moves nothing back.
        """

        def write() -> None:
            with self._in_transaction() as cursor:
                self._set_position(cursor, gtid_set, seen, replaces)

        _until_done("the feed's position", write)

    def _set_position(
        self, cursor: DictCursor, gtid_set: str, seen: Mapping[str, Seen | None], replaces: Callable[[str], bool]
    ) -> None:
        feed, state = self._dolt.database, STATE_DATABASE
        cursor.execute(f"SELECT gtid_set FROM {state}.positions WHERE feed = %s", (feed,))
        stored = cursor.fetchone()
        if stored is not None and not replaces(stored["gtid_set"]):
            return
        cursor.executemany(
            f"REPLACE INTO {state}.seen (feed, bead, assignee, status, event) VALUES (%s, %s, %s, %s, %s)",
            [(feed, bead, found.assignee, found.status, found.event) for bead, found in seen.items() if found],
        )
        cursor.executemany(
            f"DELETE FROM {state}.seen WHERE feed = %s AND bead = %s",
            [(feed, bead) for bead, found in seen.items() if found is None],
        )
        cursor.execute(f"REPLACE INTO {state}.positions (feed, gtid_set) VALUES (%s, %s)", (feed, gtid_set))

    def unseen(self, limit: int) -> list[dict[str, Any]]:
        """At most `limit` beads that are not as they were seen last: by id, with `from_…` and `to_…` as dolt_diff has
        them (None on the side where there is no bead), and `event`, the id of what was told of it last."""
        params = {"feed": self._dolt.database, "limit": limit}
        rows = self._rows(
            "SELECT i.id AS bead, s.event, s.bead AS from_id, NULL AS from_title, NULL AS from_priority,"
            " s.assignee AS from_assignee, s.status AS from_status, i.id AS to_id, i.title AS to_title,"
            " i.priority AS to_priority, i.assignee AS to_assignee, i.status AS to_status"
            f" FROM issues i LEFT JOIN {STATE_DATABASE}.seen s ON s.feed = %(feed)s AND s.bead = i.id"
            " WHERE s.bead IS NULL OR s.assignee <> COALESCE(i.assignee, '') OR s.status <> i.status"
            " ORDER BY i.id LIMIT %(limit)s",
            params,
        )
        gone = self._rows(
            "SELECT s.bead, s.event, s.bead AS from_id, '' AS from_title, NULL AS from_priority,"
            " s.assignee AS from_assignee, s.status AS from_status, NULL AS to_id, NULL AS to_title,"
            " NULL AS to_priority, NULL AS to_assignee, NULL AS to_status"
            f" FROM {STATE_DATABASE}.seen s LEFT JOIN issues i ON i.id = s.bead"
            " WHERE s.feed = %(feed)s AND i.id IS NULL ORDER BY s.bead LIMIT %(limit)s",
            params,
        )
        return [*rows, *gone][:limit]

    def set_switch(self, name: str, suspended: bool) -> None:
        """Mirror the switch on a PingSource (`dispatch` or `reap`)."""
        self._rows(
            f"REPLACE INTO {STATE_DATABASE}.switches (feed, name, suspended)"
            " VALUES (%(feed)s, %(name)s, %(suspended)s)",
            {"feed": self._dolt.database, "name": name, "suspended": suspended},
        )

    def executed(self) -> str:
        """The set of GTIDs that the server has executed."""
        return str(self._rows("SELECT @@global.gtid_executed AS executed")[0]["executed"])

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


class Past(Store):
    """The beads as they were at a Dolt commit, with a clock of that time. Reads only: its database is a revision of
    bd's (`beads/<commit>`), in which Dolt refuses every write, and its transaction is read-only.

    What has no history is not in it: the hold, the mirrored switches, and what bd keeps out of its commits (events and
    heartbeats since bd 1.3.0; a setting of bd's config until something commits it).
    """

    def __init__(self, dolt: settings.Dolt, commit: str, moment: datetime) -> None:
        super().__init__(dolt)
        self._commit = commit
        self._moment = moment
        self._events: bool | None = None

    def move(self, commit: str, moment: datetime, *, same_schema: bool = False) -> None:
        """Go to another commit and moment, on the same connection. `same_schema`: bd's tables and views are as they
        were, so they need not be looked at again."""
        self._moment = moment
        if commit != self._commit:
            self._commit = commit
            if not same_schema:
                self._schema = self._events = None
            if self._connection is not None:
                self._rows(f"USE `{self._revision()}`")

    def has_beads(self) -> bool:
        """Whether bd's tables were there by then."""
        return {"issues", "ready_issues", "dependencies", "comments"} <= {
            name for row in self._rows("SHOW TABLES") for name in row.values()
        }

    def versioned(self) -> bool:
        """Whether all signs of life can be read: not since bd 1.3.0."""
        return self._has_events()

    def next_change(self, assignee: str, after: datetime, before: datetime) -> list[datetime]:
        """The moments between two others at which a bead's retry or deferral ends by itself."""
        rows = self._rows(
            "SELECT JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.retry_at')) AS retry_at, i.defer_until"
            " FROM issues i WHERE i.status = 'open' AND (i.assignee = %(assignee)s OR i.defer_until IS NOT NULL)",
            {"assignee": assignee},
        )
        found = {row["defer_until"].replace(tzinfo=UTC) for row in rows if row["defer_until"]}
        for row in rows:
            with contextlib.suppress(ValueError, TypeError):  # people may edit metadata
                found.add(datetime.fromisoformat(row["retry_at"]).astimezone(UTC))
        return sorted(moment for moment in found if after < moment < before)

    def _revision(self) -> str:
        if not re.fullmatch("[0-9a-v]{32}", self._commit):
            raise ValueError(f"{self._commit!r} is no Dolt commit")
        return f"{self._dolt.database}/{self._commit}"

    def _main(self) -> "pymysql.Connection[Any]":
        if self._connection is None:
            self._connection = connect(replace(self._dolt, database=self._revision()))
            with self._connection.cursor() as cursor:
                cursor.execute("START TRANSACTION READ ONLY")
        return self._connection

    def _ready(self) -> str:
        """bd's view as it was defined then, with the clock of then."""
        return f"({self._columns().view.replace('%', '%%').replace(_CLOCK, self._utc_now())})"

    def _utc_now(self) -> str:
        return f"'{_naive(self._moment):%Y-%m-%d %H:%M:%S}'"

    def _has_events(self) -> bool:
        if self._events is None:
            self._events = bool(self._rows("SHOW TABLES LIKE 'events'"))
        return self._events


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
