"""Connections to Dolt: time limits, TLS, and one connection for the sessions of several databases."""

import contextlib
import functools
import ssl
from typing import Any

import pymysql

from beads_dispatch import credentials, settings

STATEMENT_SECONDS = 30.0  # far above the slowest query (tens of ms); PyMySQL waits indefinitely without it
_CONNECT_SECONDS = 5

Connection = pymysql.Connection  # generic only for type checkers


class Line:
    """One connection to the server, for the statements of one session or of one session for each of its databases."""

    def __init__(self, dolt: settings.DoltSettings, statement_seconds: float, init_command: str | None = None) -> None:
        self._dolt = dolt
        self._seconds = statement_seconds
        self._init_command = init_command
        self._database = ""
        self.connection: Connection[Any] | None = None

    def to(self, database: str) -> "Connection[Any]":
        """The connection, at a database; at any where it is empty. Raises pymysql.Error, OSError."""
        if self.connection is None:
            seconds, first = self._seconds, min(_CONNECT_SECONDS, self._seconds)
            more = {"database": database or None, "init_command": self._init_command}
            self.connection = connect(self._dolt, read_timeout=seconds, connect_timeout=first, **more)
        elif database not in ("", self._database):
            self.connection.select_db(database)
        self._database = database or self._database
        return self.connection

    def refresh(self) -> None:
        """Drop the connection where it died."""
        if self.connection is not None:
            try:
                self.connection.ping(reconnect=False)
            except (pymysql.Error, OSError):
                self.close()

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self.connection is not None:
            with contextlib.suppress(pymysql.Error, OSError):
                self.connection.close()
        self.connection, self._database = None, ""


def two_lines(dolt: settings.DoltSettings, statement_seconds: float = STATEMENT_SECONDS) -> tuple[Line, Line]:
    """A Session's connections."""
    # Without these checks an UPDATE of a bead takes half the time (Dolt reads every table that refers to `issues`), and
    # they could find nothing: we change no key, and an event is only inserted for a bead that the same transaction has
    # changed, which conflicts with whoever deletes it.
    return Line(dolt, statement_seconds, "SET foreign_key_checks = 0"), Line(dolt, statement_seconds)


def connect(dolt: settings.DoltSettings, **more: Any) -> "Connection[Any]":
    """A connection with time limits: PyMySQL waits indefinitely without them. With a CA it is encrypted and verified.

    Raises pymysql.Error, OSError.
    """
    arguments: dict[str, Any] = {
        "host": dolt.host,
        "port": dolt.current_port(),
        "user": dolt.user,
        "password": dolt.current_password(),
        "database": dolt.database,
        "charset": "utf8mb4",
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": STATEMENT_SECONDS,
        "write_timeout": STATEMENT_SECONDS,
        # Not False: PyMySQL would believe it without telling Dolt. Transactions are begun explicitly.
        "autocommit": None,
        "defer_connect": True,
    }
    tls = {"ssl": _trusting(dolt.tls_ca_file).value()} if dolt.tls_ca_file else {"ssl_disabled": True}
    connection = pymysql.connect(**{**arguments, **tls, **more})
    if not dolt.tls_ca_file:
        # TLS where it is offered, as PyMySQL does by itself; but that loads the system's CAs for each connection (some
        # 25 ms) and then verifies nothing.
        vars(connection).update(ssl=True, ctx=_UNVERIFIED)
    connection.connect()
    return connection


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_UNVERIFIED = _unverified()
_trusting = functools.cache(credentials.ca_file)  # each file is read again for each connection
