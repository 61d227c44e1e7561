"""What happened to each bead and when, from Dolt's history and the feed; milliseconds between the steps."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from beads_dispatch import events, settings, store
from beads_dispatch.cli import timeline
from beads_dispatch.cli.timeline import Step, steps_in

STEPS = ("assigned", "event", "claimed", "dispatched", "closed")


class SystemTimeline:
    """Follows the events that pass the router and prints each step of each bead once.

    Commit dates are Dolt's, the event's is the router's; both clocks are this machine's. `dispatched` is the moment
    of the POST when the agent service tells it (`posts_are_told`), otherwise that of the note that records its answer.
    """

    def __init__(
        self, dolt: settings.DoltSettings, assignee: str, show: Callable[[str], None], *, posts_are_told: bool = False
    ) -> None:
        self._store = store.Store(dolt)
        self._assignee = assignee
        self._posts_are_told = posts_are_told
        self._lock = threading.Lock()
        self._steps = timeline.Timeline(lambda entry: show(entry.line()))

    def observe(self, event: events.Event) -> None:
        """Take note of an event that the router received."""
        if event.type != events.ISSUE_CHANGED or not event.subject:
            return
        now = datetime.now(UTC)
        with self._lock:
            self._steps.name(event.subject, (event.data or {}).get("title", ""))
            waits = event.extensions.get("assignee") == self._assignee
            if waits or self._steps.knows(event.subject):
                self._read(event.subject)
            if waits and event.extensions.get("status") == "open":
                self._steps.add(event.subject, Step("event", now))

    def posted(self, bead_id: str) -> None:
        """Take note that the agent service received a bead."""
        step = Step("dispatched", datetime.now(UTC))
        with self._lock:
            self._read(bead_id)
            self._steps.add(bead_id, step)

    def refresh(self, bead_id: str) -> list[Step]:
        """Read a bead's history again; returns its steps so far, in order of time."""
        with self._lock:
            self._read(bead_id)
            return self._steps.steps(bead_id)

    def _read(self, bead_id: str) -> None:
        for step in steps_in(self._store.history.transitions(bead_id), self._assignee):
            if not (self._posts_are_told and step.what == "dispatched"):
                self._steps.add(bead_id, step)


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
