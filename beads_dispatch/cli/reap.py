"""beads-dispatch reap --dry-run: what a reap pass would do now, and when it would come to the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch.cli import status, terminal
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Store


@dataclass(frozen=True)
class Reap:
    """What a pass would do at a moment."""

    at: datetime
    suspended: str | None
    open_again: Sequence[str]  # claimed, and nothing came of it
    block: Sequence[str]  # silent for too long
    later: Sequence[status.AtWork]  # in progress and not due


def look(beads: Store, limits: DispatchLimits, moment: datetime) -> Reap:
    """Raises StoreError."""
    reopen, block = status.stuck(beads, limits, moment)
    now = {bead.id for bead in (*reopen, *block)}
    return Reap(
        at=moment,
        suspended=beads.control.suspension().reap,
        open_again=[bead.id for bead in reopen],
        block=[bead.id for bead in block],
        later=[one for one in status.at_work(beads, limits) if one.bead not in now],
    )


def lines(found: Reap) -> list[str]:
    """The answer as people read it."""
    written = [f"reap is suspended: {terminal.text(found.suspended, 120)}"] if found.suspended else []
    written += [f"would open again: {bead} (claimed, and nothing came of it)" for bead in found.open_again]
    written += [f"would block: {bead} (silent for too long)" for bead in found.block]
    written += [] if found.open_again or found.block else ["would take nothing now"]
    written += [
        f"in progress: {one.bead}, last sign of life {terminal.span(found.at - one.last_sign)} ago; taken at"
        f" {terminal.moment(one.reap_at)} if it stays silent"
        for one in found.later
    ]
    return written
