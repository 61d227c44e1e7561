"""The agent's side: what every backend can be asked, and the ways in which it can fail.

What matters after a start is whether the job may be running.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

from beads_dispatch import settings
from beads_dispatch.bead import Bead

# 4xx that are not about the bead: about our identity, our request rate, or a busy agent (409).
_NOT_THE_BEAD = frozenset({401, 403, 407, 408, 409, 425, 429})


class AgentError(Exception):
    """Base of the ways in which a backend gives no answer that helps."""


class Unreachable(AgentError):
    """No connection, or no usable answer to a question: nothing was started by it."""


class Refused(AgentError):
    """Answered, and not with a job: nothing runs. `counts`: whether it counts against the bead."""

    def __init__(self, code: int, body: str, counts: bool | None = None) -> None:
        """`code`: 0 where the bead was not even sent. `counts`: None where the code tells."""
        super().__init__(f"HTTP {code}")
        self.code = code
        self.body = body
        self.counts = 400 <= code < 500 and code not in _NOT_THE_BEAD if counts is None else counts


class UnknownOutcome(AgentError):
    """Sent, but the answer is missing, cut short or not understood: the job may be running."""


class CannotTell(AgentError):
    """The backend has no way to find the job of a claim."""


class Phase(StrEnum):
    """How far a job is. UNKNOWN: the backend cannot tell."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class JobState:
    """A job's phase; `why` says in words why it failed, or where it can be looked at."""

    phase: Phase
    why: str = ""


@dataclass(frozen=True)
class Load:
    """What runs at the agent. `running`: its jobs, ours and others', waiting ones among them; None where it does not
    count them. `busy`: it takes no job now."""

    running: int | None = None
    busy: bool = False


class Backend(Protocol):
    """What takes the job. An instance is kept for the life of a process, and used by any number of threads."""

    tells_jobs: bool  # whether `state` can tell how a job ended

    def start(self, bead: str, claim: str, traceparent: str = "", hints: Mapping[str, str] | None = None) -> str:
        """Start a job for a bead; returns the job's id. `claim`: our token, a UUID, for `find`. `hints`: bd's, by the
        name behind `execution_suggested_` (model, reasoning_effort, …); a backend that can take them passes on those
        that the agent's settings allow.

        Raises Unreachable (nothing was sent), Refused or UnknownOutcome.
        """

    def state(self, job: str) -> JobState:
        """How far a job is; a job that the backend has lost has FAILED. Raises Unreachable."""

    def find(self, claim: str, bead: str, hints: Mapping[str, str] | None = None) -> str | None:
        """The job of a claim, of that bead in progress, whose answer was lost; None where it was never started.
        `hints`: the bead's database, for a backend that can only find a job by starting it.

        Raises Unreachable, CannotTell.
        """

    def load(self) -> Load:
        """What runs there now. Raises Unreachable."""

    def probe(self) -> None:
        """After a failure: find out by a request that costs no bead whether it can work, where `load` does not show
        it. Raises Unreachable."""


def whereabouts(bead: Bead) -> dict[str, str]:
    """The hint that names a bead's database, where several are served."""
    return {settings.DATABASE: bead.database} if bead.database else {}


# By the name in the settings: module and class. A module is imported when an agent uses it.
BACKENDS = {
    "beadboard": ("beadboard", "BeadBoard"),
    "claude-agent-service": ("claude_agent_service", "ClaudeAgentService"),
    "a2a": ("a2a", "A2A"),
    "jobsink": ("jobsink", "JobSink"),
    "command": ("command", "Command"),
}


def backend(agent: settings.AgentSettings) -> Backend:
    """The agent's backend, which makes no connection yet."""
    module, name = BACKENDS[agent.backend]
    return cast(Backend, getattr(importlib.import_module(f"{__name__}.{module}"), name)(agent))
