"""What becomes of beads, as metrics, read from the transactions of dispatch and reap: each has an audit row (bd's table
`events`) with its note, beside the bead's own row. So the functions, whose pods end before a scrape, need none.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from beads_dispatch import notes, store
from beads_dispatch.bead import Status
from feeder import metrics
from feeder.changes import RowChange, Transaction, actors_of

_BY_NOTE = {
    notes.CLAIMED: "claims",
    notes.DISPATCHED: "dispatched",
    notes.DISPATCH_FAILED: "refused",
    notes.outcome_unknown(""): "unknown",
}
_POSTED = ("dispatched", "refused", "unknown")
_MOST_BEADS = 10_000  # that are assigned and not sent yet: of more, the oldest are not measured


@dataclass(frozen=True)
class BeadOutcome:
    """What dispatch or reap did with a bead."""

    what: str  # claims, dispatched, refused, unknown, reaped or blocked
    bead: str
    assignee: str


def outcomes_in(transaction: Transaction) -> Iterator[BeadOutcome]:
    """What dispatch or reap did in a transaction, in no order; one write may be two: reaped and blocked. Pure."""
    rows = {row.after["id"]: row for row in transaction.rows if row.table == "issues" and row.after}
    for audit in transaction.rows:
        written = audit.after if audit.table == "events" and audit.before is None else None
        if written is None or written["actor"] not in store.OURS or written["issue_id"] not in rows:
            continue
        for what in _kinds(written["actor"], written["comment"] or "", rows[written["issue_id"]]):
            after = rows[written["issue_id"]].after or {}
            yield BeadOutcome(what, after["id"], after["assignee"] or "")


def _kinds(actor: str, note: str, row: RowChange) -> Iterator[str]:
    yield from (what for beginning, what in _BY_NOTE.items() if note.startswith(beginning))
    was, now = (row.before or {}).get("status"), (row.after or {}).get("status")
    if was != now:
        if actor == store.REAPER:
            yield "reaped"
        if now == Status.BLOCKED:
            yield "blocked"


class AgentLabels:
    """The values of the label `agent`: the configured agents, and "other". What people write must not become series."""

    def __init__(self, agents: Collection[str]) -> None:
        self._agents = frozenset(agents)

    def __getitem__(self, assignee: str) -> str:
        return assignee if assignee in self._agents else metrics.OTHER

    def __contains__(self, assignee: object) -> bool:
        return assignee in self._agents


class OutcomeCounter:
    """Counts outcomes, for the change feed, which misses no transaction."""

    def __init__(self, agents: Collection[str]) -> None:
        self._labels = AgentLabels(agents)
        for agent in (*agents, metrics.OTHER):  # from 0 on, or the first would not be an increase
            for counter in metrics.OUTCOMES.values():
                counter.labels(agent)

    def look(self, transaction: Transaction) -> None:
        """Count what is in a transaction."""
        for found in outcomes_in(transaction):
            metrics.OUTCOMES[found.what].labels(self._labels[found.assignee]).inc()


class AssignToPost:
    """Measures the seconds from an assignment to its first POST, for the request feed, which no sink delays.

    Both moments are when the feeder read them: the binlog has no time of a transaction. The POST follows the claim
    within milliseconds, so the claim's moment counts, once a record shows that it was sent.
    """

    def __init__(self, agents: Collection[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._labels = AgentLabels(agents)
        self._clock = clock
        self._assigned: dict[tuple[str, str], float] = {}  # when, by database and bead, the oldest first
        self._claimed: dict[tuple[str, str], float] = {}
        for agent in (*agents, metrics.OTHER):
            metrics.ASSIGN_TO_POST.labels(agent)

    def look(self, transaction: Transaction) -> None:
        """Take note of what is in a transaction."""
        now, actors, database = self._clock(), actors_of(transaction.rows), transaction.database
        for row in transaction.rows:
            if row.table == "issues" and self._is_assignment(row, actors.get((row.after or {}).get("id", ""), "")):
                self._begin((database, (row.after or {})["id"]), now)
        for found in outcomes_in(transaction):
            bead = database, found.bead
            if found.what == "claims" and bead in self._assigned:
                self._claimed[bead] = now
            elif found.what in _POSTED and bead in self._claimed:
                seconds = self._claimed.pop(bead) - self._assigned.pop(bead)
                metrics.ASSIGN_TO_POST.labels(self._labels[found.assignee]).observe(seconds)

    def _is_assignment(self, row: RowChange, actor: str) -> bool:
        """Whether somebody else than us gave an agent a bead, or opened it again for it."""
        before, after = ((side or {}) for side in (row.before, row.after))
        return (
            actor not in store.OURS
            and after.get("assignee") in self._labels
            and after.get("status") == Status.OPEN
            and any(before.get(name) != after.get(name) for name in ("assignee", "status"))
        )

    def _begin(self, bead: tuple[str, str], now: float) -> None:
        for known in (self._assigned, self._claimed):
            known.pop(bead, None)
        self._assigned[bead] = now
        if len(self._assigned) > _MOST_BEADS:
            oldest = next(iter(self._assigned))
            for known in (self._assigned, self._claimed):
                known.pop(oldest, None)
