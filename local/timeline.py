"""What happened to each bead and when, from Dolt's history and the feed; milliseconds between the steps."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from beads import events, settings, store

STEPS = ("assigned", "event", "claimed", "dispatched", "closed")


@dataclass(frozen=True)
class Step:
    """One thing that happened to a bead."""

    what: str
    at: datetime


def steps_in(history: Iterable[Mapping[str, Any]], assignee: str) -> list[Step]:
    """The steps in a bead's history, oldest first. Pure."""
    found = []
    for version in history:
        what = _step(version, assignee)
        if what:
            found.append(Step(what, version["at"].replace(tzinfo=UTC)))
    return found


def _step(version: Mapping[str, Any], assignee: str) -> str | None:
    before, after = _record(version["from_metadata"]), _record(version["to_metadata"])
    was, now = version["from_status"], version["to_status"]
    if after.get("job") and after.get("job") != before.get("job"):
        return "dispatched"
    if after.get("claim") and after.get("claim") != before.get("claim"):
        return "claimed"
    if now != was and now == "closed":
        return "closed"
    if now != was and now == "blocked":
        return "blocked"
    if now == "open" and was == "in_progress":
        return "given back"
    if now == "open" and version["to_assignee"] == assignee and version["from_assignee"] != assignee:
        return "assigned"
    return None


def _record(metadata: Any) -> dict[str, Any]:
    found = json.loads(metadata) if isinstance(metadata, str | bytes) else metadata
    record = found.get("dispatch") if isinstance(found, dict) else None
    return record if isinstance(record, dict) else {}


class Timeline:
    """Follows the events that pass the router and prints each step of each bead once.

    Commit dates are Dolt's, the event's is the router's; both clocks are this machine's. `dispatched` is the moment
    of the POST when the agent service tells it (`posts_are_told`), otherwise that of the note that records its answer.
    """

    def __init__(
        self, dolt: settings.Dolt, assignee: str, show: Callable[[str], None], *, posts_are_told: bool = False
    ) -> None:
        self._store = store.Store(dolt)
        self._assignee = assignee
        self._show = show
        self._posts_are_told = posts_are_told
        self._lock = threading.Lock()
        self._seen: dict[str, list[Step]] = {}
        self._titles: dict[str, str] = {}

    def observe(self, event: events.Event) -> None:
        """Take note of an event that the router received."""
        if event.type != events.ISSUE_CHANGED or not event.subject:
            return
        now = datetime.now(UTC)
        with self._lock:
            self._titles[event.subject] = (event.data or {}).get("title", "")
            waits = event.extensions.get("assignee") == self._assignee
            if waits or event.subject in self._seen:
                self._read(event.subject)
            if waits and event.extensions.get("status") == "open":
                self._add(event.subject, Step("event", now))

    def posted(self, bead_id: str) -> None:
        """Take note that the agent service received a bead."""
        step = Step("dispatched", datetime.now(UTC))
        with self._lock:
            self._read(bead_id)
            self._add(bead_id, step)

    def refresh(self, bead_id: str) -> list[Step]:
        """Read a bead's history again; returns its steps so far, in order of time."""
        with self._lock:
            self._read(bead_id)
            return sorted(self._seen.get(bead_id, []), key=lambda step: step.at)

    def _read(self, bead_id: str) -> None:
        for step in steps_in(self._store.history(bead_id), self._assignee):
            if not (self._posts_are_told and step.what == "dispatched"):
                self._add(bead_id, step)

    def _add(self, bead_id: str, step: Step) -> None:
        steps = self._seen.setdefault(bead_id, [])
        if step in steps:
            return
        earlier = [other.at for other in steps if other.at <= step.at]
        since = f"+{(step.at - max(earlier)).total_seconds() * 1000:.0f} ms" if earlier else ""
        steps.append(step)
        self._show(
            f"{step.at:%H:%M:%S.%f}"[:-3]
            + f"  {bead_id:<14} {step.what:<11} {since:>10}  {self._titles.get(bead_id, '')[:40]}"
        )


def table(rows: Mapping[str, list[Step]]) -> str:
    """Beads by steps: the first column is a moment, the others are milliseconds since the step before."""
    lines = ["bead            " + "".join(f"{step:>14}" for step in STEPS)]
    for bead, steps in rows.items():
        first: dict[str, datetime] = {}
        for step in steps:
            first.setdefault(step.what, step.at)
        cells, before = "", None
        for name in STEPS:
            at = first.get(name)
            cell = (
                "-"
                if at is None
                else f"{at:%H:%M:%S.%f}"[:-3]
                if before is None
                else f"+{(at - before).total_seconds() * 1000:.0f} ms"
            )
            cells += f"{cell:>14}"
            before = at or before
        lines.append(f"{bead:<16}{cells}")
    return "\n".join(lines)
