"""What the store returns besides beads: frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from beads_dispatch.bead import Bead
from beads_dispatch.suspension import Suspension

# The actors of our writes, in `events`, in Dolt's log and in notes.
DISPATCHER = "beads-dispatcher"
REAPER = "beads-reaper"
OURS = (DISPATCHER, REAPER)

# In the reason of a hold.
REFUSES_ALL = "it refuses every bead"
FAILS_ALL = "each job fails within a minute"

AHEAD = timedelta(hours=2)  # no hold lasts so long, no retry delay either: a clock that is ahead wrote what is later

# Values of Blocker.how besides the types of dependencies.
DEFERRED_PARENT = "deferred parent"
CHILD = "child"  # of an epic


@dataclass(frozen=True)
class PublishedState:
    """A bead as it was published last, and the id of that change event."""

    assignee: str  # empty for nobody
    status: str
    event: str


@dataclass(frozen=True)
class Hold:
    """Dispatch is held until `until` after `failures` failures of the agent in a row."""

    failures: int = 0
    until: datetime | None = None
    reason: str = ""

    @property
    def refusing(self) -> bool:
        """Whether the agent refused one bead after the other."""
        return REFUSES_ALL in self.reason

    @property
    def failing(self) -> bool:
        """Whether one job after the other failed soon after its start: that one is accepted proves nothing."""
        return FAILS_ALL in self.reason

    def active_at(self, moment: datetime) -> bool:
        """Whether dispatch is held at a moment. One that a clock ahead began must not hold dispatch until then."""
        return self.until is not None and moment < self.until <= moment + AHEAD


@dataclass(frozen=True)
class AgentOverview:
    """What one agent has to do at a moment."""

    eligible: int  # beads; suspension, hold and slots aside
    oldest: datetime | None  # the oldest `updated_at` among them
    running: int  # beads in progress for the agent
    hold: Hold
    in_progress: Mapping[tuple[str, str], datetime]  # the newest activity, of those that reap looks at: see Bead.key


@dataclass(frozen=True)
class Overview:
    """What there is to do at a moment, and what keeps it from being done."""

    agents: Mapping[str, AgentOverview]  # by name
    suspension: Suspension
    suspended_since: Mapping[str, datetime]  # by dispatch, reap: those that are
    executed: str  # the set of GTIDs that the server has executed
    held_since: Mapping[str, datetime] = field(default_factory=dict)  # by agent: those that fail


@dataclass(frozen=True)
class Diagnosis:
    """A bead, and whether each condition of the predicate holds for it."""

    bead: Bead
    conditions: Mapping[str, bool]  # by the names of the predicate
    issue_type: str
    deferred_until: datetime | None
    metadata_type: str  # as JSON_TYPE names it; NULL without metadata
    hints: Mapping[str, str] = field(default_factory=dict)  # bd's, by the names of settings.HINTS

    def holds(self, *, except_for: str = "") -> bool:
        """Whether every condition holds, one aside."""
        return all(holds for name, holds in self.conditions.items() if name != except_for)


@dataclass(frozen=True)
class Blocker:
    """Another bead that keeps a bead from being ready."""

    bead: str
    title: str
    status: str
    how: str  # the type of the dependency, DEFERRED_PARENT or CHILD
    through: str  # the bead that it blocks: the one asked about, or an ancestor of it
    via: str | None = None  # of waits-for: the bead whose child this is
    gate: str | None = None  # what a gate waits for, `timer` for example; None for other beads
    deferred_until: datetime | None = None


@dataclass(frozen=True)
class Wisp:
    """A bead in bd's table `wisps`, which has no history: ephemeral, or made with --no-history."""

    bead: str
    title: str
    ephemeral: bool
    movable: bool  # whether this bd can move it to `issues`


@dataclass(frozen=True)
class Activity:
    """The newest activity on a bead: when, and what it was in words."""

    at: datetime
    what: str


@dataclass(frozen=True)
class Commit:
    """A Dolt commit."""

    hash: str
    at: datetime
    author: str
    message: str
