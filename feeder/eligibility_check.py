"""Is there work that dispatch, or reap, would do now? Only then is a pass requested."""

import threading
from datetime import UTC, datetime

from beads_dispatch import agents, events, log, reaper, store
from beads_dispatch.agents import beadboard, slots
from beads_dispatch.log import Action
from beads_dispatch.settings import DispatchLimits
from feeder import changes, metrics
from feeder.changes import RequestReason
from feeder.emitter import Backoff, Emitter, SinkError

logger = log.get("feeder")

_COUNTED = 10  # eligible beads; whether there is one is what matters, and a hundred cost ten times as much


class EligibilityCheck:
    """Asks Dolt, with the predicate that dispatch itself uses. For one thread at a time; raises StoreError."""

    def __init__(self, beads: store.Store, limits: DispatchLimits, agent: beadboard.BeadBoard | None) -> None:
        """`beads` is its own. Without `agent`, every slot counts as free."""
        self._beads = beads
        self._limits = limits
        self._agent = agent

    def count_eligible(self) -> int:
        """How many beads dispatch would take now, slots aside: a close comes a moment before its slot is free."""
        now = datetime.now(UTC)
        self._beads.refresh()
        count = self._beads.eligible.count(self._limits.assignee, now, _COUNTED, enough=1)
        if not count or self._beads.control.suspension().dispatch or self._beads.control.hold().active_at(now):
            return 0
        return count

    def count_eligible_with_slot(self) -> int:
        """As count_eligible, and 0 when no slot is free: a tick does not start dispatch to find the agent busy."""
        count = self.count_eligible()
        if not count or self._agent is None:
            return count
        try:
            return count if slots.is_free(self._beads, self._agent, self._limits, datetime.now(UTC)) else 0
        except agents.Unreachable as exc:
            # Dispatch would only find out the same; the next tick asks again.
            logger.info(f"the agent does not answer whether it is busy ({exc})", extra=log.context(action=Action.SLOTS))
            return 0

    def count_reapable(self) -> int:
        """How many beads reap would release or block now."""
        now = datetime.now(UTC)
        self._beads.refresh()
        if self._beads.control.suspension().reap:
            return 0
        return sum(len(find(self._beads, self._limits, now)) for find in (reaper.orphaned, reaper.inactive))


class PendingRequest:
    """The request that is to be made next: several reasons that come meanwhile make one more request."""

    def __init__(self) -> None:
        self._reason: RequestReason | None = None
        self._changed = threading.Condition()

    def add(self, reason: RequestReason) -> None:
        """Request a pass soon. A freed slot is not replaced by another reason."""
        with self._changed:
            if self._reason is None or self._reason.cause != "slot":
                self._reason = reason
            self._changed.notify()

    def take(self, timeout_seconds: float) -> RequestReason | None:
        """Wait for a reason and take it; None when none comes in that time."""
        with self._changed:
            if self._reason is None:
                self._changed.wait(timeout_seconds)
            reason, self._reason = self._reason, None
            return reason


def send_requests(pending: PendingRequest, check: EligibilityCheck, emitter: Emitter, stop: threading.Event) -> None:
    """Send a request for each reason for which there is an eligible bead, one at a time, until `stop` is set."""
    backoff = Backoff()
    while not stop.is_set():
        reason = pending.take(timeout_seconds=1.0)
        if reason is None:
            continue
        try:
            count = check.count_eligible()
            if count:
                emitter.send(changes.request(reason, count, events.DISPATCH_REQUESTED))
                metrics.REQUESTS.labels("dispatch", reason.cause).inc()
            backoff.reset()
        except (SinkError, store.StoreError) as exc:
            pending.add(reason)
            stop.wait(backoff.failed(f"cannot request a pass: {exc}; trying again", Action.REQUEST))
