"""The page of the present: the agents, what is in progress, what is suspended or held, and how the feeder is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.cli import status
from beads_dispatch.cli.status import InProgress
from beads_dispatch.store import Hold
from functions.console.view import View

_COUNT_LIMIT = 100  # eligible beads; more would take seconds to count


@dataclass(frozen=True)
class AgentNow:
    """One agent, as Dolt knows it: its backend is not asked."""

    name: str
    backend: str | None
    max_in_flight: int
    assigned: int  # open or deferred beads
    eligible: int  # at most _COUNT_LIMIT are counted
    more: bool  # eligible beads than that
    hold: Hold | None  # where there is one now
    in_progress: Sequence[InProgress]
    to_reopen: Sequence[str]  # what reap would do now
    to_block: Sequence[str]


def page(view: View) -> Mapping[str, Any]:
    """Raises StoreError."""
    beads = view.beads
    return {
        "found": [_agent(view, one) for one in view.agents.values()],
        "suspension": beads.control.suspension(),
        "feed": status.feed(beads),
        "feeder": status.feeder(beads),
        "live": True,
    }


def _agent(view: View, one: ConfiguredAgent) -> AgentNow:
    beads, moment = view.beads, view.moment
    hold = beads.control.hold(one.name)
    eligible = beads.eligible.count(one.name, moment, _COUNT_LIMIT)
    to_reopen, to_block = status.to_reap(beads, one.limits, moment)
    return AgentNow(
        name=one.name,
        backend=one.backend.backend if one.backend else None,
        max_in_flight=one.limits.max_in_flight,
        assigned=beads.eligible.count_assigned(one.name),
        eligible=eligible,
        more=eligible == _COUNT_LIMIT,
        hold=hold if hold.active_at(moment) else None,
        in_progress=status.in_progress(beads, one.limits, moment),
        to_reopen=to_reopen,
        to_block=to_block,
    )
