"""Asks an agent's backend how its jobs are while there are any, and requests a reap pass when one has ended."""

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from beads_dispatch import agents, events, log, reaper, store
from beads_dispatch.agents import Backend
from beads_dispatch.bead import Bead
from beads_dispatch.log import Action
from beads_dispatch.settings import DispatchLimits
from feeder import changes, metrics
from feeder.changes import RequestReason
from feeder.emitter import Backoff, Emitter, SinkError

logger = log.get("feeder")

ASK_SECONDS = 15.0


class JobWatch:
    """The jobs of one agent. For a thread of its own."""

    def __init__(self, beads: store.Store, limits: DispatchLimits, backend: Backend, emitter: Emitter) -> None:
        """`beads` and `emitter` are its own. Set `begun` when a bead may have come to be in progress."""
        self.begun = threading.Event()
        # The keys of the beads whose job runs, as far as the backend told last.
        self.running: frozenset[tuple[str, str]] = frozenset()
        self._beads = beads
        self._limits = limits
        self._backend = backend
        self._emitter = emitter
        self._asked: set[str | None] = set()  # the claims of unknown outcome for which a pass was requested

    def run(self, stop: threading.Event, seconds: float = ASK_SECONDS) -> None:
        """Ask until `stop` is set; not while nothing is in progress."""
        backoff = Backoff()
        while not stop.is_set():
            if not self.begun.wait(1.0):
                continue
            try:
                self.begun.clear()
                if self.look():
                    self.begun.set()
                backoff.reset()
                stop.wait(seconds)
            except (agents.Unreachable, SinkError, store.StoreError) as exc:
                self.begun.set()
                self.running = frozenset()
                stop.wait(max(backoff.failed(f"cannot ask for jobs: {exc}; trying again", Action.JOBS), 1.0))

    def look(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> bool:
        """Ask once, and request a pass where there is one to make; returns whether there is anything to ask for again.

        Raises agents.Unreachable, SinkError, StoreError.
        """
        self._beads.refresh()
        now = clock()
        with_jobs = reaper.with_jobs(self._beads, self._limits, self._backend)
        states: list[tuple[Bead, agents.JobState]] = []
        reaper.ask_each(with_jobs, lambda bead: states.append((bead, self._backend.state(bead.record.job or ""))))
        over = [bead for bead, state in states if reaper.is_over(bead, state, now)]
        self.running = frozenset(bead.key for bead, state in states if state.phase is agents.Phase.RUNNING)
        claims = [bead for bead in self._beads.activity.claims(self._limits.assignee) if bead.record.outcome]
        unresolved = {bead.record.claim for bead in claims if reaper.is_unresolved(bead, self._limits, now)}
        if (over or unresolved - self._asked) and not self._beads.control.suspension().reap:
            reason = RequestReason("job", f"job-{uuid.uuid4()}")
            count = len(over) or len(unresolved)
            self._emitter.send(changes.request(reason, count, events.REAP_REQUESTED, self._limits.assignee))
            metrics.REQUESTS.labels("reap", "job").inc()
            self._asked = unresolved
        return bool(with_jobs or claims)
