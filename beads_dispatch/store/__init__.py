"""Every SQL statement of this system, by subject: the one place that knows bd's schema."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TypeVar

from beads_dispatch import settings
from beads_dispatch.store import layout
from beads_dispatch.store.activity import ActivityReads
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.connection import STATEMENT_SECONDS, Line, connect
from beads_dispatch.store.control import Control
from beads_dispatch.store.eligible import Eligible, Probe
from beads_dispatch.store.errors import ClaimLost, NewerLayout, StoreError
from beads_dispatch.store.feed_state import PAGE, Deaths, FeedState, Published
from beads_dispatch.store.feeders import BEAT_SECONDS, Beat, FeederReport, Feeders, FeedLock
from beads_dispatch.store.history import History
from beads_dispatch.store.records import (
    CHILD,
    DEFERRED_PARENT,
    DISPATCHER,
    FAILS_ALL,
    OURS,
    REAPER,
    REFUSES_ALL,
    Activity,
    AgentOverview,
    Blocker,
    Commit,
    Diagnosis,
    Hold,
    Overview,
    PublishedState,
    Wisp,
)
from beads_dispatch.store.server import ServerReads, ServerState
from beads_dispatch.store.session import STATE_DATABASE, Rows, Session
from beads_dispatch.store.snapshot import Snapshot

T = TypeVar("T")


class Store:
    """The beads of one database, each subject an attribute. Not thread-safe: one Store per thread.

    Connects when first used. Every method, of the subjects too, raises StoreError when Dolt cannot be reached or
    refuses.
    """

    def __init__(
        self,
        dolt: settings.DoltSettings,
        statement_seconds: float = STATEMENT_SECONDS,
        lines: tuple[Line, Line] | None = None,
    ) -> None:
        """`lines`: connections that are shared with the Stores of other databases, in the same thread."""
        self._session = Session(dolt, statement_seconds, lines)
        self.eligible = Eligible(self._session)
        self.claims = Claims(self._session)
        self.feeders = Feeders(self._session)
        self.activity = ActivityReads(self._session, self.feeders.resumed_at)
        self.control = Control(self._session)
        self.feed_state = FeedState(self._session)
        self.history = History(self._session)
        self.server = ServerReads(self._session)

    def databases(self) -> Mapping[str, "Store"]:
        """The Store of each database, by name: this one, or those of several."""
        return {self._session.dolt.database: self}

    def serves(self, database: str) -> bool:
        """Whether it is one of them."""
        return database in self.databases()

    def find_databases(self) -> None:
        """Look which databases there are, where that may change."""

    def each(self, ask: Callable[["Store"], T], names: Collection[str] | None = None) -> dict[str, T]:
        """The answers of these databases, by name. Of several, one that refuses is left out, and logged."""
        return {name: ask(one) for name, one in self.databases().items()}

    def leave_out(self, name: str, exc: StoreError) -> None:
        """Of several, leave out the database that refused something. Raises `exc` where there is one alone, or where
        the server cannot be reached."""
        raise exc

    def overview(self, agents: Iterable[settings.DispatchLimits], now: datetime) -> Overview:
        """What the metrics show. At most 100 eligible beads are counted for each agent."""
        self.refresh()
        suspension, holds = self.control.suspension(), self.control.holds()
        return Overview(
            agents={one.assignee: self._of_agent(one, holds.get(one.assignee, Hold()), now) for one in agents},
            suspension=suspension,
            suspended_since=self.feed_state.suspended_since(suspension, now),
            executed=self.feed_state.executed(),
            held_since=self.feed_state.held_since(holds, now),
        )

    def _of_agent(self, limits: settings.DispatchLimits, hold: Hold, now: datetime) -> AgentOverview:
        eligible, oldest = self.eligible.oldest(limits.assignee, now)
        inactive = self.activity.inactive(limits.assignee, now, only_ours=limits.reap_only_ours)
        return AgentOverview(
            eligible=eligible,
            oldest=oldest,
            running=self.activity.count_in_progress(limits.assignee),
            hold=hold,
            in_progress={bead.key: bead.last_activity for bead in inactive if bead.last_activity},
        )

    def versions(self) -> tuple[str, int]:
        """Dolt's version, and the number of the newest migration of bd's schema."""
        newest = "(SELECT MAX(version) FROM schema_migrations)"
        row = self._session.rows(f"SELECT dolt_version() AS dolt, {newest} AS migration")[0]
        return row["dolt"], row["migration"]

    def write_lock(self) -> contextlib.AbstractContextManager[None]:
        """One of our processes writes at a time; see Session.write_lock."""
        return self._session.write_lock()

    def slot_lock(self, agent: str) -> contextlib.AbstractContextManager[bool]:
        """One of our processes counts an agent's slots and claims at a time; see Session.slot_lock."""
        return self._session.slot_lock(agent)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """All reads of the block at one moment, in a transaction in which Dolt refuses every write."""
        self._session.rows("START TRANSACTION READ ONLY")
        yield
        self._session.rows("ROLLBACK")  # after an error the connection is closed instead, by `close`

    def begin_pass(self) -> None:
        """As refresh. Raises StoreError, NewerLayout where only a newer version can use our own tables."""
        self.refresh()
        self.require_layout()

    def require_layout(self) -> None:
        """Raises NewerLayout where only a newer version can use our own tables."""
        layout.require(self._session)

    def refresh(self) -> None:
        """Drop connections that died since they were last used, so that a pass does not begin on one."""
        self._session.refresh()

    def close(self) -> None:
        """Close what is open; a later call connects again."""
        self._session.close()
