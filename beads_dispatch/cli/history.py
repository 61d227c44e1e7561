"""What happened to a bead: its versions in Dolt's history, told as claims, jobs, failures and blocks. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import store
from beads_dispatch.bead import POSTING, UNKNOWN, DispatchRecord
from beads_dispatch.cli import terminal

# bd commits at most so long after the audit row of a change, whose time is cut to whole seconds.
_BEFORE_COMMIT = timedelta(seconds=3)


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened to a bead."""

    at: datetime
    what: str
    actor: str  # empty where nobody said
    detail: str  # our note on it; empty where there is none
    commit: str


def steps(versions: Iterable[Mapping[str, Any]], audit: Iterable[Mapping[str, Any]]) -> list[HistoryEntry]:
    """The steps in what Store.versions and Store.audit returned, oldest first."""
    who = list(audit)
    return [step for version in versions for step in _steps_of(version, who)]


def _steps_of(version: Mapping[str, Any], audit: list[Mapping[str, Any]]) -> Iterator[HistoryEntry]:
    at = version["at"].replace(tzinfo=UTC)
    what = changes(version)
    if what:
        ours = version["author"] in store.OURS
        actor = version["author"] if ours else _actor(at, version, audit) or version["author"]
        detail = " / ".join(version["noted"].split("\n")).strip(" /") if ours or _ours(version["noted"]) else ""
        yield HistoryEntry(at, ", ".join(what), actor, detail, version["commit"])


def changes(version: Mapping[str, Any]) -> list[str]:
    """What a version changed, of that which matters to dispatch."""
    before, after = record(version["from_metadata"]), record(version["to_metadata"])
    was, now = version["from_status"], version["to_status"]
    found = []
    if version["from_id"] is None:
        found.append("created")
    else:
        found += _fields(version)
    if (version["from_assignee"] or "") != (version["to_assignee"] or ""):
        found.append(f"assigned to {version['to_assignee']}" if version["to_assignee"] else "assigned to nobody")
    claimed = after.claim is not None and after.claim != before.claim
    if claimed:
        found.append(f"claimed, attempt {after.attempt}")
    if after.job and after.job != before.job:
        found.append(f"dispatched, job {after.job}")
    if after.outcome and after.outcome != before.outcome:
        found.append({POSTING: "POST begun", UNKNOWN: "outcome unknown"}.get(after.outcome, f"outcome {after.outcome}"))
    if was != now and was is not None and not (claimed and now == "in_progress"):
        found.append("given back" if before.claim and now == "open" else f"became {now}")
    if after.failures > before.failures:
        found.append(f"refusal {after.failures} in a row")
    if after.retry_at and after.retry_at != before.retry_at:
        found.append(f"retry from {after.retry_at}")
    return found


def _fields(version: Mapping[str, Any]) -> Iterator[str]:
    """The changes of columns that decide whether and when a bead goes."""
    if version["from_accepted"] != version["to_accepted"]:
        yield "acceptance criteria " + ("written" if version["to_accepted"] else "taken away")
    if version["from_priority"] != version["to_priority"]:
        yield f"priority P{version['to_priority']}"
    if version["from_defer_until"] != version["to_defer_until"]:
        until = version["to_defer_until"]
        yield f"deferred until {terminal.moment(until.replace(tzinfo=UTC))}" if until else "not deferred any more"


def record(metadata: Any) -> DispatchRecord:
    """What is under metadata.dispatch; empty where metadata is none or no JSON."""
    try:
        return DispatchRecord.from_metadata(json.loads(metadata) if isinstance(metadata, str | bytes) else metadata)
    except ValueError:
        return DispatchRecord()


def _actor(at: datetime, version: Mapping[str, Any], audit: list[Mapping[str, Any]]) -> str:
    """Who is in the audit row that was written with a commit: the newest just before it, of several in the same seconds
    one that names what the version changed."""
    words = [
        word
        for column, word in (("assignee", "assignee"), ("status", "status"), ("status", str(version["to_status"])))
        if version[f"from_{column}"] != version[f"to_{column}"]
    ]
    near = [
        row
        for row in audit
        if at - _BEFORE_COMMIT <= row["created_at"].replace(tzinfo=UTC) <= at and row["actor"] not in store.OURS
    ]
    naming = [row for row in near if any(word in row["what"] for word in words)]
    return str((naming or near)[-1]["actor"]) if near else ""


def _ours(noted: str) -> bool:
    return noted.strip().startswith(("auto-dispatcher ", "dispatched: ", "dispatch ", "reaper: "))
