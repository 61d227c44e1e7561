"""What other beads have to do with one: blockers, deferred parents, open children. Reads only.

bd 1.3.0 keeps in `issues.is_blocked` whether a bead is blocked; older versions compute it at each `bd ready`, and so do
we, as bd 1.3.0 would: by every type of dependency that blocks, through the bead's ancestors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from beads_dispatch.store.records import CHILD, DEFERRED_PARENT, Blocker
from beads_dispatch.store.schema import Edges
from beads_dispatch.store.session import ReadSession, Rows, naive

_INACTIVE = ("closed", "pinned")  # a bead of these statuses blocks nothing
_BLOCKING = ("blocks", "conditional-blocks")
_OTHER = "{0}.title, {0}.status, {0}.issue_type, {0}.await_type, {0}.defer_until"


class Relations:
    """Queries for a few beads at a time. Every method raises StoreError."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def unmet(self, beads: Sequence[str], epics: Sequence[str], now: datetime) -> dict[str, set[str]]:
        """Of each bead the conditions of RELATIONS that do not hold; `blocked` only where bd has no column for it.

        `epics`: those among the beads that are epics.
        """
        found: dict[str, set[str]] = {bead: set() for bead in beads}
        edges = self._depends_on(beads, self._session.schema.own_edges)
        for row in _deferred(edges, now):
            found[row["issue_id"]].add("parent")
        for row in self._children(epics):
            if _active(row):
                found[row["parent"]].add("children")
        if not self._session.schema.is_blocked:
            for _, below in self._blocking(beads, edges):
                for bead in below:
                    found[bead].add("blocked")
        return found

    def blockers(self, bead: str, now: datetime, *, epic: bool = False) -> list[Blocker]:
        """The beads that keep one from being ready."""
        edges = self._depends_on([bead], self._session.schema.own_edges)
        found = [_blocker(row, DEFERRED_PARENT) for row in _deferred(edges, now)]
        found += [_blocker(row, row["type"]) for row, _ in self._blocking([bead], edges)]
        if epic:
            found += [_blocker({**row, "issue_id": bead}, CHILD) for row in self._children([bead]) if _active(row)]
        return sorted(found, key=lambda one: (one.how, one.bead))

    def _blocking(self, beads: Sequence[str], edges: Rows) -> Iterator[tuple[Mapping[str, Any], set[str]]]:
        """What blocks these beads or an ancestor of one: the other bead, and which of these it blocks. `edges`: what
        they depend on."""
        level = {bead: {bead} for bead in beads}  # a bead to read -> the beads in question that it stands for
        seen = {bead: {bead} for bead in beads}
        while level:
            waits_for = [row for row in edges if row["type"] == "waits-for"]
            for row in [*(row for row in edges if row["type"] in _BLOCKING and _active(row)), *self._waited(waits_for)]:
                yield row, level[row["issue_id"]]
            above: dict[str, set[str]] = {}
            for row in edges:
                # An ancestor that is closed is blocked by nothing, and passes nothing on.
                if row["type"] == "parent-child" and _active(row):
                    new = level[row["issue_id"]] - seen.setdefault(row["id"], set())
                    if new:
                        above.setdefault(row["id"], set()).update(new)
                        seen[row["id"]] |= new
            level, edges = above, self._depends_on(list(above), self._session.schema.edges)

    def _waited(self, edges: Rows) -> Iterator[Mapping[str, Any]]:
        """What a dependency of type waits-for waits for: the other bead's open children, all of them or any; in a
        molecule the other bead as well."""
        children: dict[str, Rows] = {}
        for child in self._children([row["id"] for row in edges]):
            children.setdefault(child["parent"], []).append(child)
        for row in edges:
            if row["also_blocks"] == "true" and _active(row):
                yield row
            found = children.get(row["id"], [])
            if row["gate"] == "any-children" and any(child["status"] == "closed" for child in found):
                continue
            for child in found:
                if _active(child):
                    yield {**child, "issue_id": row["issue_id"], "type": "waits-for", "via": row["id"]}

    def _depends_on(self, beads: Sequence[str], kinds: Iterable[Edges]) -> Rows:
        """What beads depend on: issue_id, type, gate and also_blocks (of waits-for), and the other bead; of one that is
        in no table that is read, a wisp for bd 1.0.2, only its id: its children may be in one."""
        of_waits_for = ", ".join(
            f"JSON_UNQUOTE(JSON_EXTRACT(d.metadata, '$.{name}')) AS {name}" for name in ("gate", "also_blocks")
        )
        # d.type in WHERE would have Dolt read all dependencies of that type.
        rows = self._of_edges(
            f"SELECT d.issue_id, d.type, {of_waits_for}, d.{{edge.column}} AS id, {_OTHER.format('b')}"
            " FROM {edge.table} d LEFT JOIN {edge.target} b ON b.id = d.{edge.column} WHERE d.issue_id IN %(beads)s",
            beads,
            kinds,
        )
        return [row for row in rows if row["id"]]

    def _children(self, parents: Sequence[str]) -> Rows:
        """The children of beads: `parent`, and the child."""
        rows = self._of_edges(
            f"SELECT d.{{edge.column}} AS parent, d.type, c.id, {_OTHER.format('c')} FROM {{edge.table}} d"
            " JOIN {edge.source} c ON c.id = d.issue_id WHERE d.{edge.column} IN %(beads)s",
            parents,
            self._session.schema.edges,
        )
        return [row for row in rows if row["type"] == "parent-child"]

    def _of_edges(self, sql: str, beads: Sequence[str], kinds: Iterable[Edges]) -> Rows:
        """One query over the tables that hold dependencies of these kinds."""
        union = " UNION ALL ".join(sql.format(edge=edge) for edge in kinds)
        return self._session.rows(union, {"beads": tuple(beads)}) if beads else []


def _active(row: Mapping[str, Any]) -> bool:
    return row["status"] not in (*_INACTIVE, None)  # None: not in a table that is read


def _deferred(edges: Rows, now: datetime) -> Rows:
    """The parents among these that are deferred."""
    moment = naive(now)
    return [row for row in edges if row["type"] == "parent-child" and (row["defer_until"] or moment) > moment]


def _blocker(row: Mapping[str, Any], how: str) -> Blocker:
    return Blocker(
        bead=row["id"],
        title=row["title"],
        status=row["status"],
        how=how,
        through=row["issue_id"],
        via=row.get("via"),
        gate=(row["await_type"] or "gate") if row["issue_type"] == "gate" else None,
        deferred_until=row["defer_until"].replace(tzinfo=UTC) if row["defer_until"] else None,
    )
