"""beads-dispatch replay: what would have been dispatched, beside what was. Reads only.

replay_walk goes through Dolt's commits, replay_simulation dispatches from what was eligible, with the limits asked for.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from beads_dispatch import settings
from beads_dispatch.cli import terminal
from beads_dispatch.cli.context import WHEN, CommandError, Context, add_limits
from beads_dispatch.cli.replay_simulation import Recording, ReplayedAttempt, SuspensionFrom, simulate
from beads_dispatch.cli.replay_walk import Walk
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Commit, Snapshot

_DESCRIPTION = f"""\
Walks Dolt's commits and runs the predicate and the order of dispatch on each state. The options under `limits` ask what
would have happened with other settings. It writes nothing. A WHEN before the first commit begins at the first commit.
{WHEN}"""

_REPORT_EACH = 250  # commits; some seconds

_UNKNOWN = (
    "the hold and suspension by the PingSources have no history: replayed as if dispatch was never held or suspended",
    "what else the agent ran has no history: slots are counted by our claims alone",
)
_UNKNOWN_ACTIVITY = "events and heartbeats have no history here: activity is a bead's own changes"


@dataclass(frozen=True)
class InactiveBead:
    """A bead in progress that was inactive for too long."""

    bead: str
    inactive_since: datetime
    would_block_at: datetime
    blocked_at: datetime | None  # when the reaper really did


@dataclass(frozen=True)
class Replay:
    """The answer."""

    start: datetime
    end: datetime
    commits: int
    limits: DispatchLimits
    attempts: Sequence[ReplayedAttempt]
    inactive: Sequence[InactiveBead]
    suspensions: Sequence[SuspensionFrom]
    unknown: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    parser.add_argument("--from", dest="start", metavar="WHEN", required=True, help="where to begin")
    parser.add_argument("--to", dest="end", metavar="WHEN", default="now", help="where to end (now)")
    add_limits(parser, "--assignee", "--max-in-flight", "--slot-silence-minutes", "--reap-after-minutes")


def run(context: Context) -> int:
    """Print the replay. Raises CommandError, SettingsError, StoreError."""
    first, start = context.at(context.arguments.start, or_first=True)
    last, end = context.at(context.arguments.end)
    if end < start:
        raise CommandError(f"--to ({terminal.moment(end)}) is before --from ({terminal.moment(start)})")
    commits = context.store.history.commits_between(first.hash, last.hash)
    found = replay(context.dolt, context.limits, (first, start), end, commits, _report)
    context.show(found, lines)
    return 0


def replay(
    dolt: settings.DoltSettings,
    limits: DispatchLimits,
    begin: tuple[Commit, datetime],
    end: datetime,
    commits: Sequence[Commit],
    report: Callable[[int, int], None],
) -> Replay:
    """The replay from a commit and moment, through `commits`, which follow it. `report` is called with the number of
    commits read so far, and of all. Raises StoreError."""
    first, start = begin
    with contextlib.closing(Snapshot(dolt, first.hash)) as past:
        recording = Walk(past, limits, end, report).run(first, start, commits)
    return Replay(
        start=start,
        end=end,
        commits=len(commits),
        limits=limits,
        attempts=simulate(recording, limits, end),
        inactive=_inactive(recording),
        suspensions=recording.suspensions,
        unknown=_UNKNOWN if recording.has_all_activity else (*_UNKNOWN, _UNKNOWN_ACTIVITY),
    )


def _report(done: int, of: int) -> None:
    if done % _REPORT_EACH == 0 and sys.stderr.isatty():
        terminal.warn(f"{done} of {of} commits")


def _inactive(recording: Recording) -> list[InactiveBead]:
    """What would have been blocked for its inactivity, beside what was."""
    left = {bead: list(moments) for bead, moments in recording.blocked.items()}
    found = []
    for (bead, since), at in sorted(recording.inactive.items(), key=lambda one: one[1]):
        really = next((moment for moment in left.get(bead, ()) if moment >= since), None)
        if really is not None:
            left[bead].remove(really)
        found.append(InactiveBead(bead, since, at, really))
    return found


def lines(found: Replay) -> list[terminal.Line]:
    """The answer as people read it."""
    limits = found.limits
    header = ("bead", "attempt", "priority", "eligible", "would dispatch", "dispatched", "would wait", "waited", "")
    rows = [_cells(one) for one in found.attempts]
    return [
        f"{terminal.moment(found.start)} to {terminal.moment(found.end)}, {found.commits} commits;"
        f" assignee {terminal.cut(limits.assignee)}, limit {limits.max_in_flight},"
        f" reap after {limits.reap_after_minutes:g} min",
        *((Styled(f"  {one}", "dim"),) for one in found.unknown),
        "",
        *(terminal.table(header, rows, indent="") if rows else ["No bead was eligible, and none was dispatched."]),
        "",
        summary(found.attempts),
        *_inactive_lines(found.inactive),
        *_suspension_lines(found.suspensions),
    ]


def _cells(one: ReplayedAttempt) -> tuple[str, ...]:
    def wait(moment: datetime | None) -> str:
        return terminal.span(moment - one.eligible_at) if moment and one.eligible_at else "-"

    moments = (one.eligible_at, one.would_dispatch_at, one.dispatched_at)
    waits = (wait(one.would_dispatch_at), wait(one.dispatched_at))
    priority = f"P{one.priority}" if one.eligible_at else "-"
    return (one.bead, str(one.attempt), priority, *map(_moment, moments), *waits, one.note)


def _moment(at: datetime | None) -> str:
    return terminal.moment(at) if at else "-"


def summary(attempts: Sequence[ReplayedAttempt]) -> str:
    """How many and how fast, in a sentence."""
    would = [one.would_dispatch_at - one.eligible_at for one in attempts if one.would_dispatch_at and one.eligible_at]
    waited = [one.dispatched_at - one.eligible_at for one in attempts if one.dispatched_at and one.eligible_at]
    dispatched = sum(one.dispatched_at is not None for one in attempts)

    def typical(waits: Sequence[timedelta]) -> str:
        middle = median(wait.total_seconds() for wait in waits) if waits else 0
        return f", median wait {terminal.span(timedelta(seconds=middle))}" if waits else ""

    return f"{len(would)} would have been dispatched{typical(would)}; {dispatched} were{typical(waited)}."


def _inactive_lines(found: Sequence[InactiveBead]) -> list[str]:
    if not found:
        return []
    rows = [(one.bead, *map(_moment, (one.inactive_since, one.would_block_at, one.blocked_at))) for one in found]
    header = ("bead", "inactive since", "would block", "was blocked")
    return ["", "Inactive for too long:", *terminal.table(header, rows)]


def _suspension_lines(found: Sequence[SuspensionFrom]) -> list[str]:
    def state(reason: str | None) -> str:
        return "suspended" if reason else "on"

    rows = [f"  {terminal.moment(one.at)}  dispatch {state(one.dispatch)}, reap {state(one.reap)}" for one in found]
    return ["", "Suspension by bd's config, as far as it was committed:", *rows] if found else []
