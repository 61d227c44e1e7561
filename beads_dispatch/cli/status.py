"""beads-dispatch status: what is switched off, held, at work, waiting, cooling down, stuck; and how far the feed is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from beads_dispatch.bead import Bead
from beads_dispatch.cli import terminal
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Diagnosis, Store, StoreError


@dataclass(frozen=True)
class AtWork:
    """A bead that is in progress for the sentinel."""

    bead: str
    title: str
    job: str | None
    outcome: str | None  # what is known of a POST without a job: posting, unknown
    claimed_at: str | None  # None without a claim of ours
    last_sign: datetime
    sign: str
    reap_at: datetime  # when reap would take it if it stayed silent


@dataclass(frozen=True)
class Waiting:
    """A bead that is assigned to the sentinel and open."""

    bead: str
    title: str
    priority: int
    why: str = ""  # why it does not go; empty for one that waits for its turn
    until: str | None = None  # what it cools down until


@dataclass(frozen=True)
class FeedStatus:
    """How far the feeder has come; `behind` is None where that cannot be told, for the reason in `why`."""

    position: str | None
    behind: int | None
    why: str = ""


@dataclass(frozen=True)
class StatusReport:
    """Everything at one moment."""

    at: datetime
    dispatch_suspended: str | None
    reap_suspended: str | None
    held_until: datetime | None
    held_for: str
    max_in_flight: int
    at_work: Sequence[AtWork]
    waiting: Sequence[Waiting]
    cooling: Sequence[Waiting]
    not_eligible: Sequence[Waiting]
    to_reopen: Sequence[str]  # what reap would do now
    to_block: Sequence[str]
    feed: FeedStatus


def look(beads: Store, limits: DispatchLimits, moment: datetime) -> StatusReport:
    """Raises StoreError."""
    switch, hold = beads.control.suspension(), beads.control.hold()
    held = hold.until is not None and hold.until > moment
    examined = beads.eligible.diagnose(limits.assignee, moment)
    waiting = [one for one in examined if all(one.conditions.values())]
    cooling = [one for one in examined if not one.conditions["retry"] and _all_but_retry(one)]
    rest = [one for one in examined if one not in waiting and one not in cooling]
    reopen, block = stuck(beads, limits, moment)
    return StatusReport(
        at=moment,
        dispatch_suspended=switch.dispatch,
        reap_suspended=switch.reap,
        held_until=hold.until if held else None,
        held_for=hold.reason if held else "",
        max_in_flight=limits.max_in_flight,
        at_work=at_work(beads, limits),
        waiting=[Waiting(one.bead.id, one.bead.title, one.bead.priority) for one in waiting],
        cooling=[
            Waiting(one.bead.id, one.bead.title, one.bead.priority, _refused(one), one.bead.record.retry_at)
            for one in cooling
        ],
        not_eligible=[Waiting(one.bead.id, one.bead.title, one.bead.priority, _why(one, moment)) for one in rest],
        to_reopen=[bead.id for bead in reopen],
        to_block=[bead.id for bead in block],
        feed=_feed(beads),
    )


def stuck(beads: Store, limits: DispatchLimits, moment: datetime) -> tuple[list[Bead], list[Bead]]:
    """What a reap pass would open again and what it would block, at this moment. Raises StoreError."""
    reopen = beads.activity.orphaned_claims(limits.assignee, moment - timedelta(seconds=limits.claim_timeout_seconds))
    block = beads.activity.inactive(limits.assignee, moment - timedelta(minutes=limits.reap_after_minutes))
    return reopen, [bead for bead in block if bead.id not in {one.id for one in reopen}]


def at_work(beads: Store, limits: DispatchLimits) -> list[AtWork]:
    """What is in progress, the longest silent first. Raises StoreError."""
    return [
        AtWork(
            bead=bead.id,
            title=bead.title,
            job=bead.record.job,
            outcome=bead.record.outcome,
            claimed_at=bead.record.at if bead.record.claim else None,
            last_sign=sign.at,
            sign=sign.what,
            reap_at=_reap_at(bead, sign.at, limits),
        )
        for bead, sign in beads.activity.in_progress(limits.assignee)
    ]


def _reap_at(bead: Bead, last_sign: datetime, limits: DispatchLimits) -> datetime:
    """A claim to which nothing came of it is opened again soon; all else is blocked after a long silence."""
    record = bead.record
    if record.claim and not record.job and not record.outcome:
        return last_sign + timedelta(seconds=limits.claim_timeout_seconds)
    return last_sign + timedelta(minutes=limits.reap_after_minutes)


def _all_but_retry(one: Diagnosis) -> bool:
    return all(holds for condition, holds in one.conditions.items() if condition != "retry")


def _refused(one: Diagnosis) -> str:
    return f"refused {one.bead.record.failures} times in a row" if one.bead.record.failures > 1 else "refused once"


def _why(one: Diagnosis, moment: datetime) -> str:
    reasons = {
        "acceptance": "no acceptance criteria",
        "template": "a template",
        "metadata": f"metadata is a JSON {one.metadata_type.lower()}",
        "retry": "cooling down",
    }
    if one.ephemeral:
        reasons["ready"] = "ephemeral"
    elif one.deferred_until is not None and one.deferred_until > moment:
        reasons["ready"] = f"deferred until {terminal.moment(one.deferred_until)}"
    else:
        reasons["ready"] = "blocked"
    return ", ".join(words for condition, words in reasons.items() if not one.conditions[condition])


def _feed(beads: Store) -> FeedStatus:
    try:
        stored = beads.feed_state.position()
        executed = beads.feed_state.executed()
    except StoreError as exc:
        return FeedStatus(None, None, str(exc))
    if stored is None:
        return FeedStatus(None, None, "no feeder has stored a position on this server")
    try:
        return FeedStatus(stored, behind(executed, stored))
    except ValueError:
        return FeedStatus(stored, None, "a GTID set cannot be read")


def behind(executed: str, position: str) -> int:
    """How many transactions are in one GTID set and not in another. Pure. Raises ValueError.

    Counted here because Dolt 2.2.0's GTID_SUBTRACT counts twice where the second set has several intervals.
    """
    done = _intervals(position)
    number = 0
    for server, intervals in _intervals(executed).items():
        for first, last in intervals:
            number += last - first + 1
            number -= sum(max(0, min(last, end) - max(first, start) + 1) for start, end in done.get(server, []))
    return number


def _intervals(gtid_set: str) -> dict[str, list[tuple[int, int]]]:
    """`uuid:1-5:7,uuid:3` as the first and last number of each interval, per server."""
    found: dict[str, list[tuple[int, int]]] = {}
    for part in filter(None, re.split(r"[,\s]+", gtid_set)):
        server, *intervals = part.split(":")
        for interval in intervals:
            first, _, last = interval.partition("-")
            found.setdefault(server.lower(), []).append((int(first), int(last or first)))
    return found


def lines(found: StatusReport, paint: terminal.Paint) -> list[str]:
    """The status as people read it."""
    return [
        _switch("dispatch", found.dispatch_suspended, paint),
        _switch("reap", found.reap_suspended, paint),
        _hold(found, paint),
        _feed_line(found.feed),
        "",
        *_at_work_lines(found, paint),
        *_section(
            f"Waiting, in the order in which they go: {len(found.waiting)}",
            ("", "bead", "priority", "title"),
            [
                (f"{number}.", one.bead, f"P{one.priority}", one.title)
                for number, one in enumerate(found.waiting, start=1)
            ],
        ),
        *_section(
            f"Cooling down: {len(found.cooling)}",
            ("bead", "until", "why", "title"),
            [(one.bead, one.until or "", one.why, one.title) for one in found.cooling],
        ),
        *_section(
            f"Assigned and open, but not eligible: {len(found.not_eligible)}",
            ("bead", "why", "title"),
            [(one.bead, one.why, one.title) for one in found.not_eligible],
            "`beads-dispatch explain <bead>` says more, and what mends it.",
        ),
        _reap_line(found),
    ]


def _switch(name: str, said: str | None, paint: terminal.Paint) -> str:
    state = paint(f"suspended: {terminal.text(said, 120)}", "red") if said else paint("on", "green")
    return f"{name + ':':<10} {state}"


def _hold(found: StatusReport, paint: terminal.Paint) -> str:
    if found.held_until is None:
        return f"{'hold:':<10} none"
    left = terminal.span(found.held_until - found.at)
    said = f"until {terminal.moment(found.held_until)} ({left} more): {terminal.text(found.held_for, 200)}"
    return f"{'hold:':<10} {paint(said, 'red')}"


def _feed_line(feed: FeedStatus) -> str:
    if feed.behind is None:
        return f"{'feed:':<10} unknown: {terminal.text(feed.why, 200)}"
    # Storing the position is itself a transaction; while there is nothing to tell, it is stored once a minute.
    late = f"{feed.behind} transactions behind (up to a minute's worth that tells nothing is normal)"
    state = "up to date" if feed.behind <= 1 else late
    return f"{'feed:':<10} {state}, position {terminal.text(feed.position or '', 100)}"


def _at_work_lines(found: StatusReport, paint: terminal.Paint) -> list[str]:
    rows = [
        (
            one.bead,
            one.job or one.outcome or "-",
            one.claimed_at or "not by us",
            f"{terminal.span(found.at - one.last_sign)} ago, {one.sign}",
            terminal.moment(one.reap_at) if one.reap_at > found.at else "due",
            one.title,
        )
        for one in found.at_work
    ]
    header = ("bead", "job", "claimed", "last sign of life", "reap if silent until", "title")
    return _section(f"At work: {len(found.at_work)} (at most {found.max_in_flight} at once)", header, rows)


def _reap_line(found: StatusReport) -> str:
    if not found.to_reopen and not found.to_block:
        return "Reap would take nothing now."
    said = []
    if found.to_reopen:
        said.append(f"open again {', '.join(found.to_reopen)} (claimed, and nothing came of it)")
    if found.to_block:
        said.append(f"block {', '.join(found.to_block)} (silent)")
    when = "when it is resumed" if found.reap_suspended else "at its next tick"
    return f"Reap would {when} {' and '.join(said)}."


def _section(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], hint: str = "") -> list[str]:
    """A titled table, with a hint below it; only the title where there is nothing in it."""
    safe = [tuple(terminal.text(cell, 50) for cell in row) for row in rows]
    return [title, *(terminal.table(header, safe) if rows else []), *([f"  {hint}"] if rows and hint else []), ""]
