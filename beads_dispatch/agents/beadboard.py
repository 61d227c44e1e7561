"""The backend `beadboard`: BeadBoard's two routes. With claude-agent-service behind it also known (AGENT_HEALTH_URL,
jobs_url), that one counts the jobs and tells how they ended."""

from collections.abc import Mapping

from beads_dispatch import settings
from beads_dispatch.agents import CannotTell, JobState, Load, Phase, Refused, UnknownOutcome, Unreachable, jobs_api
from beads_dispatch.agents.http import AgentHttp, field


class BeadBoard:
    """The agent behind BeadBoard."""

    def __init__(self, agent: settings.AgentSettings) -> None:
        self._agent = agent
        self._http = AgentHttp(agent.timeout_seconds, agent.token_file, agent.ca_file)
        self._health_url = agent.health_url or (f"{agent.jobs_url}/health" if agent.jobs_url else None)
        self.tells_jobs = agent.jobs_url is not None

    def start(self, bead: str, claim: str, traceparent: str = "", hints: Mapping[str, str] | None = None) -> str:
        """POST the bead, in that span; returns the job id. Raises Unreachable, Refused or UnknownOutcome."""
        span = {"traceparent": traceparent} if traceparent else {}
        code, body = self._http.request("POST", f"{self._agent.url}/api/agent-dispatch", {"taskId": bead}, span)
        if not 200 <= code < 300:
            raise Refused(code, body.decode("utf-8", "replace"))
        job = field(body, "job_id")
        if not isinstance(job, str) or not job.strip():
            raise UnknownOutcome(f"HTTP {code} without a job_id")
        return job.strip()

    def state(self, job: str) -> JobState:
        """By claude-agent-service, where it is known. Raises Unreachable."""
        return (
            jobs_api.state(self._http, self._agent.jobs_url, job) if self._agent.jobs_url else JobState(Phase.UNKNOWN)
        )

    def find(self, claim: str, bead: str, hints: Mapping[str, str] | None = None) -> str | None:
        """BeadBoard keeps nothing of ours on a job. Raises CannotTell."""
        raise CannotTell("BeadBoard cannot be asked for the job of a claim")

    def load(self) -> Load:
        """By claude-agent-service's numbers; without them BeadBoard only says whether its agent is busy.

        Raises Unreachable when the agent gives no such answer.
        """
        return Load(running=jobs_api.count(self._http, self._health_url)) if self._health_url else self._status()

    def probe(self) -> None:
        """Ask BeadBoard itself, where `load` asks another service. Raises Unreachable."""
        if self._health_url is not None:
            self._status()

    def _status(self) -> Load:
        code, body = self._http.status(f"{self._agent.url}/api/agent-status")
        busy = field(body, "busy")
        if code != 200 or not isinstance(busy, bool):
            raise Unreachable(f"/api/agent-status answered HTTP {code} without busy")
        return Load(busy=busy)
