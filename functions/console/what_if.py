"""The page of replay: what would have been dispatched with other limits, beside what was."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from beads_dispatch import settings
from beads_dispatch.cli import context, replay
from beads_dispatch.cli.context import BeforeHistory, CommandError
from beads_dispatch.cli.replay import Replay
from beads_dispatch.store import Commit
from functions.console.view import PageError, View

_SECONDS = 20.0  # for one replay
_COMMITS = 5000
_ATTEMPTS = 500  # shown
_MAX_IN_FLIGHT = 10_000
_MINUTES = 100_000.0

_one_at_a_time = threading.Lock()


def page(view: View) -> Mapping[str, Any]:
    """Only the form where no beginning was given. Raises PageError, StoreError."""
    limits, start, end = _limits(view), view.text("from"), view.text("to") or "now"
    shown = {"limits": limits, "start": start or "24h", "end": end, "live": False}
    if not start:
        return {**shown, "found": None}
    try:
        found = _replay(view, limits, start, end)
    except CommandError as exc:
        raise PageError(400, f"{exc}.") from None
    attempts = found.attempts
    return {
        **shown,
        "found": found,
        "summary": replay.summary(attempts),
        "attempts": attempts[-_ATTEMPTS:],
        "left_out": len(attempts) - _ATTEMPTS,
    }


def _limits(view: View) -> settings.DispatchLimits:
    known = view.agent.limits
    return replace(
        known,
        max_in_flight=view.whole("max_in_flight", known.max_in_flight, 1, _MAX_IN_FLIGHT),
        slot_silence_minutes=view.number("slot_silence_minutes", known.slot_silence_minutes, _MINUTES),
        reap_after_minutes=view.number("reap_after_minutes", known.reap_after_minutes, _MINUTES),
    )


def _replay(view: View, limits: settings.DispatchLimits, start: str, end: str) -> Replay:
    begin = _begin(view, start)
    last, until = context.commit_at(view.beads.history, end, view.moment)
    if until < begin[1]:
        raise PageError(400, "The end is before the beginning.")
    commits = _commits(view, begin[0], last)
    if not _one_at_a_time.acquire(blocking=False):
        raise PageError(503, "Another replay is being computed. Try again in a moment.")
    try:
        deadline = time.monotonic() + _SECONDS
        return replay.replay(view.dolt, limits, begin, until, commits, lambda done, of: _stop_at(deadline, done, of))
    finally:
        _one_at_a_time.release()


def _begin(view: View, written: str) -> tuple[Commit, datetime]:
    try:
        return context.commit_at(view.beads.history, written, view.moment)
    except BeforeHistory as exc:
        return exc.first, exc.first.at


def _commits(view: View, first: Commit, last: Commit) -> Sequence[Commit]:
    commits = view.beads.history.commits_between(first.hash, last.hash)
    if len(commits) > _COMMITS:
        raise PageError(
            400, f"This range has {len(commits)} commits, and at most {_COMMITS} are replayed here. {_SHORTER}"
        )
    return commits


_SHORTER = "Ask for a shorter one, or run `beads-dispatch replay`."


def _stop_at(deadline: float, done: int, of: int) -> None:
    if time.monotonic() > deadline:
        raise PageError(400, f"After {_SECONDS:g} s {done} of {of} commits of this range are replayed. {_SHORTER}")
