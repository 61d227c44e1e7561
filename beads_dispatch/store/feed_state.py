"""The feed's own state in `beads_dispatch`: its position, and how each bead was published last."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from beads_dispatch.store import feeders, layout
from beads_dispatch.store.errors import StoreError
from beads_dispatch.store.records import Hold, PublishedState
from beads_dispatch.store.session import STATE_DATABASE, Cursor, Rows, Session, naive, retry_on_conflict
from beads_dispatch.suspension import Suspension

PAGE = 10_000  # beads that one statement compares or copies; it takes 0.1 s


Published = Mapping[tuple[str, str], PublishedState | None]  # by database and bead; None: deleted


@dataclass(frozen=True)
class Deaths:
    """How many feeders died at a position without an advance, and the large transaction that they had begun to read."""

    gtid_set: str
    large: str = ""  # its GTID
    number: int = 0


class FeedState:
    """Reads and writes of the feeder. Every method raises StoreError."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._feed, self._published = session.dolt.feed, session.dolt.published_feed

    def prepare(self) -> bool:
        """Make the database `beads_dispatch` and its tables where they are missing. Whether the position and the
        published states can be there: they cannot where one of their tables was missing."""
        # Looked for first: a user with rights on this database alone is refused CREATE DATABASE even where it exists.
        name = {"name": STATE_DATABASE}
        if not self._session.rows("SELECT 1 FROM information_schema.schemata WHERE schema_name = %(name)s", name):
            self._create_database()
        tables = self._session.rows(f"SHOW TABLES FROM {STATE_DATABASE}")
        found = frozenset(str(name) for row in tables for name in row.values())
        layout.prepare(self._session, found)
        return {"positions", "seen"} <= found

    def layout(self) -> layout.StateLayout | None:
        """The version of the tables; None where none is stored."""
        return layout.read(self._session)

    def _create_database(self) -> None:
        try:
            self._session.rows(f"CREATE DATABASE IF NOT EXISTS {STATE_DATABASE}")
        except StoreError as exc:
            if not exc.refused:
                raise
            # Dolt allows it to those only who may create any database.
            fix = f"the database {STATE_DATABASE} is missing; run as an administrator: CREATE DATABASE {STATE_DATABASE}"
            raise StoreError(f"{fix} ({exc})", exc.code, refused=True) from exc

    def position(self) -> str | None:
        """The stored position: the set of GTIDs that were published. None at first."""
        for row in self._session.state_rows("SELECT gtid_set FROM {state}.positions WHERE feed = %(feed)s"):
            return str(row["gtid_set"])
        return None

    def has_begun(self) -> bool:
        """Whether `begin` was called for the database, by a feeder of this one alone or of several."""
        sql = "SELECT 1 FROM {state}.positions WHERE feed = %(published)s"
        return bool(self._session.state_rows(sql, {"published": self._published}))

    def begin(self, gtid_set: str, origin: str, progress: Callable[[int], object] = lambda beads: None) -> None:
        """Every bead of the database counts as published as it is now, by the event `origin`.

        Page by page; `progress` is called with the number of beads after each.
        """
        after, number = "", 0
        while True:
            end = self._page_end(after)
            params = {"feed": self._published, "after": after, "end": end, "origin": origin}
            with self._session.transaction() as cursor:
                cursor.execute(
                    f"DELETE FROM {STATE_DATABASE}.seen WHERE feed = %(feed)s AND {_within('bead', end)}", params
                )
                number += cursor.execute(
                    f"INSERT INTO {STATE_DATABASE}.seen (feed, bead, assignee, status, event)"
                    " SELECT %(feed)s, id, COALESCE(assignee, ''), status, %(origin)s FROM issues"
                    f" WHERE {_within('id', end)}",
                    params,
                )
            progress(number)
            if end is None:
                break
            after = end
        self._start_at(self._published, gtid_set)

    def start_position(self, gtid_set: str) -> None:
        """The feed goes on from `gtid_set`."""
        self._start_at(self._feed, gtid_set)

    def _start_at(self, feed: str, gtid_set: str) -> None:
        sql = f"REPLACE INTO {STATE_DATABASE}.positions (feed, gtid_set) VALUES (%(feed)s, %(set)s)"
        self._session.rows(sql, {"feed": feed, "set": gtid_set})

    def set_position(
        self,
        gtid_set: str,
        published: Published,
        replaces: Callable[[str], bool] = lambda stored: True,
        beat: feeders.Beat | None = None,
    ) -> None:
        """Store the position, and how the beads that were published until then were last. A `beat` goes with it for
        next to nothing: one transaction makes Dolt's journal grow by 2 KB, with it or without.

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
        published: Published,
        replaces: Callable[[str], bool],
    ) -> None:
        feed, state, of = self._feed, STATE_DATABASE, self._session.dolt.of
        cursor.execute(f"SELECT gtid_set FROM {state}.positions WHERE feed = %s", (feed,))
        stored = cursor.fetchone()
        if stored is not None and not replaces(stored["gtid_set"]):
            return
        cursor.executemany(
            f"REPLACE INTO {state}.seen (feed, bead, assignee, status, event) VALUES (%s, %s, %s, %s, %s)",
            [
                (of(database).published_feed, bead, found.assignee, found.status, found.event)
                for (database, bead), found in published.items()
                if found
            ],
        )
        cursor.executemany(
            f"DELETE FROM {state}.seen WHERE feed = %s AND bead = %s",
            [(of(database).published_feed, bead) for (database, bead), found in published.items() if found is None],
        )
        cursor.execute(f"REPLACE INTO {state}.positions (feed, gtid_set) VALUES (%s, %s)", (feed, gtid_set))

    def unpublished(self, after: str) -> tuple[Rows, str | None]:
        """Compare a page of beads, those with the next ids after `after`: the beads that are not as they were published
        last, and the page's last id, None when there are no more.

        A row has `bead`, `from_…` and `to_…` as dolt_diff has them (None on the side where there is no bead), and
        `event`, the id of the bead's last change event.
        """
        end = self._page_end(after)
        params = {"feed": self._published, "after": after, "end": end}
        # Without the hints Dolt merges the two tables from the page on to their ends.
        changed = self._session.rows(
            "SELECT /*+ LOOKUP_JOIN(i,s) */ i.id AS bead, s.event,"
            " s.bead AS from_id, NULL AS from_title, NULL AS from_priority,"
            " s.assignee AS from_assignee, s.status AS from_status, i.id AS to_id, i.title AS to_title,"
            " i.priority AS to_priority, i.assignee AS to_assignee, i.status AS to_status"
            f" FROM issues i LEFT JOIN {STATE_DATABASE}.seen s ON s.feed = %(feed)s AND s.bead = i.id"
            " WHERE (s.bead IS NULL OR s.assignee <> COALESCE(i.assignee, '') OR s.status <> i.status)"
            f" AND {_within('i.id', end)} ORDER BY i.id",
            params,
        )
        deleted = self._session.rows(
            "SELECT /*+ LOOKUP_JOIN(s,i) */ s.bead, s.event,"
            " s.bead AS from_id, '' AS from_title, NULL AS from_priority,"
            " s.assignee AS from_assignee, s.status AS from_status, NULL AS to_id, NULL AS to_title,"
            " NULL AS to_priority, NULL AS to_assignee, NULL AS to_status"
            f" FROM {STATE_DATABASE}.seen s LEFT JOIN issues i ON i.id = s.bead"
            f" WHERE s.feed = %(feed)s AND i.id IS NULL AND {_within('s.bead', end)} ORDER BY s.bead",
            params,
        )
        return [*changed, *deleted], end

    def _page_end(self, after: str) -> str | None:
        """The last id of a page of beads, published ones that are deleted among them; None for the last page."""
        params = {"feed": self._published, "after": after, "offset": PAGE - 1}
        ends = [
            *self._session.rows(
                "SELECT id FROM issues WHERE id > %(after)s ORDER BY id LIMIT 1 OFFSET %(offset)s", params
            ),
            *self._session.rows(
                f"SELECT bead AS id FROM {STATE_DATABASE}.seen WHERE feed = %(feed)s AND bead > %(after)s"
                " ORDER BY feed, bead LIMIT 1 OFFSET %(offset)s",  # by the whole key: else all that follow are sorted
                params,
            ),
        ]
        return min((str(row["id"]) for row in ends), default=None)

    def deaths(self) -> Deaths | None:
        """What `set_deaths` stored last; None after `forget_deaths`."""
        for row in self._session.state_rows("SELECT gtid_set, large, number FROM {state}.deaths WHERE feed = %(feed)s"):
            return Deaths(row["gtid_set"], row["large"], row["number"])
        return None

    def set_deaths(self, deaths: Deaths) -> None:
        """Store at which position a feeder reads, and how many have died there."""
        params = {"feed": self._feed, **vars(deaths)}
        self._session.rows(
            f"REPLACE INTO {STATE_DATABASE}.deaths (feed, gtid_set, large, number)"
            " VALUES (%(feed)s, %(gtid_set)s, %(large)s, %(number)s)",
            params,
        )

    def forget_deaths(self) -> None:
        """The feeder ends as it should."""
        self._session.state_rows("DELETE FROM {state}.deaths WHERE feed = %(feed)s")

    def suspended_since(self, found: Suspension, now: datetime) -> dict[str, datetime]:
        """Since when dispatch and reap are suspended, those that are: the first moment at which they were so here.

        Stored, because no place that suspends has a moment, and no process lives as long as a suspension may last.
        """
        return self._since("suspended", {name for name, reason in vars(found).items() if reason is not None}, now)

    def held_since(self, holds: Mapping[str, Hold], now: datetime) -> dict[str, datetime]:
        """As suspended_since, for the agents that have failed since they took a bead last."""
        return self._since("held", {agent for agent, hold in holds.items() if hold.failures}, now)

    def _since(self, table: str, present: Collection[str], now: datetime) -> dict[str, datetime]:
        """Store `now` for the names that are new, forget those that are gone; returns the moment of each."""
        where = f"{{state}}.{table} WHERE feed = %(feed)s"
        rows = self._session.state_rows(f"SELECT name, since FROM {where}")
        known = {str(row["name"]): row["since"].replace(tzinfo=UTC) for row in rows}
        insert = f"INSERT IGNORE INTO {{state}}.{table} VALUES (%(feed)s, %(name)s, %(now)s)"
        for name in set(present) - known.keys():
            self._session.state_rows(insert, {"name": name, "now": naive(now)})
        for name in known.keys() - set(present):
            self._session.state_rows(f"DELETE FROM {where} AND name = %(name)s", {"name": name})
        return {name: known.get(name, now) for name in present}

    def executed(self) -> str:
        """The set of GTIDs that the server has executed."""
        return str(self._session.rows("SELECT @@global.gtid_executed AS executed")[0]["executed"])


def _within(column: str, end: str | None) -> str:
    """The condition of a page, on its parameters."""
    return f"{column} > %(after)s" + ("" if end is None else f" AND {column} <= %(end)s")
