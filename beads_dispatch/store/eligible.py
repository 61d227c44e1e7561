"""The queue: which beads are eligible, in which order, and what keeps one from being eligible. Reads only."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from beads_dispatch import notes, settings
from beads_dispatch.bead import Bead
from beads_dispatch.store import predicate
from beads_dispatch.store.predicate import BEAD, ORDER, RELATIONS, parameters
from beads_dispatch.store.records import Blocker, Diagnosis, Wisp
from beads_dispatch.store.relations import Relations
from beads_dispatch.store.session import Params, ReadSession, Rows, naive

_HEAD = 8  # beads read to find the first eligible one, and how many times more when none is
_CHUNK = 512  # beads whose relations are read at once
_COUNT_LIMIT = 100
_NOT_BEGUN = "i.status IN ('open', 'deferred')"
_LONGEST_RETRY_DELAY = timedelta(hours=1)  # longer than any that is written; a bead that changed before has none left

# In this order and with LIMIT 1 the index on defer_until answers, where the schema has one (bd 1.3.0).
_DEFER_DATES = "SELECT i.defer_until AS at FROM issues i WHERE i.defer_until > %(after)s AND i.status <> 'closed'"


class Probe(StrEnum):
    """Which beads are tried first while the agent fails."""

    FRESH = "ASC"  # with which it failed least
    FAILED = "DESC"


class Eligible:
    """Queries on the queue. Every method raises StoreError."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session
        self._relations = Relations(session)

    def first(
        self, assignee: str, now: datetime, limit: int | None, skip: Sequence[str] = (), *, probe: Probe | None = None
    ) -> list[Bead]:
        """The first `limit` eligible beads, or all, in the order in which they are dispatched, without those in `skip`.

        `probe`: in the order in which they are tried while the agent fails.
        """
        order = f"ORDER BY {', '.join((f'{predicate.OUTAGES} {probe}', *ORDER) if probe else ORDER)}"
        return [Bead.from_row(row) for row in self._rows(BEAD, assignee, now, limit, order=order, skip=skip)]

    def count(self, assignee: str, now: datetime, at_most: int = _COUNT_LIMIT, *, enough: int | None = None) -> int:
        """How many beads dispatch would take now, slots aside. No more than `at_most` are counted, so that a long queue
        costs no more than a short one; and where `enough` were found, others are not looked for."""
        return len(self._rows("i.id", assignee, now, at_most, enough=enough))

    def oldest(self, assignee: str, now: datetime) -> tuple[int, datetime | None]:
        """How many are eligible, 100 at most, and the oldest `updated_at` among them."""
        rows = self._rows("i.id, i.updated_at", assignee, now, _COUNT_LIMIT, order="ORDER BY i.updated_at")
        return len(rows), rows[0]["updated_at"].replace(tzinfo=UTC) if rows else None

    def count_assigned(self, assignee: str) -> int:
        """How many of the agent's beads are open or deferred, eligible or not."""
        sql = f"SELECT COUNT(*) AS n FROM issues i WHERE i.assignee = %(assignee)s AND {_NOT_BEGUN}"
        return int(self._session.rows(sql, {"assignee": assignee})[0]["n"])

    def diagnose(
        self, assignee: str, now: datetime, bead_id: str | None = None, *, after: int = 0, limit: int | None = None
    ) -> list[Diagnosis]:
        """Which conditions hold for one bead, or for the agent's that are open or deferred, in their order: `limit` of
        them, after so many. All of 10,000 take some seconds."""
        own = predicate.of_the_row(self._session.schema)
        names = dict.fromkeys([*own, *RELATIONS])
        order = f"ORDER BY {', '.join(ORDER)}"
        which = f"issues i WHERE {own['assignee']} AND {_NOT_BEGUN} {order}"
        if bead_id is not None:
            which = "issues i WHERE i.id = %(id)s"
        elif limit is not None:
            # Ids first, by columns alone: all conditions of a row are for the few that are returned.
            ids = f"SELECT i.id FROM {which} LIMIT %(limit)s OFFSET %(after)s"
            which = f"({ids}) h JOIN issues i ON i.id = h.id {order}"
        lock = ", i.row_lock" if self._session.schema.row_lock else ""
        rows = self._session.rows(
            f"SELECT {BEAD}{lock}, i.issue_type, i.defer_until, COALESCE(JSON_TYPE(i.metadata), 'NULL')"
            f" AS metadata_type, {predicate.HINTS}, {', '.join(f'{sql} AS holds_{name}' for name, sql in own.items())}"
            f" FROM {which}",
            {**parameters(assignee, now), "id": bead_id, "after": after, "limit": limit},
        )
        unmet = {bead: names for chunk in _chunks(rows) for bead, names in self._unmet(chunk, now).items()}
        return [
            Diagnosis(
                Bead.from_row(row),
                {name: bool(row.get(f"holds_{name}", name not in unmet[row["id"]])) for name in names},
                issue_type=row["issue_type"],
                deferred_until=row["defer_until"].replace(tzinfo=UTC) if row["defer_until"] else None,
                metadata_type=row["metadata_type"],
                hints={name: row[f"hint_{name}"] for name in settings.HINTS if row[f"hint_{name}"]},
            )
            for row in rows
        ]

    def blockers(self, found: Diagnosis, now: datetime) -> list[Blocker]:
        """The beads that keep one from being ready."""
        return self._relations.blockers(found.bead.id, now, epic=found.issue_type == "epic")

    def wisp(self, bead_id: str) -> Wisp | None:
        """A bead that bd keeps outside `issues`; None when it is not such a bead."""
        if not self._session.schema.wisps:
            return None
        rows = self._session.rows("SELECT title, ephemeral FROM wisps WHERE id = %(id)s", {"id": bead_id})
        movable = self._session.schema.is_blocked  # bd 1.0.2 has no command for it, and its `promote` loses the bead
        return Wisp(bead_id, rows[0]["title"], bool(rows[0]["ephemeral"]), movable) if rows else None

    def next_due(self, assignee: str, after: datetime) -> datetime | None:
        """The next moment after another at which a bead of the agent may become eligible by itself: its own defer date
        or a parent's, or its retry delay."""
        deferred = self._session.rows(f"{_DEFER_DATES} ORDER BY i.defer_until LIMIT 1", {"after": naive(after)})
        return min({*_moments(deferred), *self._retry_moments(assignee, after)}, default=None)

    def due_moments(self, assignee: str, after: datetime, before: datetime) -> list[datetime]:
        """All such moments between two others."""
        deferred = self._session.rows(_DEFER_DATES, {"after": naive(after)})
        found = {*_moments(deferred), *self._retry_moments(assignee, after)}
        return sorted(moment for moment in found if after < moment < before)

    def _retry_moments(self, assignee: str, after: datetime) -> set[datetime]:
        """When the agent's beads' retry delays end."""
        rows = self._session.rows(
            f"SELECT {predicate.RETRY_AT} AS at FROM issues i WHERE i.assignee = %(assignee)s AND i.status = 'open'"
            f" AND i.updated_at >= %(since)s AND {predicate.RETRY_AT} > %(now_text)s",
            {**parameters(assignee, after), "since": naive(after - _LONGEST_RETRY_DELAY)},
        )
        found = (notes.moment(row["at"]) for row in rows)
        return {moment for moment in found if moment is not None and moment > after}

    def _rows(
        self,
        columns: str,
        assignee: str,
        now: datetime,
        limit: int | None,
        *,
        order: str = "",
        skip: Sequence[str] = (),
        enough: int | None = None,
    ) -> Rows:
        """The first `limit` rows, or all, in that order, that meet all conditions, without those in `skip`; or
        `enough`."""
        found: Rows = []
        more = " AND i.id NOT IN %(skip)s" if skip else ""
        params = {**parameters(assignee, now), "skip": tuple(skip)}
        for chunk in self._candidates(columns, more, order, None if limit is None else max(limit, _HEAD), params):
            unmet = self._unmet(chunk, now)
            found += [row for row in chunk if not unmet[row["id"]]]
            if limit is not None and len(found) >= (enough or limit):
                break
        return found[:limit]

    def _candidates(self, columns: str, more: str, order: str, number: int | None, params: Params) -> Iterator[Rows]:
        """The rows that meet the conditions on themselves, in chunks: all, or `number` first, enough nearly always."""
        cheap, rest = predicate.cheap(self._session.schema)
        # Ids in order by columns alone, then the rows of a few: a row holds texts, and costs twice as much.
        read = self._head(columns, f"{cheap}{more}", order, number, params, passes=rest)
        seen = {row["id"] for row in read}
        yield from _chunks([row for row in read if row["passes"]])
        while number is not None and len(read) == number:
            number *= _HEAD
            read = self._head(columns, f"{cheap} AND {rest}{more}", order, number, params)
            yield from _chunks([row for row in read if row["id"] not in seen])
            seen = {row["id"] for row in read}

    def _head(
        self, columns: str, where: str, order: str, number: int | None, params: Params, *, passes: str = "TRUE"
    ) -> Rows:
        # No high number in place of none: Dolt takes memory for as many rows as LIMIT says (10**9: more than 20 GB).
        first = "" if number is None else "LIMIT %(number)s"
        return self._session.rows(
            f"SELECT {columns}, i.issue_type, ({passes}) AS passes FROM"
            f" (SELECT i.id FROM issues i WHERE {where} {order} {first}) h"
            f" JOIN issues i ON i.id = h.id {order}",
            {**params, "number": number},
        )

    def _unmet(self, rows: Sequence[dict[str, Any]], now: datetime) -> dict[str, set[str]]:
        epics = [row["id"] for row in rows if row["issue_type"] == "epic"]
        return self._relations.unmet([row["id"] for row in rows], epics, now)


def _moments(rows: Rows) -> set[datetime]:
    return {row["at"].replace(tzinfo=UTC) for row in rows}


def _chunks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
