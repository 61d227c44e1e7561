"""Reads Dolt's binlog. The only importer of pymysqlreplication.

Measured on Dolt 1.88.1 and 2.2.0:

- Only reading by GTID set works, blocking, and never with an empty set.
- Error 1236 comes without a gap too, when others write while we connect, and as long as Dolt writes a large
  transaction: only a repeated one is a gap.
- mysql-replication reconnects by itself from the position it was first given, and reads everything again. So it may
  open one stream here; a second is refused, and the caller decides.
- A heartbeat comes every 30 s, whatever interval is requested.
- Dolt numbers tables anew in every transaction, so the library's own filters (only_tables, only_schemas) must
  not be used: a row of a table that was filtered out would be decoded as one of another table.
- dolt_reset --hard, dolt_checkout of a table, dolt_revert, dolt_merge and dolt_pull are transactions like any other. A
  restored backup, and DROP DATABASE, show as DDL; what the restored database holds does not show.
"""

import contextlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import GtidEvent, HeartbeatLogEvent, QueryEvent, XidEvent
from pymysqlreplication.gtid import Gtid, GtidSet
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from beads_dispatch import settings, store
from beads_dispatch.gtid import count_missing
from feeder import rows
from feeder.changes import COLUMNS, RowChange, Transaction
from feeder.packet import BrokenEvent, EventPacket, ServerError

STALL_SECONDS = 65  # a little over two heartbeats: a connection without either is dead

MOST_ROWS = 100_000  # of one transaction are kept; a larger one is given without its rows
LARGE_BYTES = 1_000_000  # an event of so many bytes makes its transaction a large one

_EMPTY = "00000000-0000-0000-0000-000000000001:1"  # stands for the empty GTID set, which Dolt refuses
_READ_ERROR = 1236  # the position is not in the log, or the false alarm above


class StreamLost(Exception):
    """The stream ended or could not be opened; it can be opened again later."""


class PositionRefused(StreamLost):
    """Error 1236. A gap when it comes again and again, a false alarm otherwise."""

    def is_being_written(self, executed: str) -> bool:
        """Whether only the newest of the transactions that the server has `executed` is missing: Dolt counts one before
        it writes it to its log, which takes seconds for a large one."""
        found = re.search(r"missing transactions are '([-\w]+):(\d+)'", str(self))
        return found is not None and count_missing(f"{found[1]}:{int(found[2]) + 1}", executed) == 1


class Heartbeat:
    """The server is alive and has had nothing to send."""


@dataclass(frozen=True)
class LargeTransaction:
    """A transaction is about to be read that may need much memory; the transaction follows."""

    gtid: str


class Position:
    """A GTID set: the transactions that were read."""

    def __init__(self, text: str) -> None:
        self._set = GtidSet("" if text == _EMPTY else text)

    def add(self, gtid: str) -> None:
        if Gtid(gtid) not in self._set:
            self._set.merge_gtid(Gtid(gtid))

    def covers(self, text: str) -> bool:
        """Whether everything in the GTID set `text` has been read."""
        return text == _EMPTY or self.behind(text) == 0

    def within(self, text: str) -> bool:
        """Whether nothing has been read that is not in the GTID set `text`."""
        return count_missing(str(self), text) == 0

    def behind(self, text: str) -> int:
        """How many transactions of the GTID set `text` have not been read."""
        return count_missing(text, str(self))

    def has(self, gtid: str) -> bool:
        """Whether this transaction has been read."""
        return Gtid(gtid) in self._set

    def without_holes(self) -> str:
        """What to read on from: of each server, the transactions before the first that has not been read.

        Dolt may write a large transaction to its log after one that it counted later. It refuses a set with such a
        hole, as if its log had been purged. What is behind the hole comes again then.
        """
        return ",".join(
            f"{gtid.sid}:{first}-{end - 1}" for gtid in self._set.gtids for first, end in gtid.intervals[:1]
        )

    @property
    def last(self) -> int:
        """The newest transaction's number; 0 when none was read."""
        return max((end - 1 for gtid in self._set.gtids for _, end in gtid.intervals), default=0)

    def __str__(self) -> str:
        return str(self._set)


class Stream:
    """One connection to the binlog, from a position on. Close it from any thread to end it.

    `columns`: which columns are kept, by table; rows of other tables are passed over. A transaction with more than
    `most_rows` rows of these tables is given without them.
    """

    def __init__(
        self,
        dolt: settings.DoltSettings,
        position: Position,
        columns: Mapping[str, tuple[str, ...]] = COLUMNS,
        most_rows: int = MOST_ROWS,
        serves: Callable[[str], bool] | None = None,
    ) -> None:
        """`serves`: whose rows are kept, besides those of our own state; by default the database's."""
        self._dolt = dolt
        self._columns = columns
        self._most_rows = most_rows
        self._serves = serves or dolt.database.__eq__
        self.gtid = ""  # of the transaction that is being read
        self._opened: list[Any] = []
        self._closed = False
        self._packet: EventPacket | None = None
        self._reader = BinLogStreamReader(
            connection_settings={"charset": "utf8mb4"},  # the rest is _connect's
            pymysql_wrapper=self._connect,
            server_id=secrets.randbelow(2**31) + 1,  # unique, or the server ends the other's stream
            auto_position=position.without_holes() or _EMPTY,
            resume_stream=True,
            blocking=True,
            only_events=[
                GtidEvent, QueryEvent, XidEvent, HeartbeatLogEvent, WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent
            ],
            ignore_decode_errors=True,  # a text that is not UTF-8 must not stop the feed
            enable_logging=False,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Transaction | LargeTransaction | Heartbeat]:
        """Whole transactions, in order, and heartbeats. Raises StreamLost; never ends otherwise."""
        with self._translated():
            self._open()
            yield from self._items()
            raise StreamLost("the server ended the stream")

    def close(self) -> None:
        """End the stream, whichever thread reads it, even while it is being opened."""
        self._closed = True
        for connection in self._opened:
            with contextlib.suppress(Exception):
                # close() alone does not wake a thread that waits in recv().
                connection._sock.shutdown(2)
            with contextlib.suppress(Exception):
                connection._force_close()

    def _items(self) -> Iterator[Transaction | LargeTransaction | Heartbeat]:
        database, whole = "", True
        kept: list[RowChange] = []
        for event in self._reader:
            if isinstance(event, HeartbeatLogEvent):
                yield Heartbeat()
            elif isinstance(event, GtidEvent):
                self.gtid, kept, whole = event.gtid, [], True
            elif isinstance(event, QueryEvent):
                database = _text(event.schema)
                if _text(event.query) != "BEGIN":  # DDL is a transaction of its own, without an end event
                    yield Transaction(self.gtid, database, ddl=True)
            elif isinstance(event, XidEvent):
                yield Transaction(self.gtid, database, tuple(kept), whole=whole)
            elif whole and event.table in self._columns and self._keeps(event.schema):
                database = event.schema  # what BEGIN names is the session's
                if event.event_size > LARGE_BYTES:
                    yield LargeTransaction(self.gtid)
                kept.extend(itertools.islice(self._rows(event), self._most_rows - len(kept) + 1))
                if len(kept) > self._most_rows:
                    kept, whole = [], False

    def _keeps(self, database: str) -> bool:
        return database == store.STATE_DATABASE or self._serves(database)

    def _rows(self, event: Any) -> Iterator[RowChange]:
        assert self._packet is not None
        try:
            for before, after in rows.decode(event, self._packet, self._columns[event.table]):
                yield RowChange(event.table, before, after)
        except Exception:
            self._finish_event()  # raises what is to blame where the event is broken
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (pymysql.Error, ServerError) as exc:
            code, text = (*exc.args, "", "")[:2]
            if code == _READ_ERROR:
                raise PositionRefused(str(text)) from exc
            raise StreamLost(f"error {code}: {text}") from exc
        except (OSError, BrokenEvent) as exc:
            raise StreamLost(str(exc)) from exc
        except (ValueError, AttributeError) as exc:
            if not self._closed:
                raise  # a row that cannot be decoded
            raise StreamLost("closed by another thread") from exc

    def _open(self) -> None:
        """Connect. From then on the library gets its packets from here; by itself it would hold an event whole."""
        self._reader._BinLogStreamReader__connect_to_stream()
        self._opened[0]._read_packet = self._next_event

    def _next_event(self) -> EventPacket:
        self._finish_event()
        self._packet = EventPacket(self._opened[0])
        return self._packet

    def _finish_event(self) -> None:
        packet, self._packet = self._packet, None
        if packet is not None:
            packet.finish()

    def _connect(self, **arguments: Any) -> Any:
        """The stream's connection and its control connection; a third would be the library reconnecting."""
        if len(self._opened) == 2:
            raise StreamLost("the connection was lost")
        database = arguments.pop("db", None)  # PyMySQL warns about this old name
        # Both: EventPacket reads with the limit of whatever was done last, and that was to write the request.
        limits = {"read_timeout": STALL_SECONDS, "write_timeout": STALL_SECONDS}
        connection = store.connect(self._dolt, **arguments, database=database, **limits)
        self._opened.append(connection)
        if self._closed:
            self.close()
            raise StreamLost("closed")
        return connection


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
