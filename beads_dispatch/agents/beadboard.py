"""The backend `beadboard`: BeadBoard's two routes, and claude-agent-service's /health."""

from beads_dispatch import settings
from beads_dispatch.agents import Refused, UnknownOutcome, Unreachable
from beads_dispatch.agents.http import AgentHttp, field


class BeadBoard:
    """The agent behind BeadBoard; for any number of threads."""

    def __init__(self, agent: settings.AgentSettings) -> None:
        self._agent = agent
        self._http = AgentHttp(agent.timeout_seconds, agent.token_file, agent.ca_file)

    def start(self, bead_id: str, traceparent: str = "") -> str:
        """POST the bead, in that span; returns the job id. Raises Unreachable, Refused or UnknownOutcome."""
        url = f"{self._agent.beadboard_url}/api/agent-dispatch"
        span = {"traceparent": traceparent} if traceparent else {}
        code, body = self._http.request("POST", url, {"taskId": bead_id}, span)
        if not 200 <= code < 300:
            raise Refused(code, body.decode("utf-8", "replace"))
        job = field(body, "job_id")
        if not isinstance(job, str) or not job.strip():
            raise UnknownOutcome(f"HTTP {code} without a job_id")
        return job.strip()

    def count_running(self) -> int | None:
        """Jobs active and queued, by AGENT_HEALTH_URL; None when that is not set.

        Raises Unreachable when the agent gives no such answer.
        """
        if self._agent.health_url is None:
            return None
        code, body = self._http.status(self._agent.health_url)
        active, queued = field(body, "active"), field(body, "queued")
        if code != 200 or not isinstance(active, int) or not isinstance(queued, int):
            raise Unreachable(f"/health answered HTTP {code} without the numbers active and queued")
        return active + queued

    def probe(self) -> None:
        """Ask BeadBoard for its status where nobody else does. Raises Unreachable when it gives no such answer.

        With AGENT_HEALTH_URL it is not asked for a free slot, so only a POST would show that it is away.
        """
        if self._agent.health_url is not None:
            self.is_busy()

    def is_busy(self) -> bool:
        """Whether BeadBoard calls the agent busy. Raises Unreachable when it gives no such answer."""
        code, body = self._http.status(f"{self._agent.beadboard_url}/api/agent-status")
        busy = field(body, "busy")
        if code != 200 or not isinstance(busy, bool):
            raise Unreachable(f"/api/agent-status answered HTTP {code} without busy")
        return busy
