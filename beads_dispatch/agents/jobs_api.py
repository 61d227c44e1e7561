"""claude-agent-service's two questions: how many jobs, and how one of them is."""

from urllib.parse import quote

from beads_dispatch.agents import JobState, Phase, Unreachable
from beads_dispatch.agents.http import AgentHttp, field

_PHASES = {"queued": Phase.RUNNING, "running": Phase.RUNNING, "completed": Phase.SUCCEEDED}
_FAILED = ("failed", "timeout", "error")


def count(http: AgentHttp, health_url: str) -> int:
    """Jobs active and queued, by /health. Raises Unreachable when there is no such answer."""
    code, body = http.status(health_url)
    active, queued = field(body, "active"), field(body, "queued")
    if code != 200 or not isinstance(active, int) or not isinstance(queued, int):
        raise Unreachable(f"/health answered HTTP {code} without the numbers active and queued")
    return active + queued


def state(http: AgentHttp, jobs_url: str, job: str) -> JobState:
    """How a job is, by /jobs/{id}; after a restart of the service its jobs are lost (404), as those are that ended an
    hour ago. Raises Unreachable when there is no such answer."""
    code, body = http.status(f"{jobs_url}/jobs/{quote(job, safe='')}")
    if code == 404:
        count(http, f"{jobs_url}/health")  # a 404 of another service would be a loss of every job
        return JobState(Phase.FAILED, "the service does not know the job: it was restarted, or lost it")
    status = str(field(body, "status"))
    if code == 200 and status in _PHASES:
        return JobState(_PHASES[status])
    if code == 200 and status in _FAILED:
        return JobState(Phase.FAILED, f"{status}: {field(body, 'error') or 'the service gives no reason'}")
    raise Unreachable(f"/jobs answered HTTP {code} without a status that is known")
