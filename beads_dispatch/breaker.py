"""The circuit breaker of an agent, the hold: a fault is the agent's before it is the beads'."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from beads_dispatch import notes
from beads_dispatch.bead import Bead
from beads_dispatch.store import DISPATCHER, Hold, Probe, Store

HOLD_SECONDS = 30  # the first hold; doubles with each failure of the agent in a row
HOLD_LIMIT_SECONDS = 600
# Where each attempt costs a bead: the agent refuses every bead, or gives no usable answer.
COSTLY_HOLD_SECONDS = (30, 300, 1800, 3600)
REFUSED_IN_A_ROW = 3  # different beads, and none accepted in between: then the fault is the agent's
NOTED_OUTAGES = 3  # failures of the agent with a bead that are noted on it; an outage may last a weekend
_REFUSED_WITHIN = timedelta(hours=1)


@dataclass
class Breaker:
    """The hold of one agent, as it was read last. Every method raises StoreError."""

    store: Store
    assignee: str
    clock: Callable[[], datetime]
    hold: Hold = field(default_factory=Hold, init=False)

    def read(self) -> Hold:
        """The hold as it is now."""
        self.hold = self.store.control.hold(self.assignee)
        return self.hold

    @property
    def probe(self) -> Probe | None:
        """Which bead is tried first. While the agent fails, another one each time: the bead may be at fault, and the
        others would wait. Where it refuses every bead, that spends one more; so every second time one of those it
        refused is tried."""
        if not self.hold.failures:
            return None
        return Probe.FAILED if self.hold.refusing and self.hold.failures % 2 else Probe.FRESH

    def open(self, why: str, *, costly: bool) -> int:
        """Hold dispatch for longer with each failure in a row; `costly`: each spends a bead. Returns the seconds."""
        failures = self.hold.failures
        seconds: int = min(HOLD_SECONDS * 2 ** min(failures, 10), HOLD_LIMIT_SECONDS)
        if costly:
            seconds = COSTLY_HOLD_SECONDS[min(failures, len(COSTLY_HOLD_SECONDS) - 1)]
        until = self.clock() + timedelta(seconds=seconds)
        self.store.control.set_hold(self.assignee, self.hold, Hold(failures + 1, until, f"agent service: {why}"))
        return seconds

    def close(self) -> None:
        """The agent took a bead: no hold, and the next failure is the first again."""
        if self.hold.failures:
            self.store.control.set_hold(self.assignee, self.hold, Hold())

    def is_every_bead_refused(self, bead: Bead) -> bool:
        """Whether a bead that was refused is one of several in a row. One that failed before, and others did not, does
        not count among these."""
        if bead.record.failures or bead.record.outages:
            return False
        others = [one for one in self._refused_in_a_row() if one.id != bead.id]
        return len(others) >= REFUSED_IN_A_ROW - 1

    def agent_failed(self, bead: Bead | None, why: str, note: str = "", *, costly: bool = False) -> int:
        """Hold dispatch, then release the bead without counting it, nor those that were refused just before. Returns
        the seconds."""
        seconds = self.open(why, costly=costly)
        for one in self._refused_in_a_row():
            self.store.claims.take_back_refusal(one, self.clock())
        if bead is not None:
            self._release_uncounted(bead, note)
        return seconds

    def _release_uncounted(self, bead: Bead, note: str) -> None:
        record = replace(bead.record, outages=bead.record.outages + 1)
        if record.outages == NOTED_OUTAGES:
            note = f"{note}\n{notes.outage()}"
        noted = record.outages <= NOTED_OUTAGES
        self.store.claims.release(bead, note, record, self.clock(), actor=DISPATCHER, noted=noted)

    def _refused_in_a_row(self) -> list[Bead]:
        return self.store.activity.refused_in_a_row(self.assignee, self.clock() - _REFUSED_WITHIN)
