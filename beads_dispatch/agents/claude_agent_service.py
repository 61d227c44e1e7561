"""The backend `claude-agent-service`, without BeadBoard in between: POST /execute, and the questions of jobs_api."""

from collections.abc import Mapping

from beads_dispatch.agents import CannotTell, JobState, Load, Refused, UnknownOutcome, jobs_api, prompt
from beads_dispatch.agents.http import AgentHttp, field
from beads_dispatch.settings import AgentSettings

# By the name in the request, what the agent's settings may say of a job.
_LIMITS = {"max_budget_usd": "max_budget_usd", "timeout_seconds": "job_timeout_seconds"}


class ClaudeAgentService:
    """An agent of claude-agent-service: the one of its agents that the option `agent` names, or the agent's name."""

    tells_jobs = True

    def __init__(self, agent: AgentSettings) -> None:
        self._agent = agent
        self._http = AgentHttp(agent.timeout_seconds, agent.token_file, agent.ca_file)

    def start(self, bead: str, claim: str, traceparent: str = "", hints: Mapping[str, str] | None = None) -> str:
        """POST the bead's id in a prompt; returns the job id. Raises Unreachable, Refused or UnknownOutcome."""
        options = self._agent.options
        request = {
            "agent": options.get("agent", self._agent.name),
            "prompt": prompt.for_bead(self._agent, bead),
            "metadata": {"bead": bead, "claim": claim, **self._agent.allowed_hints(hints)},
            **{name: options[option] for name, option in _LIMITS.items() if option in options},
        }
        span = {"traceparent": traceparent} if traceparent else {}
        code, body = self._http.request("POST", f"{self._agent.url}/execute", request, span)
        if not 200 <= code < 300:
            raise Refused(code, body.decode("utf-8", "replace"))
        job = field(body, "job_id")
        if not isinstance(job, str) or not job.strip():
            raise UnknownOutcome(f"HTTP {code} without a job_id")
        return job.strip()

    def state(self, job: str) -> JobState:
        """By /jobs/{id}. Raises Unreachable."""
        return jobs_api.state(self._http, self._agent.url, job)

    def find(self, claim: str, bead: str, hints: Mapping[str, str] | None = None) -> str | None:
        """It lists no jobs. Raises CannotTell."""
        raise CannotTell("claude-agent-service cannot be asked for the job of a claim")

    def load(self) -> Load:
        """The jobs active and queued, by /health. Raises Unreachable."""
        return Load(running=jobs_api.count(self._http, f"{self._agent.url}/health"))

    def probe(self) -> None:
        """`load` asks the service itself."""
