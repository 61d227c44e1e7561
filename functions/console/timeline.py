"""The page of what happened: each step of each bead of the agents, the newest first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from beads_dispatch.cli import history
from functions.console.view import PageError, View

_COMMITS = 150  # read at once; most of them change nothing that is shown
_MOST_COMMITS = 1500  # read for a page
_ENOUGH = 100  # entries
_MOST_ENTRIES = 500  # on a page: one commit may change any number of beads


@dataclass(frozen=True)
class TimelineEntry:
    """What one commit changed on a bead, of that which matters to dispatch."""

    at: datetime
    bead: str
    title: str
    what: str
    author: str
    note: str  # ours; empty where there is none


def page(view: View) -> Mapping[str, Any]:
    """Raises PageError, StoreError."""
    before = view.text("before")
    if before and view.beads.history.commit(before) is None:
        raise PageError(400, f"{before!r} is not a commit of this database.")
    commits = view.beads.history.newest_commits(_MOST_COMMITS + 1, before or "HEAD")
    entries: list[TimelineEntry] = []
    read = 0
    while read < min(len(commits), _MOST_COMMITS) and len(entries) < _ENOUGH:
        chunk = commits[read : read + _COMMITS]
        entries += [entry for row in view.versions.of(view.beads, chunk) if (entry := _entry(row))]
        read += len(chunk)
    return {
        "entries": entries[:_MOST_ENTRIES],
        "left_out": max(0, len(entries) - _MOST_ENTRIES),
        "older": commits[read].hash if read < len(commits) else "",
        "before": before,
        "live": not before,
    }


def _entry(row: Mapping[str, Any]) -> TimelineEntry | None:
    what = history.changes(row)
    if not what:
        return None
    note = history.our_note(row)
    shown = "" if history.repeats_step(note) else note
    return TimelineEntry(row["at"], row["id"], row["title"], ", ".join(what), row["author"], shown)
