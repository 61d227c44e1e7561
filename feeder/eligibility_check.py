"""The gate: is there work that dispatch, or reap, would take now? Only then is anybody woken."""

import threading
from datetime import UTC, datetime, timedelta

from beads_dispatch import agents, log, store
from beads_dispatch.agents import beadboard, slots
from beads_dispatch.log import Action
from beads_dispatch.settings import DispatchLimits
from feeder.changes import RequestReason

logger = log.get("feeder")

_COUNTED = 10  # waiting beads; whether there is one is what matters, and a hundred cost ten times as much


class EligibilityCheck:
    """Asks Dolt, with the predicate that dispatch itself uses. For one thread at a time."""

    def __init__(self, beads: store.Store, limits: DispatchLimits, agent: beadboard.BeadBoard | None) -> None:
        self._beads = beads
        self._limits = rules
        self._agent = agent

    def waiting(self) -> int:
        """How many beads dispatch would take now, slots aside: a close comes a moment before its slot is free."""
        now = datetime.now(UTC)
        self._beads.refresh()
        count = self._beads.eligible.count(self._limits.assignee, now, _COUNTED, enough=1)
        if not count or self._beads.control.suspension().dispatch:
            return 0
        hold = self._beads.control.hold()
        return 0 if hold.until is not None and hold.until > now else count

    def waiting_with_slot(self) -> int:
        """As `waiting`, and 0 when no slot is free: a tick does not wake dispatch to find the agent busy."""
        count = self.waiting()
        if not count or self._agent is None:
            return count
        try:
            return count if slots.is_free(self._beads, self._agent, self._limits, datetime.now(UTC)) else 0
        except agents.Unreachable as exc:
            # Dispatch could only find out the same; the next tick asks again.
            logger.info(
                f"the agent service does not say whether it is busy ({exc})", extra=log.context(action=Action.SLOTS)
            )
            return 0

    def stuck(self) -> int:
        """How many beads reap would take back or block now."""
        now = datetime.now(UTC)
        self._beads.refresh()
        if self._beads.control.suspension().reap:
            return 0
        claims = now - timedelta(seconds=self._limits.claim_timeout_seconds)
        silent = now - timedelta(minutes=self._limits.reap_after_minutes)
        return len(self._beads.activity.orphaned_claims(self._limits.assignee, claims)) + len(
            self._beads.activity.inactive(self._limits.assignee, silent)
        )


class PendingRequest:
    """What the feed wants asked, beside its way: one request at a time, what comes meanwhile is one more."""

    def __init__(self) -> None:
        self._cause: RequestReason | None = None
        self._changed = threading.Condition()

    def ask(self, cause: RequestReason) -> None:
        """Note that work may be available. A freed slot is not forgotten for a mere change."""
        with self._changed:
            if self._cause is None or self._cause.cause != "slot":
                self._cause = cause
            self._changed.notify()

    def take(self, timeout_seconds: float) -> RequestReason | None:
        """Wait for a cause and take it; None after so long without one."""
        with self._changed:
            if self._cause is None:
                self._changed.wait(timeout_seconds)
            cause, self._cause = self._cause, None
            return cause
