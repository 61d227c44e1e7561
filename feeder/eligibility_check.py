"""Is there work that dispatch, or reap, would do now? Only then is a pass requested."""

from datetime import UTC, datetime

from beads_dispatch import agents, log, reaper, store
from beads_dispatch.agents import Backend, slots
from beads_dispatch.log import Action
from beads_dispatch.settings import DispatchLimits

logger = log.get("feeder")

_COUNTED = 10  # eligible beads; whether there is one is what matters, and a hundred cost ten times as much


class EligibilityCheck:
    """Asks Dolt, with the predicate that dispatch itself uses. For one thread at a time; raises StoreError."""

    def __init__(self, beads: store.Store, limits: DispatchLimits, backend: Backend | None) -> None:
        """`beads` is its own. Without `backend`, every slot counts as free."""
        self._beads = beads
        self._limits = limits
        self._backend = backend

    def count_eligible(self) -> int:
        """How many beads dispatch would take now, slots aside: a close comes a moment before its slot is free."""
        now = datetime.now(UTC)
        self._beads.refresh()
        count = self._beads.eligible.count(self._limits.assignee, now, _COUNTED, enough=1)
        if (
            not count
            or self._beads.control.suspension().dispatch
            or self._beads.control.hold(self._limits.assignee).active_at(now)
        ):
            return 0
        return count

    def next_due(self, now: datetime) -> datetime | None:
        """The next moment at which work may come up by itself: a defer date, or the end of a retry delay or a hold."""
        hold = self._beads.control.hold(self._limits.assignee)
        due = self._beads.eligible.next_due(self._limits.assignee, now)
        return min(filter(None, (hold.until if hold.active_at(now) else None, due)), default=None)

    def count_eligible_with_slot(self) -> int:
        """As count_eligible, and 0 when no slot is free: a tick does not start dispatch to find the agent busy."""
        count = self.count_eligible()
        if not count or self._backend is None:
            return count
        try:
            return count if slots.is_free(self._beads, self._backend, self._limits, datetime.now(UTC)) else 0
        except agents.Unreachable as exc:
            # Dispatch would only find out the same; the next tick asks again.
            logger.info(f"the agent does not answer whether it is busy ({exc})", extra=log.context(action=Action.SLOTS))
            return 0

    def count_reapable(self) -> int:
        """How many beads reap would release, block or mark now."""
        now = datetime.now(UTC)
        self._beads.refresh()
        if self._beads.control.suspension().reap:
            return 0
        asked = (reaper.orphaned, reaper.inactive, reaper.dated_ahead)
        return sum(len(find(self._beads, self._limits, now)) for find in asked)
