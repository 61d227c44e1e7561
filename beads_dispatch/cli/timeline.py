"""The live timeline: each step of each bead once, with the milliseconds since the step before. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from beads_dispatch.bead import DispatchRecord
from beads_dispatch.cli import terminal


@dataclass(frozen=True)
class Step:
    """One thing that happened to a bead."""

    what: str
    at: datetime


@dataclass(frozen=True)
class Entry:
    """A step as it is shown."""

    at: datetime
    bead: str
    what: str
    after_ms: int | None  # since the bead's step before; None for its first
    title: str

    def line(self) -> str:
        """`09:30:00.123  bd-1           claimed        +164 ms  Write a haiku`, UTC."""
        since = f"+{self.after_ms} ms" if self.after_ms is not None else ""
        clock = f"{self.at.astimezone(UTC):%H:%M:%S.%f}"[:-3]
        return f"{clock}  {self.bead:<14} {self.what:<11} {since:>10}  {terminal.cut(self.title, 40)}".rstrip()


def steps_in(versions: Iterable[Mapping[str, Any]], assignee: str) -> list[Step]:
    """The steps in a bead's versions, oldest first."""
    return [Step(what, version["at"].replace(tzinfo=UTC)) for version in versions if (what := _step(version, assignee))]


def _step(version: Mapping[str, Any], assignee: str) -> str | None:
    before, after = (DispatchRecord.from_metadata(version[f"{side}_metadata"]) for side in ("from", "to"))
    was, now = version["from_status"], version["to_status"]
    if after.job and after.job != before.job:
        return "dispatched"
    if after.claim and after.claim != before.claim:
        return "claimed"
    if now != was and now in ("closed", "blocked"):
        return str(now)
    if now == "open" and was == "in_progress":
        return "released"
    if now == "open" and version["to_assignee"] == assignee and version["from_assignee"] != assignee:
        return "assigned"
    return None


class Timeline:
    """Keeps the steps of each bead, and shows each that is new. For one thread at a time."""

    def __init__(self, show: Callable[[Entry], None]) -> None:
        self._show = show
        self._steps: dict[str, list[Step]] = {}
        self._titles: dict[str, str] = {}

    def name(self, bead_id: str, title: str) -> None:
        """Take note of a bead's title."""
        self._titles[bead_id] = title

    def knows(self, bead_id: str) -> bool:
        """Whether the bead has a step."""
        return bead_id in self._steps

    def steps(self, bead_id: str) -> list[Step]:
        """A bead's steps so far, in order of time."""
        return sorted(self._steps.get(bead_id, []), key=lambda step: step.at)

    def add(self, bead_id: str, step: Step) -> None:
        """Show a step, unless it was shown."""
        steps = self._steps.setdefault(bead_id, [])
        if step in steps:
            return
        earlier = [other.at for other in steps if other.at <= step.at]
        after = round((step.at - max(earlier)).total_seconds() * 1000) if earlier else None
        steps.append(step)
        self._show(Entry(step.at, bead_id, step.what, after, self._titles.get(bead_id, "")))
