"""The gate: is there work that dispatch, or reap, would take now? Only then is anybody woken."""

import threading
from datetime import UTC, datetime, timedelta

from beads import agent as agents
from beads import log, slots, store
from beads.settings import Rules
from feeder.changes import Cause

logger = log.get("feeder")

_COUNTED = 10  # waiting beads; whether there is one is what matters, and a hundred cost ten times as much


class Gate:
    """Asks Dolt, with the predicate that dispatch itself uses. For one thread at a time."""

    def __init__(self, beads: store.Store, rules: Rules, agent: agents.AgentService | None) -> None:
        self._beads = beads
        self._rules = rules
        self._agent = agent

    def waiting(self) -> int:
        """How many beads dispatch would take now, slots aside: a close comes a moment before its slot is free."""
        now = datetime.now(UTC)
        self._beads.refresh()
        count = self._beads.count_eligible(self._rules.assignee, now, _COUNTED, enough=1)
        if not count or self._beads.switch().dispatch:
            return 0
        hold = self._beads.hold()
        return 0 if hold.until is not None and hold.until > now else count

    def waiting_with_slot(self) -> int:
        """As `waiting`, and 0 when no slot is free: a tick does not wake dispatch to find the agent busy."""
        count = self.waiting()
        if not count or self._agent is None:
            return count
        try:
            return count if slots.free(self._beads, self._agent, self._rules, datetime.now(UTC)) else 0
        except agents.Unreachable as exc:
            # Dispatch could only find out the same; the next tick asks again.
            logger.info(f"the agent service does not say whether it is busy ({exc})", extra=log.context(action="gate"))
            return 0

    def stuck(self) -> int:
        """How many beads reap would take back or block now."""
        now = datetime.now(UTC)
        self._beads.refresh()
        if self._beads.switch().reap:
            return 0
        claims = now - timedelta(seconds=self._rules.claim_timeout_seconds)
        silent = now - timedelta(minutes=self._rules.reap_after_minutes)
        return len(self._beads.abandoned(self._rules.assignee, claims)) + len(
            self._beads.stuck(self._rules.assignee, silent)
        )


class Wanted:
    """What the feed wants asked, beside its way: one request at a time, what comes meanwhile is one more."""

    def __init__(self) -> None:
        self._cause: Cause | None = None
        self._changed = threading.Condition()

    def ask(self, cause: Cause) -> None:
        """Note that work may be available. A freed slot is not forgotten for a mere change."""
        with self._changed:
            if self._cause is None or self._cause.cause != "slot":
                self._cause = cause
            self._changed.notify()

    def take(self, timeout_seconds: float) -> Cause | None:
        """Wait for a cause and take it; None after so long without one."""
        with self._changed:
            if self._cause is None:
                self._changed.wait(timeout_seconds)
            cause, self._cause = self._cause, None
            return cause
