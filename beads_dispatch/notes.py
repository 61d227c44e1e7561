"""The notes we write on a bead, byte for byte: other people's scripts read them.

Pure. One line each; a note is appended to `notes` after a line break, as `bd note` does.
"""

from datetime import UTC, datetime

CLAIMED = "auto-dispatcher claimed at"
DISPATCHED = "dispatched: job="
DISPATCH_FAILED = "dispatch failed HTTP"
OUTCOME_UNKNOWN = "dispatch outcome unknown:"
WITHDRAWN = "auto-dispatcher withdrew its claim"
CLAIM_EXPIRED = "auto-dispatcher claim expired"
NO_PROGRESS = "reaper: no progress"

_OURS = ("auto-dispatcher ", "dispatched: ", "dispatch ", "reaper: ")  # how every note of ours begins

_ANSWER_LIMIT = 500  # characters of an agent's answer that are kept


def timestamp(moment: datetime) -> str:
    """`2026-07-15T09:30:00Z`: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(written: object) -> datetime | None:
    """What `timestamp` wrote, or another moment in ISO 8601, UTC-aware; UTC where it names no zone. None for everything
    else: people may edit what holds it."""
    if not isinstance(written, str):
        return None
    try:
        found = datetime.fromisoformat(written)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # no date, or one that is outside the calendar in UTC
        return None


def one_line(text: str, limit: int = _ANSWER_LIMIT) -> str:
    """Text from elsewhere, made safe for a note: no line breaks or control characters, at most `limit`.

    Without this an agent's answer could forge a note of ours on a line of its own.
    """
    return "".join(char if char.isprintable() else " " for char in text)[:limit]


def claimed(moment: datetime) -> str:
    return f"{CLAIMED} {timestamp(moment)}"


def dispatched(job_id: str) -> str:
    return f"{DISPATCHED}{job_id}"


def since_claim(text: str, at: str | None) -> str | None:
    """The end of a bead's notes, from the claim at that moment on: the claim's note, and what came of it. None where
    there is no such claim, or somebody added a note."""
    lines = text.split("\n")
    claims = [number for number, line in enumerate(lines) if line == f"{CLAIMED} {at}"]
    if not claims or not all(line.startswith((DISPATCHED, OUTCOME_UNKNOWN)) for line in lines[claims[-1] + 1 :]):
        return None
    return "\n".join(lines[claims[-1] :])


def dispatch_failed(code: int, body: str) -> str:
    """`code` is 0 when there was no answer at all, written as curl writes it: 000."""
    return f"{DISPATCH_FAILED} {code:03d}: {one_line(body)}"


def not_sent() -> str:
    return "auto-dispatcher claim released: Dolt failed before the POST — reopening"


def outage() -> str:
    return "dispatch goes on trying; further failures of the agent service are not noted here"


def not_counted() -> str:
    return "dispatch refusal not counted: the agent service refuses every bead"


def job_not_counted() -> str:
    return "dispatch job not counted: each job of the agent service fails"


def given_up(jobs: int) -> str:
    return f"dispatch given up after {jobs} jobs without a change by anybody else — blocking"


def blocked_after(failures: int) -> str:
    return f"dispatch failed {failures} times — blocking"


def outcome_unknown(why: str) -> str:
    return f"{OUTCOME_UNKNOWN} {one_line(why)}"


def withdrawn(why: str) -> str:
    return f"{WITHDRAWN}: {why}"


def claim_expired(timeout_seconds: float) -> str:
    return f"{CLAIM_EXPIRED}: no job and no sign of life for {timeout_seconds:g}s — reopening"


def released(actor: str) -> str:
    return f"auto-dispatcher claim released by {one_line(actor, 100)} — reopening"


def no_progress(silent_minutes: int, threshold_minutes: float) -> str:
    return f"{NO_PROGRESS} for {silent_minutes}m (threshold {threshold_minutes:g}m) — blocking"


def job_ended(job: str) -> str:
    return f"reaper: job {one_line(job)} ended and left the bead in progress — blocking"


def job_failed(job: str, why: str) -> str:
    return f"reaper: job {one_line(job)} failed: {one_line(why)} — reopening"


def never_started() -> str:
    return "reaper: the agent service has no job of the claim whose outcome was unknown — reopening"


def is_ours(note: str) -> bool:
    """Whether a note begins as ours do."""
    return note.strip().startswith(_OURS)
