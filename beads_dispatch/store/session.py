"""Connections to Dolt: statements, transactions, the write lock, and the one seam between PyMySQL's errors and ours.

Facts this package rests on, all measured on Dolt 2.2.0:

- Statements commit by themselves unless a transaction was begun explicitly; PyMySQL's
  `autocommit=False` changes nothing on Dolt.
- Transactions are merged cell by cell at COMMIT. Error 1213 comes only where both sides changed the same
  cell to different values, so a claim carries a token of its own, and is read back after the commit.
- DOLT_COMMIT ends the transaction, and begins one that only COMMIT ends: without it the session goes on reading
  what was there at its next statement, indefinitely.
- bd rewrites `issues.row_lock` (bd 1.3.0 and newer) with a random number in every write of status, assignee
  or started_at, so that two writers always conflict. We do the same where the column exists.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymysql
from pymysql.cursors import DictCursor

from beads_dispatch import settings
from beads_dispatch.store import schema
from beads_dispatch.store.connection import STATEMENT_SECONDS, Connection, Line, two_lines
from beads_dispatch.store.errors import ClaimLost, StoreError

STATE_DATABASE = "beads_dispatch"  # what is ours and no bead's

_LOCK_SECONDS = 10  # a write takes some 20 ms; after so long a writer goes on without the lock
# More than a pass waits for a freed slot; below STATEMENT_SECONDS, after which the connection is taken for dead.
_SLOT_LOCK_SECONDS = 20
_WRITE_TRIES = 8  # an agent that notes and closes at once conflicts with our record of its job

_CONFLICT = (1213, 1205)
_UNREACHABLE = (0, 1053, 2002, 2003, 2006, 2013)  # no connection, or one that has died
_NO_TLS = 2026  # PyMySQL's, before it sends the user's name
_NO_SUCH_STATE = (1049, 1146)  # unknown database, unknown table: the feeder has not run yet

T = TypeVar("T")
Rows = list[dict[str, Any]]
Params = Mapping[str, Any]
Cursor = DictCursor


class ReadSession:
    """One connection for statements. Not thread-safe, as PyMySQL's connections are not.

    Connects when first used. Every method raises StoreError when Dolt cannot be reached or refuses.
    """

    _schema_seconds = 5.0

    def __init__(
        self, dolt: settings.DoltSettings, statement_seconds: float = STATEMENT_SECONDS, line: Line | None = None
    ) -> None:
        """`line`: shared with the sessions of other databases."""
        self.dolt = dolt
        self._line = line or Line(dolt, statement_seconds)
        self._schema: schema.BdSchema | None = None
        self._schema_read_at = 0.0  # time.monotonic()

    def rows(self, sql: str, params: Params | None = None) -> Rows:
        """One statement, committed by itself; tried again when it conflicts with somebody else's."""

        def statement() -> Rows:
            with self._translated(), self._main().cursor(DictCursor) as cursor:
                cursor.execute(sql, params)
                return list(cursor.fetchall())

        return retry_on_conflict("a statement", statement)

    def state_rows(self, sql: str, params: Params | None = None) -> Rows:
        """A statement on our own database ({state} in the text); nothing where the feeder has not made it yet."""
        try:
            return self.rows(sql.format(state=STATE_DATABASE), {"feed": self.dolt.feed, **(params or {})})
        except StoreError as exc:
            if exc.code in _NO_SUCH_STATE:
                return []
            raise

    @property
    def schema(self) -> schema.BdSchema:
        """bd's schema, as it was a few seconds ago at most: bd may migrate it at any time."""
        if self._schema is None or time.monotonic() - self._schema_read_at > self._schema_seconds:
            self._schema, self._schema_read_at = schema.read(self.rows), time.monotonic()
        return self._schema

    def refresh(self) -> None:
        """Drop a connection that died since it was last used, so that a pass does not begin on it."""
        self._line.refresh()

    def close(self) -> None:
        """Close the connection; a later call connects again."""
        self._line.close()
        self._schema = None

    def _main(self) -> "Connection[Any]":
        return self._line.to(self.dolt.database)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except pymysql.Error as exc:
            code, text = (*exc.args, "", "")[:2]
            if code in _CONFLICT:
                raise ClaimLost(str(text)) from exc
            if code not in _NO_SUCH_STATE:
                # Dead, or of before a change: on Dolt a connection that was open before bd migrated its schema answers
                # error 1105 for as long as it lives.
                self.close()
            raise _store_error(self.dolt, code, text, timed_out=_is_timeout(exc)) from exc
        except OSError as exc:
            self.close()
            raise _store_error(self.dolt, 0, exc) from exc


class SecondConnection(ReadSession):
    """Another connection to the same database, whose schema is read once for both."""

    def __init__(self, first: ReadSession, statement_seconds: float, line: Line | None = None) -> None:
        super().__init__(first.dolt, statement_seconds, line)
        self._first = first

    @property
    def schema(self) -> schema.BdSchema:
        return self._first.schema


class Session(ReadSession):
    """A session that also writes: transactions, the write lock, and a second connection (`elsewhere`) to read back on,
    which sees what others see."""

    def __init__(
        self,
        dolt: settings.DoltSettings,
        statement_seconds: float = STATEMENT_SECONDS,
        lines: tuple[Line, Line] | None = None,
    ) -> None:
        """`lines`: the connection and the second one, shared with the sessions of other databases."""
        line, second = lines or two_lines(dolt, statement_seconds)
        super().__init__(dolt, statement_seconds, line)
        self.elsewhere = SecondConnection(self, statement_seconds, second)
        self._has_lock = False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[DictCursor]:
        """One transaction: committed at the end of the block, rolled back where it fails.

        Raises ClaimLost when another transaction changed the same cells first; nothing is left then.
        """
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
    def write_lock(self) -> Iterator[None]:
        """Wait, but not for long, until no other of our processes is writing; for several writes in a row, or one.

        Nothing depends on it: the transaction makes a claim exclusive. But Dolt merges transactions that overlap, which
        takes some 30 times as long as one alone, and with the lock a loser finds out within a millisecond.
        """
        if self._has_lock:
            yield
            return
        name = {"name": self._lock_name("write"), "seconds": _LOCK_SECONDS}
        self.rows("SELECT GET_LOCK(%(name)s, %(seconds)s)", name)
        self._has_lock = True
        try:
            yield
        finally:
            self._has_lock = False
            if self._line.connection is not None:  # the lock ends with its connection
                self.rows("SELECT RELEASE_LOCK(%(name)s)", name)

    @contextlib.contextmanager
    def slot_lock(self, agent: str) -> Iterator[bool]:
        """Wait until no other of our processes counts the slots of an agent; False when that takes too long."""
        name = {"name": self._lock_name("slots", agent), "seconds": _SLOT_LOCK_SECONDS}
        taken = self.rows("SELECT GET_LOCK(%(name)s, %(seconds)s) AS taken", name)[0]["taken"] == 1
        try:
            yield taken
        finally:
            if taken and self._line.connection is not None:  # the lock ends with its connection
                self.rows("SELECT RELEASE_LOCK(%(name)s)", name)

    def _lock_name(self, *what: str) -> str:
        """A lock's name holds 64 characters."""
        kind, *more = what
        where = self.dolt.database or self.dolt.feed
        digest = hashlib.sha256("\0".join((where, *more)).encode()).hexdigest()[:32]
        return f"{STATE_DATABASE}.{kind}.{digest}"

    def refresh(self) -> None:
        super().refresh()
        self.elsewhere.refresh()

    def close(self) -> None:
        super().close()
        self.elsewhere.close()


def retry_on_conflict(what: str, write: Callable[[], T]) -> T:
    """Call `write` until it conflicts with nobody. Raises StoreError after so many conflicts in a row."""
    for _ in range(_WRITE_TRIES):
        with contextlib.suppress(ClaimLost):
            return write()
    raise StoreError(f"{what}: {_WRITE_TRIES} conflicts with other writers in a row", refused=True)


def naive(moment: datetime) -> datetime:
    """As Dolt's DATETIME wants it: UTC without a zone, cut to whole seconds (Dolt would round up)."""
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def _is_timeout(exc: pymysql.Error) -> bool:
    """PyMySQL raises 2013 for it, as for a connection that was cut."""
    return isinstance(exc.__context__, TimeoutError)


def _store_error(dolt: settings.DoltSettings, code: object, text: object, *, timed_out: bool = False) -> StoreError:
    where = f"Dolt at {dolt.host}:{dolt.current_port()}, database {dolt.database}, user {dolt.user}"
    number = code if isinstance(code, int) else 0
    if code == _NO_TLS:
        return StoreError(
            f"DOLT_TLS_CA_FILE is set, and {where} offers no TLS. Put tls_cert and tls_key under listener in the"
            " server's config.yaml and restart it, or unset DOLT_TLS_CA_FILE.",
            number,
        )
    if code in _UNREACHABLE:
        return StoreError(f"cannot reach {where} ({text or code})", number, timed_out=timed_out)
    return StoreError(f"{where} refused a statement: error {code}: {text}", number, refused=True)
