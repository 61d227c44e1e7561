"""Requests of dispatch passes: after a change that could make work available, and at the moments that time does."""

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from beads_dispatch import events, log, store
from beads_dispatch.log import Action
from feeder import changes, metrics
from feeder.changes import RequestReason
from feeder.eligibility_check import EligibilityCheck
from feeder.emitter import Backoff, Emitter, SinkError

logger = log.get("feeder")

_LOOK_SECONDS = 1.0  # between two looks at the clock, which somebody may set
_REREAD_SECONDS = 120  # as often as a tick comes; a change that moves a moment has it read at once


class PendingRequest:
    """The request that is to be made next: several reasons that come meanwhile make one more request."""

    def __init__(self) -> None:
        self.unsure_until = 0.0  # time.monotonic(); changes may not be seen until then: Dolt is asked each second
        self._reason: RequestReason | None = None
        self._moved = False
        self._changed = threading.Condition()

    def add(self, reason: RequestReason) -> None:
        """Request a pass soon. A freed slot is not replaced by another reason."""
        with self._changed:
            if self._reason is None or self._reason.cause != "slot":
                self._reason = reason
            self._changed.notify()

    def add_moved(self) -> None:
        """The next due moment may be another one now."""
        with self._changed:
            self._moved = True
            self._changed.notify()

    def take(self, timeout_seconds: float) -> RequestReason | None:
        """Wait for a reason and take it; None when none comes in that time, or a moment has moved."""
        with self._changed:
            if self._reason is None and not self._moved:
                self._changed.wait(timeout_seconds)
            reason, self._reason = self._reason, None
            return reason

    def take_moved(self) -> bool:
        """Whether a moment may have moved since this was asked last."""
        with self._changed:
            moved, self._moved = self._moved, False
            return moved


class DueMoment:
    """The next moment at which time alone may make work available. For the thread that sends requests."""

    def __init__(self, check: EligibilityCheck, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._check = check
        self._clock = clock
        self._next: datetime | None = None
        self._stale = True
        self._read_at = 0.0  # time.monotonic()
        self._offset = self._clock_offset()

    def seconds_left(self) -> float:
        """How long to wait before the next look."""
        left = (self._next - self._clock()).total_seconds() if self._next else _LOOK_SECONDS
        return min(max(left, 0.0), _LOOK_SECONDS)

    def look(self, pending: PendingRequest) -> None:
        """Request a pass where the moment has come, and read the next one where it may be another. Raises StoreError,
        and tries again at the next look then."""
        now = self._clock()
        if self._next is not None and self._next <= now:
            pending.add(RequestReason("due", f"due-{uuid.uuid4()}"))
            self._next, self._stale = None, True
        offset = self._clock_offset()
        self._stale |= abs(offset - self._offset) > _LOOK_SECONDS  # somebody set the clock
        self._stale |= pending.take_moved() or time.monotonic() - self._read_at > _REREAD_SECONDS
        if self._stale:
            self._next = self._check.next_due(now)
            self._stale, self._read_at, self._offset = False, time.monotonic(), offset

    def _clock_offset(self) -> float:
        return self._clock().timestamp() - time.monotonic()


class AgentRequests:
    """Requests the passes of one agent, from a thread of its own: its backend may be slow, and the Broker may answer
    only after the pass."""

    def __init__(self, agent: str, check: EligibilityCheck, emitter: Emitter, *, alone: bool = True) -> None:
        """`check` and `emitter` are its own. `alone`: there are no other agents."""
        self.agent = agent
        self.pending = PendingRequest()
        self.emitter = emitter
        self._check = check
        self._alone = alone

    def run(self, stop: threading.Event) -> None:
        """Send a request for each reason for which there is an eligible bead, one at a time, until `stop` is set."""
        backoff, due = Backoff(), DueMoment(self._check)
        while not stop.is_set():
            reason = self.pending.take(due.seconds_left())
            unsure = reason is None and time.monotonic() < self.pending.unsure_until
            if unsure:
                reason = RequestReason("resume", f"unsure-{uuid.uuid4()}")
            try:
                if reason is not None:
                    self._send(reason, with_slot=unsure or reason.cause == "tick")
                    reason = None
                due.look(self.pending)
                backoff.reset()
            except (SinkError, store.StoreError) as exc:
                if reason is not None:
                    self.pending.add(reason)
                stop.wait(backoff.failed(f"cannot request a pass: {exc}; trying again", Action.REQUEST))

    def _send(self, reason: RequestReason, *, with_slot: bool) -> None:
        # A close comes a moment before its slot is free; but what comes again and again is not to find the agent busy.
        ask = self._check.count_eligible_with_slot if with_slot else self._check.count_eligible
        count = ask()
        if count:
            self.emitter.send(changes.request(reason, count, events.DISPATCH_REQUESTED, self.agent, alone=self._alone))
            metrics.REQUESTS.labels("dispatch", reason.cause).inc()
