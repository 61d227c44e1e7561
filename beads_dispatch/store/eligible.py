"""The predicate: which beads are eligible, in which order, and what keeps one from being eligible. Reads only."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from beads_dispatch import notes
from beads_dispatch.bead import Bead
from beads_dispatch.store.records import Blocker, Diagnosis
from beads_dispatch.store.session import CLOCK, Params, ReadSession, Rows, naive

# What ECMAScript's trim() removes: BeadBoard refuses acceptance criteria that are blank after it. Spelled out,
# because \s means less in Dolt's pure-Go regular expressions than in its ICU ones.
NOT_BLANK = (
    "[^\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff]"
)

# The predicate, written once: each condition has a name and holds on a row `i` of `issues`. A bead is eligible when
# all hold and it is in the view `ready_issues` (not blocked, not deferred, not ephemeral), which hides what
# differs between bd's schemas.
CONDITIONS: Mapping[str, str] = {
    "assignee": "i.assignee = %(assignee)s",
    "status": "i.status = 'open'",
    "acceptance": "i.acceptance_criteria REGEXP %(not_blank)s",
    "template": "COALESCE(i.is_template, 0) = 0",
    # A token has to be stored under metadata.dispatch; metadata that is a list or a text is a person's, and stays.
    "metadata": "COALESCE(JSON_TYPE(i.metadata), 'NULL') IN ('OBJECT', 'NULL')",
    "retry": "COALESCE(JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.retry_at')), '') <= %(now_text)s",
}

ORDER = ("i.priority", "i.updated_at", "i.id")
BEAD = "i.id, i.title, i.priority, i.status, i.assignee, i.updated_at, i.metadata"  # columns for Bead.from_row

_CHEAP = ("assignee", "status", "template")  # conditions on columns; the others read texts and JSON
_CANDIDATES = 8  # beads read to find the first that is ready, and how many times more when none is
_COUNT_LIMIT = 100
_DEPTH = 50  # as many ancestors bd's view follows

# What the view asks of the row itself, the status aside, which is a condition too.
_READY_ALONE = "COALESCE(i.ephemeral, 0) = 0 AND (i.defer_until IS NULL OR i.defer_until <= UTC_TIMESTAMP())"
_OUTAGES = "COALESCE(CAST(JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.outages')) AS SIGNED), 0)"


def all_of(*names: str) -> str:
    """SQL for the conditions of these names."""
    return " AND ".join(CONDITIONS[name] for name in names)


def parameters(assignee: str, now: datetime) -> dict[str, Any]:
    """The values that CONDITIONS refer to."""
    return {"assignee": assignee, "not_blank": NOT_BLANK, "now": naive(now), "now_text": notes.timestamp(now)}


class Eligible:
    """Queries on the queue. Every method raises StoreError."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def first(
        self, assignee: str, now: datetime, limit: int, skip: Sequence[str] = (), *, probe: bool = False
    ) -> list[Bead]:
        """The first `limit` eligible beads in the order in which they are dispatched, without those in `skip`.

        `probe`: those with which the agent failed least come first.
        """
        params = {**parameters(assignee, now), "skip": tuple(skip)}
        order = f"ORDER BY {', '.join((_OUTAGES, *ORDER) if probe else ORDER)}"
        skipped = " AND i.id NOT IN %(skip)s" if skip else ""
        return [Bead.from_row(row) for row in self._rows(BEAD, skipped, order, limit, params)]

    def count(self, assignee: str, now: datetime, at_most: int = _COUNT_LIMIT, *, enough: int | None = None) -> int:
        """How many beads dispatch would take now, slots aside. No more than `at_most` are counted, so that a long queue
        costs no more than a short one; and where `enough` were found, others are not looked for."""
        return len(self._rows("i.id", "", "", at_most, parameters(assignee, now), enough=enough))

    def oldest(self, assignee: str, now: datetime) -> tuple[int, datetime | None]:
        """How many are eligible, 100 at most, and the oldest `updated_at` among them."""
        order = "ORDER BY i.updated_at"
        rows = self._rows("i.id, i.updated_at", "", order, _COUNT_LIMIT, parameters(assignee, now))
        return len(rows), rows[0]["updated_at"].replace(tzinfo=UTC) if rows else None

    def diagnose(self, assignee: str, now: datetime, bead_id: str | None = None) -> list[Diagnosis]:
        """Which conditions hold for one bead, or for all that are assigned to the agent and open, in their order."""
        which = "i.id = %(id)s" if bead_id is not None else all_of("assignee", "status")
        conditions = ", ".join(f"{sql} AS holds_{name}" for name, sql in CONDITIONS.items())
        params = {**parameters(assignee, now), "id": bead_id}
        rows = self._session.rows(
            f"SELECT {BEAD}, i.ephemeral, i.defer_until, COALESCE(JSON_TYPE(i.metadata), 'NULL') AS metadata_type,"
            f" {conditions} FROM issues i WHERE {which} ORDER BY {', '.join(ORDER)}",
            params,
        )
        if not rows:
            return []
        ready = {
            row["id"]
            for row in self._session.rows(f"SELECT i.id FROM {self._session.ready_view} i WHERE {which}", params)
        }
        return [
            Diagnosis(
                Bead.from_row(row),
                {**{name: bool(row[f"holds_{name}"]) for name in CONDITIONS}, "ready": row["id"] in ready},
                ephemeral=bool(row["ephemeral"]),
                deferred_until=row["defer_until"].replace(tzinfo=UTC) if row["defer_until"] else None,
                metadata_type=row["metadata_type"],
            )
            for row in rows
        ]

    def blockers(self, bead_id: str) -> list[Blocker]:
        """The beads that keep one from being ready."""
        return [
            Blocker(
                row["id"],
                row["title"],
                row["status"],
                through=row["issue_id"],
                deferred_until=row["defer_until"].replace(tzinfo=UTC) if row["deferred"] else None,
            )
            for row, _ in self._blocking([bead_id])
        ]

    def due_moments(self, assignee: str, after: datetime, before: datetime) -> list[datetime]:
        """The moments between two others at which a bead's retry delay or deferral ends by itself."""
        rows = self._session.rows(
            "SELECT JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.retry_at')) AS retry_at, i.defer_until"
            " FROM issues i WHERE i.status = 'open' AND (i.assignee = %(assignee)s OR i.defer_until IS NOT NULL)",
            {"assignee": assignee},
        )
        found = {row["defer_until"].replace(tzinfo=UTC) for row in rows if row["defer_until"]}
        for row in rows:
            with contextlib.suppress(ValueError, TypeError):  # people may edit metadata
                found.add(datetime.fromisoformat(row["retry_at"]).astimezone(UTC))
        return sorted(moment for moment in found if after < moment < before)

    def _rows(
        self, columns: str, more: str, order: str, limit: int, params: Params, *, enough: int | None = None
    ) -> Rows:
        """The first `limit` rows, in that order, that pass the whole predicate and `more`; or `enough` of them.

        bd's view computes every dependency there is before it looks at a bead. So where its definition is one of those
        we know, only the beads at the head of the queue are read, and what they depend on: a few at first, and more
        where too few of these are ready.
        """
        everything = all_of(*CONDITIONS)
        if not self._session.schema.known_view:
            return self._session.rows(
                f"SELECT {columns} FROM {self._session.ready_view} i WHERE {everything}{more} {order} LIMIT %(limit)s",
                {**params, "limit": limit},
            )
        # Columns first, texts and JSON of those at the head only: half the time where the queue is ten thousand long.
        first, then = all_of(*_CHEAP), all_of(*(name for name in CONDITIONS if name not in _CHEAP))
        ready_alone = _READY_ALONE.replace(CLOCK, self._session.utc_now)
        number = max(limit, _CANDIDATES)
        while True:
            # Ids in order, then the rows of a few: a row holds texts, and costs twice as much as its columns.
            rows = self._session.rows(
                f"SELECT {columns}, ({then}) AS passes FROM (SELECT i.id FROM issues i"
                f" WHERE {first} AND {ready_alone}{more} {order} LIMIT %(number)s) h"
                f" JOIN issues i ON i.id = h.id {order}",
                {**params, "number": number},
            )
            found = [row for row in rows if row["passes"]]
            blocked = {bead for _, beads in self._blocking([row["id"] for row in found]) for bead in beads}
            ready = [row for row in found if row["id"] not in blocked]
            if len(ready) >= (enough or limit) or len(rows) < number:
                return ready[:limit]
            first, then, number = everything, "TRUE", number * _CANDIDATES

    def _blocking(self, beads: Sequence[str]) -> Iterator[tuple[dict[str, Any], set[str]]]:
        """The other beads that keep these from being ready, as bd's view reads the dependencies: what blocks one or an
        ancestor of it, and a deferred parent. Rows of `_depends_on`, each with the beads it keeps from being ready."""
        level = {bead: {bead} for bead in beads}  # a bead to read -> the beads in question that it stands for
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

    def _depends_on(self, beads: Sequence[str]) -> Rows:
        """What beads depend on: `issue_id`, and of the other bead id, title, status, defer_until, how (`type`), and
        whether it `blocks` now, and whether it is a parent that is `deferred` now."""
        return self._session.rows(
            "SELECT d.issue_id, d.type, b.id, b.title, b.status, b.defer_until,"
            " d.type = 'blocks' AND b.status NOT IN ('closed', 'pinned') AS blocks,"
            f" d.type = 'parent-child' AND COALESCE(b.defer_until > {self._session.utc_now}, FALSE) AS deferred"
            f" FROM dependencies d JOIN issues b ON b.id = d.{self._session.schema.target}"
            " WHERE d.issue_id IN %(beads)s ORDER BY b.id",  # d.type here would have Dolt read all of that type
            {"beads": tuple(beads)},
        )
