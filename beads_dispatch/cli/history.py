"""What happened to a bead: its versions in Dolt's history as claims, jobs, failures and blocks. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import notes, store
from beads_dispatch.bead import POSTING, UNKNOWN, DispatchRecord, Status
from beads_dispatch.cli import terminal

# bd commits at most so long after the audit row of a change, whose time is cut to whole seconds.
_BEFORE_COMMIT = timedelta(seconds=3)

_record = DispatchRecord.from_metadata


@dataclass(frozen=True)
class HistoryEntry:
    """What one Dolt commit changed on a bead."""

    at: datetime
    what: str
    status: str  # the bead's, after it
    actor: str  # empty where it is unknown
    detail: str  # our note on it; empty where there is none
    commit: str


def entries(versions: Iterable[Mapping[str, Any]], audit: Iterable[Mapping[str, Any]]) -> list[HistoryEntry]:
    """The entries in what History.versions and History.audit returned, oldest first."""
    rows = list(audit)
    return [entry for version in versions if (entry := _entry(version, rows))]


def our_note(version: Mapping[str, Any]) -> str:
    """The note that we wrote with a version; empty where it is somebody else's."""
    return " / ".join(version["noted"].split("\n")).strip(" /") if _is_ours(version) else ""


def repeats_step(note: str) -> bool:
    """Whether a note of ours says no more than the step that it is written with."""
    return note.startswith((notes.CLAIMED, notes.DISPATCHED))


def _is_ours(version: Mapping[str, Any]) -> bool:
    # By its note, where a person released a claim by our command.
    return version["author"] in store.OURS or notes.is_ours(version["noted"])


def _entry(version: Mapping[str, Any], audit: list[Mapping[str, Any]]) -> HistoryEntry | None:
    at, author = version["at"].replace(tzinfo=UTC), version["author"]
    what = changes(version)
    if not what:
        return None
    actor = author if _is_ours(version) else _actor(at, version, audit) or author
    return HistoryEntry(at, ", ".join(what), version["to_status"], actor, our_note(version), version["commit"])


def changes(version: Mapping[str, Any]) -> list[str]:
    """What a version changed, of that which matters to dispatch."""
    before, after = _record(version["from_metadata"]), _record(version["to_metadata"])
    was, now = version["from_status"], version["to_status"]
    found = ["created"] if version["from_id"] is None else list(_fields(version))
    if (version["from_assignee"] or "") != (version["to_assignee"] or ""):
        found.append(f"assigned to {version['to_assignee'] or 'nobody'}")
    claimed = after.claim is not None and after.claim != before.claim
    if claimed:
        found.append(f"claimed, attempt {after.attempt}")
    if after.job and after.job != before.job:
        found.append(f"dispatched, job {after.job}")
    if after.outcome and after.outcome != before.outcome:
        found.append({POSTING: "POST begun", UNKNOWN: "outcome unknown"}.get(after.outcome, f"outcome {after.outcome}"))
    if was != now and was is not None and not (claimed and now == Status.IN_PROGRESS):
        found.append("released" if before.claim and now == Status.OPEN else f"became {now}")
    if after.failures > before.failures:
        found.append(f"refusal {after.failures} in a row")
    if after.retry_at and after.retry_at != before.retry_at:
        found.append(f"retry from {after.retry_at}")
    return found


def _fields(version: Mapping[str, Any]) -> Iterator[str]:
    """The changes of columns that decide whether and when a bead is dispatched."""
    if version["from_accepted"] != version["to_accepted"]:
        yield "acceptance criteria " + ("written" if version["to_accepted"] else "removed")
    if version["from_priority"] != version["to_priority"]:
        yield f"priority P{version['to_priority']}"
    if version["from_defer_until"] != version["to_defer_until"]:
        until = version["to_defer_until"]
        yield f"deferred until {terminal.moment(until.replace(tzinfo=UTC))}" if until else "no longer deferred"


def _actor(at: datetime, version: Mapping[str, Any], audit: list[Mapping[str, Any]]) -> str:
    """Who is in the audit row that was written with a commit: of those just before it the one that names what the
    version changed, first of all its new status; of several the newest."""
    changed = [column for column in ("status", "assignee") if version[f"from_{column}"] != version[f"to_{column}"]]
    status = version["to_status"] if "status" in changed else ""

    def match(row: Mapping[str, Any]) -> tuple[bool, int]:
        return bool(status) and status in row["what"], sum(column in row["what"] for column in changed)

    near = [
        row
        for row in reversed(audit)
        if at - _BEFORE_COMMIT <= row["created_at"].replace(tzinfo=UTC) <= at and row["actor"] not in store.OURS
    ]
    best = max(near, key=match, default=None)
    return str(best["actor"]) if best else ""
