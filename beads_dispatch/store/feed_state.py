"""The feed's own state in `beads_dispatch`: its position, and how each bead was published last."""

from collections.abc import Callable, Mapping

from beads_dispatch.store import feeders
from beads_dispatch.store.records import PublishedState
from beads_dispatch.store.session import STATE_DATABASE, Cursor, Rows, Session, retry_on_conflict

# `feed` is DoltSettings.feed: several databases may share a server, and several deployments a database.
_TABLES = (
    "positions (feed VARCHAR(64) PRIMARY KEY, gtid_set LONGTEXT NOT NULL)",
    "seen (feed VARCHAR(64), bead VARCHAR(255), assignee VARCHAR(255) NOT NULL, status VARCHAR(64) NOT NULL,"
    " event VARCHAR(255) NOT NULL, PRIMARY KEY (feed, bead))",
    "switches (feed VARCHAR(64), name VARCHAR(16), suspended BOOLEAN NOT NULL, PRIMARY KEY (feed, name))",
    "agent_holds (feed VARCHAR(64), agent VARCHAR(255), failures INT NOT NULL, held_until DATETIME,"
    " reason VARCHAR(255) NOT NULL, PRIMARY KEY (feed, agent))",
    feeders.TABLE,
)


class FeedState:
    """Reads and writes of the feeder. Every method raises StoreError."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._feed = session.dolt.feed

    def prepare(self) -> None:
        """Make the database `beads_dispatch` and its tables where they are missing."""
        # Looked for first: a user with rights on this database alone is refused CREATE DATABASE even where it exists.
        name = {"name": STATE_DATABASE}
        if not self._session.rows("SELECT 1 FROM information_schema.schemata WHERE schema_name = %(name)s", name):
            self._session.rows(f"CREATE DATABASE IF NOT EXISTS {STATE_DATABASE}")
        for table in _TABLES:
            self._session.rows(f"CREATE TABLE IF NOT EXISTS {STATE_DATABASE}.{table}")

    def position(self) -> str | None:
        """The stored position: the set of GTIDs that were published. None at first."""
        for row in self._session.state_rows("SELECT gtid_set FROM {state}.positions WHERE feed = %(feed)s"):
            return str(row["gtid_set"])
        return None

    def start_position(self, gtid_set: str, origin: str) -> None:
        """Begin a feed: from `gtid_set` on, and every bead counts as published as it is now, by the event `origin`."""
        params = {"feed": self._feed, "set": gtid_set, "origin": origin}
        self._session.rows(f"DELETE FROM {STATE_DATABASE}.seen WHERE feed = %(feed)s", params)
        self._session.rows(
            f"INSERT INTO {STATE_DATABASE}.seen (feed, bead, assignee, status, event)"
            " SELECT %(feed)s, id, COALESCE(assignee, ''), status, %(origin)s FROM issues",
            params,
        )
        self._session.rows(
            f"REPLACE INTO {STATE_DATABASE}.positions (feed, gtid_set) VALUES (%(feed)s, %(set)s)", params
        )

    def set_position(
        self,
        gtid_set: str,
        published: Mapping[str, PublishedState | None],
        replaces: Callable[[str], bool] = lambda stored: True,
        beat: feeders.Beat | None = None,
    ) -> None:
        """Store the position, and how the beads that were published until then were last (None: deleted). A `beat` goes
        with it for next to nothing: one transaction makes Dolt's journal grow by 2 KB, with it or without.

        Nothing is stored unless `replaces` agrees to the set that is there: where two feeders run, the one that is
        behind moves nothing back.
        """

        def write() -> None:
            with self._session.transaction() as cursor:
                self._set_position(cursor, gtid_set, published, replaces)
                if beat is not None:
                    feeders.report(cursor, self._feed, beat)

        retry_on_conflict("the feed's position", write)

    def report(self, beat: feeders.Beat) -> None:
        """Store a beat alone."""

        def write() -> None:
            with self._session.transaction() as cursor:
                feeders.report(cursor, self._feed, beat)

        retry_on_conflict("the feeder's report", write)

    def _set_position(
        self,
        cursor: Cursor,
        gtid_set: str,
        published: Mapping[str, PublishedState | None],
        replaces: Callable[[str], bool],
    ) -> None:
        feed, state = self._feed, STATE_DATABASE
        cursor.execute(f"SELECT gtid_set FROM {state}.positions WHERE feed = %s", (feed,))
        stored = cursor.fetchone()
        if stored is not None and not replaces(stored["gtid_set"]):
            return
        cursor.executemany(
            f"REPLACE INTO {state}.seen (feed, bead, assignee, status, event) VALUES (%s, %s, %s, %s, %s)",
            [(feed, bead, found.assignee, found.status, found.event) for bead, found in published.items() if found],
        )
        cursor.executemany(
            f"DELETE FROM {state}.seen WHERE feed = %s AND bead = %s",
            [(feed, bead) for bead, found in published.items() if found is None],
        )
        cursor.execute(f"REPLACE INTO {state}.positions (feed, gtid_set) VALUES (%s, %s)", (feed, gtid_set))

    def unpublished(self, limit: int) -> Rows:
        """At most `limit` beads that are not as they were published last: by id, with `from_…` and `to_…` as dolt_diff
        has them (None on the side where there is no bead), and `event`, the id of its last change event."""
        params = {"feed": self._feed, "limit": limit}
        changed = self._session.rows(
            "SELECT i.id AS bead, s.event, s.bead AS from_id, NULL AS from_title, NULL AS from_priority,"
            " s.assignee AS from_assignee, s.status AS from_status, i.id AS to_id, i.title AS to_title,"
            " i.priority AS to_priority, i.assignee AS to_assignee, i.status AS to_status"
            f" FROM issues i LEFT JOIN {STATE_DATABASE}.seen s ON s.feed = %(feed)s AND s.bead = i.id"
            " WHERE s.bead IS NULL OR s.assignee <> COALESCE(i.assignee, '') OR s.status <> i.status"
            " ORDER BY i.id LIMIT %(limit)s",
            params,
        )
        deleted = self._session.rows(
            "SELECT s.bead, s.event, s.bead AS from_id, '' AS from_title, NULL AS from_priority,"
            " s.assignee AS from_assignee, s.status AS from_status, NULL AS to_id, NULL AS to_title,"
            " NULL AS to_priority, NULL AS to_assignee, NULL AS to_status"
            f" FROM {STATE_DATABASE}.seen s LEFT JOIN issues i ON i.id = s.bead"
            " WHERE s.feed = %(feed)s AND i.id IS NULL ORDER BY s.bead LIMIT %(limit)s",
            params,
        )
        return [*changed, *deleted][:limit]

    def executed(self) -> str:
        """The set of GTIDs that the server has executed."""
        return str(self._session.rows("SELECT @@global.gtid_executed AS executed")[0]["executed"])

    def server_variables(self) -> dict[str, str]:
        """What the feeder's preflight checks: the server's version and its binlog settings."""
        names = ("log_bin", "gtid_mode", "enforce_gtid_consistency", "binlog_row_metadata")
        row = self._session.rows(
            "SELECT dolt_version() AS dolt_version, " + ", ".join(f"@@global.{name} AS {name}" for name in names)
        )[0]
        return {name: str(value) for name, value in row.items()}
