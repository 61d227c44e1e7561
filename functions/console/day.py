"""The page of a day: what was dispatched in each hour, how long it had waited, and what failed."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from beads_dispatch.cli import day
from functions.console.view import PageError, View

_DAY = timedelta(days=1)
_COMMITS = 20_000  # read for a page; 10 s the first time
_FIRST = date(2000, 1, 1)


def page(view: View) -> Mapping[str, Any]:
    """A day that the request names, UTC, or else the last 24 hours. Raises PageError, StoreError."""
    start, end = _range(view)
    # A day more, in which the beads were assigned that were dispatched first.
    newest = view.beads.history.commits_since(start - _DAY, end, _COMMITS)
    commits = newest[::-1]
    read_from = commits[0].at if len(commits) == _COMMITS else start - _DAY
    found = day.report(view.versions.of(view.beads, commits), list(view.agents), read_from, start, end)
    named = bool(view.text("date"))
    return {
        "found": found,
        "waits": [(hour.p50, hour.p90) if hour.dispatched else None for hour in found.hours],
        "cut": read_from > start,
        "named": named,
        "before": (start - _DAY).date() if named else view.moment.date() - _DAY,
        "next": (start + _DAY).date() if named and start + _DAY <= view.moment else None,
        "live": False,
    }


def _range(view: View) -> tuple[datetime, datetime]:
    written = view.text("date")
    if not written:
        end = view.moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return end - _DAY, end
    try:
        found = date.fromisoformat(written)
    except ValueError:
        found = date.max
    if not _FIRST <= found <= view.moment.date():
        raise PageError(400, f"The parameter date is {written!r}, expected a day up to today, such as 2026-07-15.")
    start = datetime.combine(found, time(), UTC)
    return start, start + _DAY
