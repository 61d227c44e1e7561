"""The page of what waits: an agent's open and deferred beads in the order of dispatch, why each waits, and the fix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beads_dispatch.bead import Bead
from beads_dispatch.cli import conditions
from beads_dispatch.cli.conditions import Condition
from beads_dispatch.store import Diagnosis
from functions.console.view import View

ON_A_PAGE = 25
_LAST_PAGE = 1_000_000
_ANY = "<bead>"  # in a command that takes any bead


@dataclass(frozen=True)
class WaitingBead:
    """A bead that waits, and the first condition that it does not meet; None where it is eligible."""

    number: int  # its place among all that wait
    bead: Bead
    unmet: Condition | None


def page(view: View) -> Mapping[str, Any]:
    """Raises PageError, StoreError."""
    beads, agent, number = view.beads, view.agent, view.whole("page", 1, 1, _LAST_PAGE)
    after, total = (number - 1) * ON_A_PAGE, beads.eligible.count_assigned(agent.name)
    found = beads.eligible.diagnose(agent.name, view.moment, after=after, limit=ON_A_PAGE)
    head = next((one.bead.id for one in found if one.holds()), _ANY)
    return {
        "waiting": [WaitingBead(after + place, one.bead, _unmet(view, one)) for place, one in enumerate(found, 1)],
        # What keeps every bead of the agent from being dispatched.
        "common": [
            one for one in conditions.of_the_agent(beads, agent.limits, view.moment, head, None) if one.holds is False
        ],
        "total": total,
        "number": number,
        "last": max(1, -(-total // ON_A_PAGE)),
        "live": True,
    }


def _unmet(view: View, one: Diagnosis) -> Condition | None:
    if one.holds():
        return None
    found = conditions.of_the_bead(view.beads, one, view.agent.limits, view.moment, list(view.agents))
    return next((condition for condition in found if condition.holds is False), None)
