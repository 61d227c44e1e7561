"""A bead as this system sees it: frozen, built by `from_row`, logged by `log_context`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The statuses of bd that we write or look for; a bead may have others."""

    OPEN = "open"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    DEFERRED = "deferred"
    CLOSED = "closed"


# Values of DispatchRecord.outcome. With both, the job may run.
POSTING = "posting"
UNKNOWN = "unknown"

# The fields of DispatchRecord by their type in JSON.
_TEXTS = (
    "claim", "at", "job", "outcome", "ended_at", "retry_at", "refused_at", "failed_at", "foreign", "seen", "seen_at",
)  # fmt: skip
RECORD_NUMBERS = ("attempt", "failures", "outages", "others", "jobs")
COUNT_DIGITS = 6  # at most, of these


@dataclass(frozen=True)
class DispatchRecord:
    """What we keep under `metadata.dispatch` of a bead. Absent fields are left out of the JSON."""

    claim: str | None = None  # the token of the claim that holds the bead; None when none does
    attempt: int = 0  # claims so far
    at: str | None = None  # when it was claimed, `2026-07-15T09:30:00Z`
    # What was dated later than that at the claim already, with commas between: written by a clock that is ahead, it is
    # no activity of the agent.
    foreign: str | None = None
    # Where the claim, or activity after it, is dated ahead: the state of all activity (see store.activity.state) when
    # reap saw that, and when it did, same form as `at`. While the state is the same, that is the newest activity.
    seen: str | None = None
    seen_at: str | None = None
    job: str | None = None  # the agent's job
    outcome: str | None = None  # POSTING until the answer is recorded, UNKNOWN when none came; None otherwise
    ended_at: str | None = None  # when reap saw that the job had ended well, with the bead still in progress
    failures: int = 0  # refusals in a row that count against the bead
    outages: int = 0  # failures of the agent with this bead, since its last job
    retry_at: str | None = None  # not before this moment, same form as `at`
    refused_at: str | None = None  # when the agent refused it last, or where `job` is set, when that job failed
    failed_at: str | None = None  # when its last job failed, within a minute of its start
    others: int = 0  # audit rows by others when it was refused, or started, last; more of them end the retry delay
    jobs: int = 0  # jobs since somebody else changed it

    @property
    def is_unsent(self) -> bool:
        """Whether the claim has neither job nor outcome: nothing was sent."""
        return self.claim is not None and not self.job and not self.outcome

    @property
    def claimed_at(self) -> str | None:
        """When it was claimed, or where that is dated ahead, when reap saw it."""
        return min(filter(None, (self.at, self.seen_at)), default=None)

    @property
    def tried_at(self) -> str:
        """When the agent was sent it, refused it or failed with it, whichever was last."""
        return max(self.at or "", self.refused_at or "", self.failed_at or "")

    def to_json(self) -> str:
        """The JSON of `metadata.dispatch`."""
        return json.dumps({name: value for name, value in vars(self).items() if value})

    @classmethod
    def from_json(cls, found: Any) -> "DispatchRecord":
        """From `metadata.dispatch`, as JSON or parsed. What cannot be used is taken for absent: people may edit it."""
        found = _parsed(found)
        if not isinstance(found, dict):
            return cls()
        return cls(
            **{name: found[name] for name in _TEXTS if isinstance(found.get(name), str)},
            **{name: found[name] for name in RECORD_NUMBERS if _is_count(found.get(name))},
        )

    @classmethod
    def from_metadata(cls, metadata: Any) -> "DispatchRecord":
        """From a bead's whole metadata, as JSON or parsed."""
        found = _parsed(metadata)
        return cls.from_json(found.get("dispatch")) if isinstance(found, dict) else cls()


@dataclass(frozen=True)
class Bead:
    """One row of `issues`, the columns we look at. Datetimes are UTC-aware."""

    id: str
    title: str
    priority: int
    status: str
    assignee: str
    updated_at: datetime
    record: DispatchRecord = field(default_factory=DispatchRecord)
    row_lock: int | None = None  # bd 1.3.0 and newer: a random number that changes with every write
    last_activity: datetime | None = None  # newest activity; only in queries that select it
    database: str = ""  # where several are served

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Bead":
        """From a row of one of the store's queries."""
        return cls(
            id=row["id"],
            title=row["title"],
            priority=row["priority"],
            status=row["status"],
            assignee=row["assignee"] or "",
            updated_at=_utc(row["updated_at"]),
            record=DispatchRecord.from_json(row["dispatch"]),
            row_lock=row.get("row_lock"),
            last_activity=_utc(row["last_activity"]) if row.get("last_activity") else None,
        )

    @property
    def key(self) -> tuple[str, str]:
        """Database and id: two databases may have a bead of the same id."""
        return self.database, self.id

    @property
    def path(self) -> str:
        """The key as text, `alpha/x-1`: the id alone where one database is served."""
        return f"{self.database}/{self.id}" if self.database else self.id

    def log_context(self) -> dict[str, Any]:
        """For `log.context(**…)`: what identifies the bead, none of its text."""
        where = {"database": self.database} if self.database else {}
        return {"bead": self.id, **where, "priority": self.priority, "attempt": self.record.attempt}


def _utc(value: datetime) -> datetime:
    """Dolt's DATETIMEs carry no zone; bd writes UTC into them."""
    return value.replace(tzinfo=UTC)


def _parsed(value: Any) -> Any:
    """JSON parsed; None where that is impossible, for example because it is nested too deep."""
    try:
        return json.loads(value) if isinstance(value, str | bytes) else value
    except (ValueError, RecursionError):
        return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**COUNT_DIGITS
