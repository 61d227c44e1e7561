"""Whether another bead may be put to work: asked by dispatch, and by the feeder's tick."""

from datetime import datetime, timedelta

from beads.agent import AgentService
from beads.settings import Rules
from beads.store import Store


def free(beads: Store, agent: AgentService, rules: Rules, now: datetime) -> bool:
    """Whether fewer than MAX_IN_FLIGHT beads are at work.

    With AGENT_HEALTH_URL the service counts, manual dispatches included. Without it BeadBoard must say not
    busy, and our claims that showed life lately are counted.

    Raises agent.Unreachable when the service does not say, StoreError when Dolt does not.
    """
    at_work = agent.number_at_work()
    if at_work is None:
        if agent.busy():
            return False
        at_work = beads.at_work(rules.assignee, now - timedelta(minutes=rules.slot_silence_minutes))
    return at_work < rules.max_in_flight
