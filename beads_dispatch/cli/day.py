"""A day of dispatch by the beads' history: what was dispatched in each hour, how long it waited, what failed. Pure."""

import collections
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import notes
from beads_dispatch.bead import DispatchRecord, Status
from beads_dispatch.cli import history

_HOUR = timedelta(hours=1)

# Our notes of what failed, each with its reason in words; the first that matches.
_FAILURES = (
    (f"{notes.DISPATCH_FAILED} 000", "no connection to the agent"),
    (rf"{notes.DISPATCH_FAILED} (\d+)", r"refused: HTTP \1"),
    (r"dispatch failed \d+ times", "blocked after the last refusal"),
    (re.escape(notes.outcome_unknown("")).rstrip("\\ "), "outcome unknown"),
    (notes.given_up(0).partition(" 0 ")[0], "blocked after too many jobs"),
    (re.escape(notes.CLAIM_EXPIRED), "claim expired, never sent"),
    (re.escape(notes.not_sent()), "Dolt failed before the POST"),
    (re.escape(notes.NO_PROGRESS), "blocked: no activity"),
    (r"reaper: job .* ended and left", "job ended, its bead left in progress"),
    (r"reaper: job .* failed: ", "job failed or lost"),
    (re.escape(notes.never_started()), "job never started"),
)


@dataclass(frozen=True)
class HourOfDay:
    """What was dispatched in an hour, and how long it had waited, in seconds; None where nothing was."""

    start: datetime
    dispatched: int
    p50: float | None
    p90: float | None


@dataclass(frozen=True)
class DayReport:
    """The answer; waits are from the bead's assignment, or from when it was open again, to its job."""

    start: datetime
    end: datetime
    hours: Sequence[HourOfDay]
    dispatched: int
    p50: float | None
    p90: float | None
    longer: int  # waits that began before what was read: they count as long as is known
    failures: Sequence[tuple[str, int]]  # the most frequent first


@dataclass
class _Waits:
    """Walks through the versions of all beads, oldest first."""

    read_from: datetime
    since: dict[str, datetime] = field(default_factory=dict)

    def dispatched(self, version: Mapping[str, Any], agents: Sequence[str]) -> tuple[timedelta, bool] | None:
        """How long the bead waited for the job that this version records, and whether that is all of it."""
        at, bead = version["at"].replace(tzinfo=UTC), version["id"]
        found = None
        if _has_new_job(version):
            began = self.since.get(bead)
            found = (at - (began or self.read_from), began is not None)
        if version["to_assignee"] in agents and version["to_status"] == Status.OPEN:
            if version["from_status"] != Status.OPEN or version["from_assignee"] != version["to_assignee"]:
                self.since.setdefault(bead, at)
        elif found or version["to_status"] != Status.IN_PROGRESS:
            self.since.pop(bead, None)
        return found


def _has_new_job(version: Mapping[str, Any]) -> bool:
    if version["from_metadata"] == version["to_metadata"]:  # nearly always
        return False
    before, after = (DispatchRecord.from_metadata(version[f"{side}_metadata"]) for side in ("from", "to"))
    return bool(after.job) and after.job != before.job


def report(
    versions: Iterable[Mapping[str, Any]], agents: Sequence[str], read_from: datetime, start: datetime, end: datetime
) -> DayReport:
    """The report from `start` to `end`; `versions`: of all beads from `read_from` on, oldest first, as of
    History.versions_in with `author`."""
    waits = _Waits(read_from)
    hours: dict[int, list[float]] = collections.defaultdict(list)
    failures: collections.Counter[str] = collections.Counter()
    longer = 0
    for version in versions:
        found, at = waits.dispatched(version, agents), version["at"].replace(tzinfo=UTC)
        if not start <= at < end:
            continue
        failures.update(_reasons(version))
        if found:
            hours[(at - start) // _HOUR].append(found[0].total_seconds())
            longer += not found[1]
    every = [seconds for one in hours.values() for seconds in one]
    return DayReport(
        start=start,
        end=end,
        hours=[_hour(start + number * _HOUR, hours[number]) for number in range(math.ceil((end - start) / _HOUR))],
        dispatched=len(every),
        p50=percentile(every, 50),
        p90=percentile(every, 90),
        longer=longer,
        failures=failures.most_common(),
    )


def _hour(start: datetime, waits: Sequence[float]) -> HourOfDay:
    return HourOfDay(start, len(waits), percentile(waits, 50), percentile(waits, 90))


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """The value that `percent` of the samples do not exceed (nearest rank); None without samples."""
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1] if ordered else None


def _reasons(version: Mapping[str, Any]) -> Iterator[str]:
    """Why something failed, by the notes that we wrote with a version."""
    for note in version["noted"].split("\n") if version["noted"] and history.our_note(version) else ():
        for pattern, reason in _FAILURES:
            if match := re.match(pattern, note.strip()):
                yield match.expand(reason)
                break
