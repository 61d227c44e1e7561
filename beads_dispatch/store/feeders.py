"""The feeder of a feed: the lock that makes it the only one, and the row that says who it is and when it reported."""

import contextlib
import hashlib
import select
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from beads_dispatch.store.errors import StoreError
from beads_dispatch.store.session import STATE_DATABASE, Cursor, ReadSession

BEAT_SECONDS = 60.0  # between two reports; each makes Dolt's journal grow by 2 KB
# A feeder that has not reported for so long is away: five reports are missing.
AWAY = timedelta(minutes=5)
_PARAMS = {"away": int(AWAY.total_seconds())}

TABLE = (
    "feeders (feed VARCHAR(64) PRIMARY KEY, instance VARCHAR(36) NOT NULL, user VARCHAR(255) NOT NULL,"
    " host VARCHAR(255) NOT NULL, process INT NOT NULL, version VARCHAR(64) NOT NULL, beat_at DATETIME NOT NULL,"
    " resumed_at DATETIME, sink_accepts BOOLEAN NOT NULL, replica VARCHAR(36) NOT NULL)"
)

TICKS = "ticks (feed VARCHAR(64), name VARCHAR(16), seen_at DATETIME NOT NULL, PRIMARY KEY (feed, name))"

# The server's clock on both sides: what differs between the clocks of two hosts is no age.
_SILENT = "(TIMESTAMPDIFF(SECOND, beat_at, UTC_TIMESTAMP()) >= %(away)s AND COALESCE(resumed_at < beat_at, TRUE))"
# `resumed_at` first, because it needs the beat before this one.
_REPORT = (
    f"INSERT INTO {STATE_DATABASE}.feeders"
    " (feed, instance, user, host, process, version, beat_at, sink_accepts, replica) VALUES (%(feed)s, %(instance)s,"
    " %(user)s, %(host)s, %(process)s, %(version)s, UTC_TIMESTAMP(), %(sink_accepts)s, %(replica)s)"
    f" ON DUPLICATE KEY UPDATE resumed_at = IF({_SILENT}, UTC_TIMESTAMP(), resumed_at), instance = %(instance)s,"
    " user = %(user)s, host = %(host)s, process = %(process)s, version = %(version)s, beat_at = UTC_TIMESTAMP(),"
    " sink_accepts = %(sink_accepts)s"
)
_FIND = (
    "SELECT instance, user, host, process, version, sink_accepts, replica, resumed_at,"
    " TIMESTAMPDIFF(SECOND, beat_at, UTC_TIMESTAMP()) AS age, UTC_TIMESTAMP() AS present,"
    f" {_SILENT} AS silent FROM {STATE_DATABASE}.feeders WHERE feed = %(feed)s"
)
_RESUME = f"UPDATE {STATE_DATABASE}.feeders SET resumed_at = UTC_TIMESTAMP() WHERE feed = %(feed)s AND {_SILENT}"
_TICK = (
    f"REPLACE INTO {STATE_DATABASE}.ticks (feed, name, seen_at)"
    " VALUES (%(feed)s, %(name)s, UTC_TIMESTAMP() - INTERVAL %(seconds)s SECOND)"
)
_TICKS = (
    f"SELECT name, TIMESTAMPDIFF(SECOND, seen_at, UTC_TIMESTAMP()) AS age FROM {STATE_DATABASE}.ticks"
    " WHERE feed = %(feed)s"
)


@dataclass(frozen=True)
class Beat:
    """What a feeder reports of itself."""

    instance: str  # another one for each process
    user: str  # of the database
    host: str
    process: int
    version: str
    sink_accepts: bool  # the last event
    replica: str  # the id of this copy of the beads, unless it has one
    ticks: Mapping[str, float] = field(default_factory=dict)  # how many seconds ago each PingSource's last one came


@dataclass(frozen=True)
class FeederReport:
    """A beat as it was stored last."""

    beat: Beat
    age: timedelta  # of the report
    resumed_at: datetime | None  # the end of the last time in which none came; now while that time lasts

    @property
    def away(self) -> bool:
        """Whether no feeder has reported for so long that there is none."""
        return self.age >= AWAY

    @property
    def owner(self) -> str:
        """The feeder, in words."""
        one = self.beat
        return f"user {one.user}, process {one.process} on host {one.host}, version {one.version}"


class Feeders:
    """Reads of the feeder's row. Every method raises StoreError."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def find(self, feed: str = "") -> FeederReport | None:
        """The feed's feeder, or that of another feed, as it reported last; None where none ever did."""
        for row in self._session.state_rows(_FIND, {**_PARAMS, **({"feed": feed} if feed else {})}):
            beat = Beat(
                row["instance"], row["user"], row["host"], row["process"], row["version"], bool(row["sink_accepts"]),
                row["replica"],
            )  # fmt: skip
            resumed = row["present"] if row["silent"] else row["resumed_at"]
            return FeederReport(
                beat, timedelta(seconds=max(row["age"], 0)), resumed.replace(tzinfo=UTC) if resumed else None
            )
        return None

    def ticks(self) -> dict[str, timedelta]:
        """How long ago each PingSource's last tick came, as a feeder reported it."""
        rows = self._session.state_rows(_TICKS)
        return {row["name"]: timedelta(seconds=max(row["age"], 0)) for row in rows}

    def resume(self) -> None:
        """The time without reports, if there is one now, ends here: somebody reached Dolt. Without it the reaper would
        do nothing for as long as there is no feeder."""
        try:
            self._session.state_rows(_RESUME, _PARAMS)
        except StoreError as exc:
            if not exc.refused:
                raise

    def resumed_at(self) -> datetime | None:
        """When the last time ended in which no feeder reported, because Dolt was away or the feeder was: agents could
        not show activity then. None where that is unknown."""
        try:
            found = self.find()
        except StoreError as exc:
            if exc.refused:
                return None  # a user of before this table, whom users.sql has not granted it yet
            raise
        return found.resumed_at if found else None


def report(cursor: Cursor, feed: str, beat: Beat) -> None:
    """Store a beat, in an open transaction."""
    values = vars(beat).copy()
    ticks = values.pop("ticks")
    cursor.execute(_REPORT, {"feed": feed, **_PARAMS, **values})
    for name, seconds in ticks.items():
        cursor.execute(_TICK, {"feed": feed, "name": name, "seconds": int(seconds)})


class FeedLock(ReadSession):
    """A lock on a connection of its own: held until the connection ends, also by the end of the process or its host.

    Dolt 2.2.0 frees the lock 0.1 s after a SIGKILL of its holder; after the loss of its host once the server's TCP
    keep-alive notices, in two to three minutes. For one thread.
    """

    def take(self, databases: Collection[str] = ()) -> str | None:
        """Take it where it is free, and where several databases are served that of each: returns the feed that another
        feeder has, or None. Raises StoreError."""
        self.close()
        feeds = {self.dolt.feed, *(self.dolt.of(name).published_feed for name in databases)}
        for feed in sorted(feeds):
            if not self._lock(feed):
                self.close()
                return feed
        return None

    def add(self, database: str) -> bool:
        """Take the lock of one more database too; False where another feeder has it. Raises StoreError."""
        return self._lock(self.dolt.of(database).published_feed)

    def _lock(self, feed: str) -> bool:
        rows = self.rows("SELECT GET_LOCK(%(name)s, 0) AS taken", {"name": lock_name(feed)})
        return bool(rows[0]["taken"] == 1)

    def holds(self) -> bool:
        """Whether it is still held, asked of the server. Raises StoreError, and it is not held then."""
        if self._line.connection is None:
            return False
        name = {"name": lock_name(self.dolt.feed)}
        return bool(self.rows("SELECT IS_USED_LOCK(%(name)s) = CONNECTION_ID() AS mine", name)[0]["mine"])

    def is_quiet(self, seconds: float) -> bool:
        """Wait; whether the server has sent nothing in this time, and so has not ended the connection. No statement."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return not select.select([self._line.connection._sock], [], [], seconds)[0]  # type: ignore[union-attr]
        return False


def lock_name(feed: str) -> str:
    """A lock's name holds 64 characters."""
    return f"{STATE_DATABASE}.feed.{hashlib.sha256(feed.encode()).hexdigest()[:32]}"
