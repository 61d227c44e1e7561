"""beads-dispatch status: what is suspended, held, in progress, queued, delayed or inactive; and how far the feed is."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch import gtid, reaper
from beads_dispatch.cli import conditions, terminal
from beads_dispatch.cli.context import Context, add_limits, now
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Diagnosis, Store, StoreError


@dataclass(frozen=True)
class InProgress:
    """A bead that is in progress for the agent."""

    bead: str
    title: str
    job: str | None
    outcome: str | None  # what is known of a POST without a job: posting, unknown
    claimed_at: str | None  # None without a claim of ours
    last_activity: datetime
    activity: str
    reap_at: datetime | None  # when it is reaped if it stays inactive; None: never (REAP_ONLY_OURS)


@dataclass(frozen=True)
class OpenBead:
    """A bead that is assigned to the agent and open."""

    bead: str
    title: str
    priority: int
    detail: str = ""  # why it is not eligible; empty for one in the queue
    until: str | None = None  # when its retry delay ends


@dataclass(frozen=True)
class FeedStatus:
    """How far the feeder has come; `behind` is None where that is unknown, for the reason in `detail`."""

    position: str | None
    behind: int | None
    detail: str = ""


@dataclass(frozen=True)
class FeederStatus:
    """The feeder that reported last; `age_seconds` and what follows are None where none ever did."""

    problem: str  # empty when there is none
    age_seconds: int | None = None  # of its report, which comes once a minute
    version: str | None = None
    host: str | None = None
    process: int | None = None
    user: str | None = None  # of the database
    sink_accepts: bool | None = None  # the last event
    replica: str | None = None  # this clone's id, see `bd kv set auto-dispatch.replica`


@dataclass(frozen=True)
class StatusReport:
    """Everything at one moment."""

    at: datetime
    dispatch_suspended: str | None
    reap_suspended: str | None
    held_until: datetime | None
    held_reason: str
    max_in_flight: int
    in_progress: Sequence[InProgress]
    queue: Sequence[OpenBead]
    retry_delayed: Sequence[OpenBead]
    not_eligible: Sequence[OpenBead]
    to_reopen: Sequence[str]  # what reap would do now
    to_block: Sequence[str]
    feed: FeedStatus
    feeder: FeederStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_limits(parser, "--assignee", "--max-in-flight", "--claim-timeout-seconds", "--reap-after-minutes")


def run(context: Context) -> int:
    """Print the status. Raises SettingsError, StoreError."""
    context.show(report(context.store, context.limits, now()), lines)
    return 0


def report(beads: Store, limits: DispatchLimits, moment: datetime) -> StatusReport:
    """Raises StoreError."""
    suspension, hold = beads.control.suspension(), beads.control.hold(limits.assignee)
    held = hold.active_at(moment)
    queue, delayed, rest = [], [], []
    for one in beads.eligible.diagnose(limits.assignee, moment):
        if one.holds():
            queue.append(_open(one))
        elif one.holds(except_for="retry"):
            delayed.append(_open(one, _refused(one), one.bead.record.retry_at))
        else:
            rest.append(_open(one, _reasons(one, moment)))
    to_reopen, to_block = to_reap(beads, limits, moment)
    return StatusReport(
        at=moment,
        dispatch_suspended=suspension.dispatch,
        reap_suspended=suspension.reap,
        held_until=hold.until if held else None,
        held_reason=hold.reason if held else "",
        max_in_flight=limits.max_in_flight,
        in_progress=in_progress(beads, limits, moment),
        queue=queue,
        retry_delayed=delayed,
        not_eligible=rest,
        to_reopen=to_reopen,
        to_block=to_block,
        feed=feed(beads),
        feeder=feeder(beads),
    )


def to_reap(beads: Store, limits: DispatchLimits, moment: datetime) -> tuple[list[str], list[str]]:
    """The beads that a reap pass would reopen now, and those it would block. Raises StoreError."""
    reopen = [bead.id for bead in reaper.orphaned(beads, limits, moment)]
    return reopen, [bead.id for bead in reaper.inactive(beads, limits, moment) if bead.id not in reopen]


def in_progress(beads: Store, limits: DispatchLimits, moment: datetime) -> list[InProgress]:
    """What is in progress, the longest inactive first. Raises StoreError."""
    return [
        InProgress(
            bead=bead.id,
            title=bead.title,
            job=bead.record.job,
            outcome=bead.record.outcome,
            claimed_at=bead.record.at if bead.record.claim else None,
            last_activity=activity.at,
            activity=activity.what,
            reap_at=reaper.due_at(bead, limits),
        )
        for bead, activity in beads.activity.in_progress(limits.assignee, moment)
    ]


def _open(one: Diagnosis, detail: str = "", until: str | None = None) -> OpenBead:
    return OpenBead(one.bead.id, one.bead.title, one.bead.priority, detail, until)


def _refused(one: Diagnosis) -> str:
    return f"refused {one.bead.record.failures} times in a row" if one.bead.record.failures > 1 else "refused once"


def _reasons(one: Diagnosis, moment: datetime) -> str:
    deferred = one.deferred_until is not None and one.deferred_until > moment
    reasons = {
        "status": "deferred without a date" if one.deferred_until is None else "",
        "type": f"of type {one.issue_type}",
        "pinned": "pinned",
        "template": "a template",
        "ephemeral": "ephemeral",
        "defer": f"deferred until {terminal.moment(one.deferred_until)}" if deferred and one.deferred_until else "",
        "acceptance": "no acceptance criteria",
        "metadata": "its metadata cannot hold a claim",
        "retry": "retry delay",
        "blocked": "blocked",
        "parent": "its parent is deferred",
        "children": "an epic with open children",
    }
    return ", ".join(words for name, words in reasons.items() if words and not one.conditions[name])


def feed(beads: Store) -> FeedStatus:
    """How far the feeder has come; what goes wrong is in the answer."""
    try:
        position, executed = beads.feed_state.position(), beads.feed_state.executed()
    except StoreError as exc:
        return FeedStatus(None, None, str(exc))
    if position is None:
        return FeedStatus(None, None, "no feeder has stored a position on this server")
    try:
        return FeedStatus(position, gtid.count_missing(executed, position))
    except ValueError:
        return FeedStatus(position, None, "a GTID set cannot be read")


def feeder(beads: Store) -> FeederStatus:
    """The feeder that reported last. Raises StoreError."""
    found = beads.feeders.find()
    problem = conditions.feeder_problem(found)
    if found is None:
        return FeederStatus(problem)
    one = found.beat
    seconds = int(found.age.total_seconds())
    return FeederStatus(problem, seconds, one.version, one.host, one.process, one.user, one.sink_accepts, one.replica)


def lines(found: StatusReport) -> list[terminal.Line]:
    """The status as people read it."""
    return [
        _suspension_line("dispatch", found.dispatch_suspended),
        _suspension_line("reap", found.reap_suspended),
        _hold_line(found),
        _feed_line(found.feed),
        _feeder_line(found.feeder),
        "",
        *_in_progress_lines(found),
        *_section(
            f"Queue, in the order of dispatch: {len(found.queue)}",
            ("", "bead", "priority", "title"),
            [(f"{number}.", one.bead, f"P{one.priority}", one.title) for number, one in enumerate(found.queue, 1)],
        ),
        *_section(
            f"Retry delay: {len(found.retry_delayed)}",
            ("bead", "until", "reason", "title"),
            [(one.bead, one.until or "", one.detail, one.title) for one in found.retry_delayed],
        ),
        *_section(
            f"Assigned, but not eligible: {len(found.not_eligible)}",
            ("bead", "reason", "title"),
            [(one.bead, one.detail, one.title) for one in found.not_eligible],
            "`beads-dispatch explain <bead>` shows all reasons, and how to fix them.",
        ),
        _reap_line(found),
    ]


def _suspension_line(name: str, reason: str | None) -> terminal.Line:
    state = Styled(f"suspended: {terminal.cut(reason, 120)}", "red") if reason else Styled("on", "green")
    return f"{name + ':':<10} ", state


def _hold_line(found: StatusReport) -> terminal.Line:
    if found.held_until is None:
        return f"{'hold:':<10} none"
    ends = terminal.until(found.held_until, found.at)
    return f"{'hold:':<10} ", Styled(f"until {ends}: {terminal.cut(found.held_reason, 200)}", "red")


def _feed_line(feed: FeedStatus) -> str:
    if feed.behind is None:
        return f"{'feed:':<10} unknown: {terminal.cut(feed.detail, 200)}"
    # Storing the position is itself a transaction; while there is nothing to publish, it is stored once a minute.
    behind = f"{feed.behind} transactions behind (normal up to a minute's worth that publishes nothing)"
    state = "up to date" if feed.behind <= 1 else behind
    return f"{'feed:':<10} {state}, position {terminal.cut(feed.position or '', 100)}"


def _feeder_line(feeder: FeederStatus) -> terminal.Line:
    if feeder.problem:
        return f"{'feeder:':<10} ", Styled(terminal.cut(feeder.problem, 200), "red")
    words = f"reported {feeder.age_seconds} s ago, version {feeder.version} on host {feeder.host}"
    return f"{'feeder:':<10} {terminal.cut(words, 200)}"


def _reap_at(one: InProgress, moment: datetime) -> str:
    if one.reap_at is None:
        return "never: no claim of ours"
    return terminal.moment(one.reap_at) if one.reap_at > moment else "due"


def _in_progress_lines(found: StatusReport) -> list[str]:
    rows = [
        (
            one.bead,
            one.job or one.outcome or "-",
            one.claimed_at or "not by us",
            f"{terminal.span(found.at - one.last_activity)} ago, {one.activity}",
            _reap_at(one, found.at),
            one.title,
        )
        for one in found.in_progress
    ]
    header = ("bead", "job", "claimed", "last activity", "reaped if inactive until", "title")
    return _section(f"In progress: {len(rows)} (limit {found.max_in_flight})", header, rows)


def _reap_line(found: StatusReport) -> str:
    would = []
    if found.to_reopen:
        would.append(f"reopen {', '.join(found.to_reopen)} (claimed, never sent)")
    if found.to_block:
        would.append(f"block {', '.join(found.to_block)} (inactive)")
    if not would:
        return "Reap would do nothing now."
    when = "When it is resumed" if found.reap_suspended else "At its next tick"
    return f"{when}, reap would {' and '.join(would)}."


def _section(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], hint: str = "") -> list[str]:
    """A titled table, with a hint below it; only the title where it would be empty."""
    if not rows:
        return [title, ""]
    short = [tuple(terminal.cut(cell, 50) for cell in row) for row in rows]
    return [title, *terminal.table(header, short), *([f"  {hint}"] if hint else []), ""]
