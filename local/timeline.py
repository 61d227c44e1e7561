"""What happened to each bead and when, from Dolt's history and the router; and what holds dispatch up."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from beads_dispatch import events, settings, store
from beads_dispatch.cli import timeline
from beads_dispatch.cli.timeline import Step, steps_in
from local.terminal import clock

STEPS = ("assigned", "event", "claimed", "dispatched", "closed")
_READ_AGAIN = 20  # beads at a check; after an import of thousands, the newest
_SETTLED_SECONDS = 10.0  # after a change's event its commit is in Dolt's history, on a busy machine too


class SystemTimeline:
    """Follows the events that pass the router and shows each step of each bead once.

    Commit dates are Dolt's, the event's is the router's; both clocks are this machine's. `dispatched` is the moment
    of the POST when the agent reports it (`agent_reports_posts`), otherwise that of the note that records its answer.
    """

    def __init__(
        self,
        dolt: settings.DoltSettings,
        assignee: str,
        show: Callable[[str], None],
        *,
        agent_reports_posts: bool = False,
    ) -> None:
        self._store = store.Store(dolt)
        self._assignee = assignee
        self._agent_reports_posts = agent_reports_posts
        self._lock = threading.Lock()
        self._last_event: dict[str, float] = {}  # of the beads to be read again: time.monotonic()
        self._steps = timeline.Timeline(lambda entry: show(entry.line()))

    def name(self, bead_id: str, title: str) -> None:
        """Take note of a bead's title."""
        with self._lock:
            self._steps.name(bead_id, title)

    def observe(self, event: events.Event) -> None:
        """Take note of an event that the router received."""
        if event.type != events.ISSUE_CHANGED or not event.subject:
            return
        now = datetime.now(UTC)
        with self._lock:
            self._steps.name(event.subject, (event.data or {}).get("title", ""))
            assigned = event.extensions.get("assignee") == self._assignee
            if assigned or self._steps.knows(event.subject):
                self._last_event.pop(event.subject, None)  # the newest is the last one
                self._last_event[event.subject] = time.monotonic()
                self._read(event.subject)
            if assigned and event.extensions.get("status") == "open":
                self._steps.add(event.subject, Step("event", now))

    def check(self) -> None:
        """Read again the beads of the last events: an event may come before Dolt's history has its commit."""
        with self._lock, contextlib.suppress(store.StoreError):  # HoldWatch names it
            recent = list(self._last_event.items())[-_READ_AGAIN:]
            for bead_id, _ in recent:
                self._read(bead_id)
            self._last_event = {bead: at for bead, at in recent if time.monotonic() - at <= _SETTLED_SECONDS}

    def posted(self, bead_id: str) -> None:
        """Take note that the agent received a bead."""
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
            if not (self._agent_reports_posts and step.what == "dispatched"):
                self._steps.add(bead_id, step)


class HoldWatch:
    """Shows when dispatch becomes held and why, as when the agent cannot be reached, and when the hold ends."""

    def __init__(self, dolt: settings.DoltSettings, show: Callable[[str], None]) -> None:
        self._store = store.Store(dolt)
        self._show = show
        self._shown = ""

    def check(self) -> None:
        """Read the hold, and show what changed since the last check."""
        now = datetime.now(UTC)
        state = self._state(now)
        if state != self._shown:
            self._show(f"{clock(now)}  {state or 'dispatch is not held now'}")
            self._shown = state

    def _state(self, now: datetime) -> str:
        try:
            holds = self._store.control.holds()
        except store.StoreError as exc:
            return str(exc)
        return "; ".join(
            f"dispatch is held until {clock(hold.until)}: {hold.reason}" + (f" ({agent})" if len(holds) > 1 else "")
            for agent, hold in holds.items()
            if hold.until is not None and hold.active_at(now)
        )


def table(beads: Mapping[str, list[Step]]) -> list[str]:
    """Beads by steps, in the order of their first step: a moment, then milliseconds since the step before."""
    lines = ["bead            " + "".join(f"{step:>14}" for step in STEPS)]
    never = datetime.max.replace(tzinfo=UTC)
    for bead, steps in sorted(beads.items(), key=lambda row: (row[1][0].at if row[1] else never, row[0])):
        lines.append(f"{bead:<16}" + "".join(f"{cell:>14}" for cell in _cells(steps)))
    return lines


def _cells(steps: list[Step]) -> list[str]:
    first: dict[str, datetime] = {}
    for step in steps:
        first.setdefault(step.what, step.at)
    cells, before = [], None
    for at in map(first.get, STEPS):
        if at is None:
            cells.append("-")
        else:
            cells.append(f"+{(at - before).total_seconds() * 1000:.0f} ms" if before else clock(at))
            before = at
    return cells
