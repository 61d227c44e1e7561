"""What is eligible beside what `bd ready` shows, and the differences that are meant."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from beads_dispatch.store import Store
from beads_dispatch.store.session import naive
from tools.database import AGENT, BeadsDatabase

# Conditions that bd knows nothing of: what they exclude is set aside.
OURS = frozenset({"assignee", "acceptance", "metadata", "retry"})
# Conditions that bd has as well. Each must decide alone about some bead, or a comparison shows nothing of it.
SHARED = ("status", "type", "pinned", "defer", "blocked", "parent")

_INACTIVE = ("closed", "pinned")
_ALL = 10**6


class Facts:
    """What is in the database, read anew by other SQL than the predicate's."""

    def __init__(self, database: BeadsDatabase) -> None:
        self.now = naive(datetime.now(UTC))
        self.rows: dict[str, dict[str, Any]] = {}
        for table in ("wisps", "issues"):  # an id that is in both is the bead in `issues`
            for row in database.sql(f"SELECT * FROM {table}"):
                self.rows[row["id"]] = {**row, "table": table}
        edges = [
            row for table in ("dependencies", "wisp_dependencies") for row in database.sql(f"SELECT * FROM {table}")
        ]
        self.parents: dict[str, set[str]] = {}
        for edge in edges:
            if edge["type"] == "parent-child":
                self.parents.setdefault(edge["issue_id"], set()).add(_target(edge))
        # bd's own list: what is blocked, and the children of it.
        self.blocked = {bead["id"] for bead in json.loads(database.workspace.run("blocked", "--json"))}

    def due(self, bead: str) -> bool:
        """A deferred bead whose date has passed."""
        row = self.rows[bead]
        return row["status"] == "deferred" and row["defer_until"] is not None and row["defer_until"] <= self.now

    def template(self, bead: str) -> bool:
        return bool(self.rows[bead]["is_template"])

    def open_children(self, bead: str) -> bool:
        """An epic one of whose children is neither closed nor pinned."""
        children = [child for child, parents in self.parents.items() if bead in parents and child in self.rows]
        return self.rows[bead]["issue_type"] == "epic" and any(
            self.rows[child]["status"] not in _INACTIVE for child in children
        )

    def far_ancestor_blocked(self, bead: str) -> bool:
        """A parent's parent, or one farther up, is blocked."""
        level = seen = self._parents({bead})
        while level := self._parents(level) - seen:
            if level & self.blocked:
                return True
            seen = seen | level
        return False

    def no_history(self, bead: str) -> bool:
        row = self.rows[bead]
        return row["table"] == "wisps" and not row["ephemeral"]

    def _parents(self, beads: Collection[str]) -> set[str]:
        return {parent for bead in beads for parent in self.parents.get(bead, ())}


def _target(edge: Mapping[str, Any]) -> str:
    columns = ("depends_on_id", "depends_on_issue_id", "depends_on_wisp_id", "depends_on_external")
    return str(next(edge[name] for name in columns if edge.get(name)))


@dataclass(frozen=True)
class Difference:
    """A difference that is meant: `rule` says for which beads."""

    name: str
    why: str
    rule: Callable[[Facts, str], bool]
    condition: str | None = None  # the condition of ours that excludes the bead
    versions: tuple[str, ...] = ("1.3.0", "1.0.2")


# We exclude what bd shows.
STRICTER = (
    Difference("template", "a template is a model for beads, not work", Facts.template, "template"),
    Difference("epic", "an epic is done by doing its children", Facts.open_children, "children"),
    Difference(
        "far ancestor",
        "bd 1.0.2 hides the children of a blocked bead only; bd 1.3.0 hides theirs too, and so do we on both",
        Facts.far_ancestor_blocked,
        "blocked",
        versions=("1.0.2",),
    ),
    Difference(
        "no history",
        "it is in the table `wisps`, which Dolt keeps out of its commits and so has no history to claim it with;"
        " `explain` says so",
        Facts.no_history,
        versions=("1.3.0",),
    ),
)
# We take what bd does not show.
LOOSER = (
    Difference("due", "bd on a server never opens a deferred bead whose date has passed; dispatch does", Facts.due),
)


@dataclass
class OracleResult:
    """What was found: figures, and what is wrong, each with its bead."""

    ready: int = 0
    met: Counter[str] = field(default_factory=Counter)  # differences that are meant
    alone: Counter[str] = field(default_factory=Counter)  # conditions that alone exclude a bead, which bd hides too
    unnamed: dict[str, str] = field(default_factory=dict)
    inconsistent: dict[str, str] = field(default_factory=dict)


def compare(version: str, database: BeadsDatabase, store: Store, watched: Collection[str]) -> OracleResult:
    """Ask us, ask bd, ask us again; then open what is due, as a person would, and ask all three again."""
    ours, found = _compare(version, database, store, watched)
    facts = Facts(database)
    due = sorted(bead for bead in watched if bead in ours and facts.due(bead))
    if due:
        database.workspace.run("undefer", *due, actor=AGENT)
        after, again = _compare(version, database, store, watched)
        found.unnamed |= again.unnamed
        found.inconsistent |= again.inconsistent
        for bead in set(watched) & (ours ^ after):
            found.inconsistent[bead] = (
                f"`bd undefer` of what was due changed whether it is eligible, to {bead in after}"
            )
    return found


def _compare(
    version: str, database: BeadsDatabase, store: Store, watched: Collection[str]
) -> tuple[set[str], OracleResult]:
    """Returns all beads that are eligible, and what is to be said of those that are watched."""
    found = OracleResult()
    now = datetime.now(UTC)
    ours = {bead.id for bead in store.eligible.first(AGENT, now, _ALL)}
    ready = {bead["id"] for bead in json.loads(database.workspace.run("ready", "--json", "--limit", "0"))}
    if changed := ours ^ {bead.id for bead in store.eligible.first(AGENT, datetime.now(UTC), _ALL)}:
        found.inconsistent.update(dict.fromkeys(changed, "`bd ready` changed whether it is eligible"))
    facts = Facts(database)
    found.ready = len(ready & set(watched))
    for bead in sorted(watched):
        if bead not in facts.rows:
            continue
        diagnosed = store.eligible.diagnose(AGENT, now, bead)
        unmet = {name for each in diagnosed for name, holds in each.conditions.items() if not holds}
        if bool(diagnosed and not unmet) != (bead in ours):
            found.inconsistent[bead] = f"{'' if bead in ours else 'not '}in the queue, but unmet are: {_words(unmet)}"
        eligible = bool(diagnosed) and not unmet - OURS
        if bead not in ready and len(unmet) == 1:
            found.alone.update(unmet)
        if eligible != (bead in ready):
            names = list(_names(version, facts, bead, unmet - OURS, eligible=eligible))
            found.met.update(name for name in names if name)
            if not all(names) or not names:
                found.unnamed[bead] = _describe(facts.rows[bead], unmet, eligible=eligible)
    return ours, found


def _names(version: str, facts: Facts, bead: str, unmet: set[str], *, eligible: bool) -> Iterator[str | None]:
    """The name of each thing that makes the difference; None where it has none."""
    conditions: list[str | None] = [*sorted(unmet)] or [None]
    for condition in conditions:
        table = LOOSER if eligible else STRICTER
        may = (each for each in table if each.condition == condition and version in each.versions)
        yield next((each.name for each in may if each.rule(facts, bead)), None)


def _describe(row: Mapping[str, Any], unmet: set[str], *, eligible: bool) -> str:
    known = ("status", "issue_type", "pinned", "ephemeral", "no_history", "defer_until", "is_blocked", "table")
    what = ", ".join(f"{name} {row[name]}" for name in known if row.get(name) not in (None, 0))
    who = "eligible, but not in bd ready" if eligible else f"in bd ready, but unmet are: {_words(unmet)}"
    return f"{who} ({what})"


def _words(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
