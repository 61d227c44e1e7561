"""Whether another bead may be dispatched: asked by dispatch, and by the feeder at a tick."""

from datetime import datetime

from beads_dispatch.agents.beadboard import BeadBoard
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import Store


def is_free(store: Store, agent: BeadBoard, limits: DispatchLimits, now: datetime) -> bool:
    """Whether fewer than MAX_IN_FLIGHT beads are in progress.

    With AGENT_HEALTH_URL the agent counts, manual dispatches included. Without it BeadBoard must answer not
    busy, and our claims with recent activity are counted.

    Raises agents.Unreachable when the agent gives no answer, StoreError when Dolt does not.
    """
    running = agent.count_running()
    if running is None:
        if agent.is_busy():
            return False
        running = store.activity.count_active_claims(limits.assignee, now - limits.slot_silence)
    return running < limits.max_in_flight
