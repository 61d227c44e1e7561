"""The arithmetic of the console: a day's numbers, and where the marks of its plots are."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beads_dispatch import notes, store
from beads_dispatch.cli import day
from functions.console import charts

START = datetime(2026, 7, 15, tzinfo=UTC)


def version(minutes: float, bead: str, was: str, now: str, noted: str = "", **more: Any) -> dict[str, Any]:
    """A version of a bead, so long after the start; `job`: recorded with it."""
    sides = {"from": was, "to": now}
    found: dict[str, Any] = {"id": bead, "at": START + timedelta(minutes=minutes), "noted": noted, "title": ""}
    found["author"] = store.DISPATCHER if noted else "ann"
    for side, state in sides.items():
        status, _, assignee = state.partition(" ")
        found |= {f"{side}_status": status or None, f"{side}_assignee": assignee or None}
        found[f"{side}_metadata"] = "{}"
    if "job" in more:
        found["to_metadata"] = json.dumps({"dispatch": {"job": more["job"]}})
    return found


def report(*versions: dict[str, Any], hours: int = 24) -> day.DayReport:
    return day.report(versions, ["agent"], START - timedelta(days=1), START, START + timedelta(hours=hours))


def test_a_wait_is_from_the_assignment_to_the_job() -> None:
    """Refusals between are part of it; the next one begins when the bead is open again."""
    found = report(
        version(0, "x", "", "open agent"),
        version(1, "x", "open agent", "in_progress agent", notes.claimed(START)),
        version(2, "x", "in_progress agent", "open agent", notes.dispatch_failed(502, "")),
        version(10, "x", "in_progress agent", "in_progress agent", notes.dispatched("1"), job="1"),
        version(70, "x", "in_progress agent", "open agent"),
        version(75, "x", "in_progress agent", "in_progress agent", notes.dispatched("2"), job="2"),
    )
    assert [(hour.dispatched, hour.p50) for hour in found.hours[:3]] == [(1, 600), (1, 300), (0, None)]
    assert (found.dispatched, found.p50, found.p90, found.longer) == (2, 300, 600, 0)


def test_a_bead_that_was_closed_or_taken_away_waits_no_longer() -> None:
    """Assigned again, it begins anew."""
    for end in ("closed agent", "open bob", "blocked agent"):
        found = report(
            version(0, "x", "", "open agent"),
            version(10, "x", "open agent", end),
            version(20, "x", end, "open agent"),
            version(21, "x", "in_progress agent", "in_progress agent", job="1"),
        )
        assert found.p50 == 60, end


def test_a_wait_that_began_before_what_was_read_is_counted_as_such() -> None:
    """As long as is known."""
    found = report(version(60, "x", "in_progress agent", "in_progress agent", job="1"))
    assert (found.longer, found.p50) == (1, 25 * 3600)


def test_what_is_outside_of_the_day_counts_only_as_a_beginning() -> None:
    """A job of the evening before is not one of this day."""
    found = report(
        version(-30, "x", "", "open agent"),
        version(-29, "x", "in_progress agent", "in_progress agent", notes.dispatched("1"), job="1"),
        version(-5, "y", "", "open agent"),
        version(5, "y", "in_progress agent", "in_progress agent", notes.dispatched("1"), job="1"),
        version(24 * 60, "x", "in_progress agent", "open agent", notes.never_started()),
    )
    assert (found.dispatched, found.p50, found.failures) == (1, 600, [])


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (notes.dispatch_failed(0, "refused"), "no connection to the agent"),
        (notes.dispatch_failed(502, "busy"), "refused: HTTP 502"),
        (notes.blocked_after(5), "blocked after the last refusal"),
        (notes.outcome_unknown("timed out"), "outcome unknown"),
        (notes.given_up(10), "blocked after too many jobs"),
        (notes.claim_expired(120), "claim expired, never sent"),
        (notes.not_sent(), "Dolt failed before the POST"),
        (notes.no_progress(31, 30), "blocked: no activity"),
        (notes.job_ended("1"), "job ended, its bead left in progress"),
        (notes.job_failed("1", "exit status 1"), "job failed or lost"),
        (notes.never_started(), "job never started"),
        (notes.claimed(START), None),
        (notes.dispatched("1"), None),
        (notes.withdrawn("changed"), None),
        (notes.released("ann"), None),
    ],
)
def test_each_note_of_a_failure_has_its_reason(note: str, reason: str | None) -> None:
    """Of our notes alone, however many are written at once."""
    found = report(version(1, "x", "in_progress agent", "open agent", f"\n{note}\n{note}"))
    assert found.failures == ([(reason, 2)] if reason else [])
    theirs = {**version(1, "x", "in_progress agent", "open agent", f"said: {note}"), "author": "ann"}
    assert report(theirs).failures == []


@pytest.mark.parametrize("values", [[], [0] * 24, [1], [3, 0, 7], [1001] * 24, list(range(48))])
def test_a_bar_is_as_high_as_its_share(values: list[int]) -> None:
    """Within the plot, on its axis; the scale ends at or above the highest."""
    marks, ticks = charts.columns(values)
    assert len(marks) == len(values) and all(mark.low == charts.BASE for mark in marks)
    top = float(ticks[-1].label)
    for value, mark in zip(values, marks, strict=True):
        assert value <= top
        share = (charts.BASE - mark.y) / (charts.BASE - ticks[-1].y)
        assert share == pytest.approx(value / top, abs=0.01)
        assert mark.x >= 0 and mark.x + mark.width <= charts.WIDTH


@pytest.mark.parametrize(
    "values", [[], [None], [(0.0, 0.0)], [(0.001, 1e9)], [(0.2, 40.0), None, (3.0, 90_000.0)], [(1.0, 1.0)] * 24]
)
def test_a_range_is_within_its_scale(values: list[tuple[float, float] | None]) -> None:
    """The longer wait is higher, the scale has at least two lines, and nothing leaves the plot."""
    marks, ticks = charts.ranges(values)
    assert len(ticks) >= 2 and [mark is None for mark in marks] == [value is None for value in values]
    for mark in filter(None, marks):
        assert 0 <= mark.y <= mark.low <= charts.BASE


def test_the_longest_row_is_the_widest() -> None:
    """Each with its number."""
    first, second = charts.rows([("a", 4), ("b", 1)])
    assert first.width == 4 * second.width and (first.number, second.number) == (4, 1)
    assert charts.rows([]) == []
