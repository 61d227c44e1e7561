"""What differs between bd's schemas (1.0.2 to 1.3.0)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# SHA-256 of the definitions of `ready_issues` (white space folded) that eligible.py can compute from the rows
# themselves: bd 1.0.2's and bd 1.3.0's. Any other view is queried for every bead, 10 ms on an empty database.
_KNOWN_VIEWS = frozenset(
    {
        "f42d75ecbfcdd04407ed818139f18cfb3747b2ba0ca3343f2a801035835a7990",
        "f6de4f6d8722111d84c6a07ac827c4c3884e2b1058b0155d326d15c9d8a2cde4",
    }
)


@dataclass(frozen=True)
class BdSchema:
    """Read once per connection."""

    row_lock: bool  # issues.row_lock must be rewritten (1.3.0)
    leases: bool  # a lease's heartbeat is activity (1.3.0)
    target: str  # the column of `dependencies` that names the other bead
    view: str  # what ready_issues selects
    known_view: bool  # it is one of _KNOWN_VIEWS
    notes_limit: int  # bytes that issues.notes can hold: TEXT in 1.0.2, LONGTEXT in 1.3.0


def read(rows: Callable[[str], Sequence[dict[str, Any]]]) -> BdSchema:
    """The schema of the database that `rows` queries."""
    columns = {row["Field"]: row["Type"].lower() for row in rows("SHOW COLUMNS FROM issues")}
    view = rows("SHOW CREATE VIEW ready_issues")[0]["Create View"]
    digest = hashlib.sha256(" ".join(view.split()).encode()).hexdigest()
    return BdSchema(
        view=view.partition(" AS ")[2],
        known_view=digest in _KNOWN_VIEWS,
        row_lock="row_lock" in columns,
        leases=bool(rows("SHOW TABLES LIKE 'leases'")),
        target="depends_on_issue_id" if "depends_on_issue_id" in view else "depends_on_id",  # 1.0.2: the second
        notes_limit=2**32 - 1 if columns["notes"] == "longtext" else 2**16 - 1,
    )
