"""What a dispatch pass can do, and how it is written in the log. Ordinary outcomes are values, not exceptions. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch import notes
from beads_dispatch.bead import Bead


@dataclass(frozen=True)
class Suspended:
    """A person suspended dispatch."""

    why: str


@dataclass(frozen=True)
class Held:
    """The agent failed lately; dispatch is held."""

    until: datetime
    reason: str


@dataclass(frozen=True)
class NoSlot:
    """The concurrency limit is reached."""


@dataclass(frozen=True)
class NothingEligible:
    """The queue is empty."""


@dataclass(frozen=True)
class LostRace:
    """Somebody else changed the bead before our claim."""

    bead: Bead


@dataclass(frozen=True)
class Withdrawn:
    """A person's change was merged with our claim; our part is undone."""

    bead: Bead
    why: str


@dataclass(frozen=True)
class Dispatched:
    """The agent has a job for the bead."""

    bead: Bead
    job: str


@dataclass(frozen=True)
class StillRunning:
    """The bead was opened again, and its agent knows that its last job runs: no second one is started."""

    bead: Bead
    job: str


@dataclass(frozen=True)
class Rejected:
    """The agent refused this bead; it has a retry delay, or is blocked."""

    bead: Bead
    code: int
    blocked: bool


@dataclass(frozen=True)
class AgentFailed:
    """The agent failed; dispatch is held. `bead` is None when none had been claimed yet."""

    bead: Bead | None
    why: str
    hold_seconds: int


@dataclass(frozen=True)
class OutcomeUnknown:
    """The POST was sent and no usable answer came; the job may run. Dispatch is held."""

    bead: Bead
    why: str
    hold_seconds: int


@dataclass(frozen=True)
class GivenUp:
    """The bead had as many jobs as one may have; it is blocked."""

    bead: Bead
    jobs: int


@dataclass(frozen=True)
class PassEnded:
    """The pass ended between two beads, before it knew that there are no more: another is to go on."""

    why: str


# The last outcome of a pass: why it stopped.
Stop = Suspended | Held | NoSlot | NothingEligible | AgentFailed | OutcomeUnknown | PassEnded
Outcome = Stop | LostRace | Withdrawn | StillRunning | Dispatched | Rejected | GivenUp


def is_warning(outcome: Outcome) -> bool:
    """Whether an outcome is a failure of the agent's side."""
    return isinstance(outcome, AgentFailed | OutcomeUnknown | Rejected | GivenUp)


def beads_by_outcome(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """The ids of the beads of a pass, by outcome: `dispatched`, `lost_race`, `rejected`, …"""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        bead = getattr(outcome, "bead", None)
        if bead is not None:
            kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(outcome).__name__)
            found.setdefault(kind.lower(), []).append(bead.id)
    return found


def summary(outcomes: Sequence[Outcome]) -> str:
    """A pass as one line: what it did, and why it stopped. `dispatched 1 (x-12); queue empty`"""
    done = [
        f"{kind.replace('_', ' ')} {len(beads)} ({', '.join(beads)})"
        for kind, beads in beads_by_outcome(outcomes[:-1]).items()
    ]
    return "; ".join([*done, describe(outcomes[-1])])


def describe(outcome: Outcome) -> str:
    """An outcome in words."""
    match outcome:
        case Suspended(why):
            return f"suspended: {why}"
        case Held(until, reason):
            return f"held until {notes.timestamp(until)}: {reason}"
        case LostRace(bead):
            return f"{bead.id}: somebody else changed it first"
        case Withdrawn(bead, why):
            return f"{bead.id}: claim withdrawn: {why}"
        case StillRunning(bead, job):
            return f"{bead.id}: its last job {job} still runs"
        case Rejected(bead, code, blocked):
            return f"{bead.id}: refused with HTTP {code}, {'blocked' if blocked else 'to be retried'}"
        case AgentFailed(bead, why, seconds):
            return f"agent failed ({why}); dispatch is held for {seconds} s" + (
                f", {bead.id} is open again" if bead else ""
            )
        case OutcomeUnknown(bead, why, seconds):
            return f"{bead.id}: outcome unknown ({why}); dispatch is held for {seconds} s"
        case GivenUp(bead, jobs):
            return f"{bead.id}: blocked after {jobs} jobs"
        case Dispatched(bead, job):
            return f"{bead.id}: job {job}"
        case PassEnded(why):
            return f"ended before the queue was empty: {why}"
        case NoSlot():
            return "no free slot"
        case NothingEligible():
            return "queue empty"
