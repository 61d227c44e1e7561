"""What differs between bd's schemas (1.0.2 to 1.3.0)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Edges:
    """Where dependencies of one kind are: from a bead of `source` to a bead of `target`."""

    table: str
    source: str  # the table of the bead that depends
    target: str  # the table of the bead that it depends on
    column: str  # the column of `table` that names the latter


@dataclass(frozen=True)
class BdSchema:
    """What a database has; see ReadSession.schema."""

    row_lock: bool  # issues.row_lock must be rewritten (1.3.0)
    is_blocked: bool  # issues.is_blocked holds bd's own answer (1.3.0)
    leases: bool  # a lease's heartbeat is activity (1.3.0)
    events: bool  # the audit rows can be read; not in a commit of 1.3.0
    wisps: bool  # beads without history have a table of their own
    edges: tuple[Edges, ...]  # beads' own first; in 1.3.0 those from and to wisps too
    notes_limit: int  # bytes that issues.notes can hold: TEXT in 1.0.2, LONGTEXT in 1.3.0

    @property
    def own_edges(self) -> list[Edges]:
        """Those from beads in `issues`: each kind costs a millisecond for every bead that is looked at."""
        return [edge for edge in self.edges if edge.source == "issues"]


def read(rows: Callable[[str], Sequence[dict[str, Any]]]) -> BdSchema:
    """The schema of the database that `rows` queries."""
    columns = {row["Field"]: row["Type"].lower() for row in rows("SHOW COLUMNS FROM issues")}
    tables = {str(name) for row in rows("SHOW TABLES") for name in row.values()}
    split = any(row["Field"] == "depends_on_issue_id" for row in rows("SHOW COLUMNS FROM dependencies"))
    edges = [Edges("dependencies", "issues", "issues", "depends_on_issue_id" if split else "depends_on_id")]
    if split and {"wisps", "wisp_dependencies"} <= tables:  # for 1.0.2 a wisp blocks nothing
        edges += [
            Edges("dependencies", "issues", "wisps", "depends_on_wisp_id"),
            Edges("wisp_dependencies", "wisps", "issues", "depends_on_issue_id"),
            Edges("wisp_dependencies", "wisps", "wisps", "depends_on_wisp_id"),
        ]
    return BdSchema(
        row_lock="row_lock" in columns,
        is_blocked="is_blocked" in columns,
        leases="leases" in tables,
        events="events" in tables,
        wisps="wisps" in tables,
        edges=tuple(edges),
        notes_limit=2**32 - 1 if columns["notes"] == "longtext" else 2**16 - 1,
    )
