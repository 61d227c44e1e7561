"""The backend `jobsink`: an agent as a Kubernetes Job, which Knative's JobSink makes of a CloudEvent.

The event's id is our claim, and the Job's name a hash of source and id: the same event again starts no second Job for
as long as the first exists (its ttlSecondsAfterFinished, after its end).
"""

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from beads_dispatch.agents import AgentError, JobState, Load, Phase, Refused, UnknownOutcome, Unreachable
from beads_dispatch.agents.http import AgentAnswer, AgentHttp
from beads_dispatch.settings import AgentSettings

EVENT_TYPE = "dev.beads.job.requested.v1"
SOURCE = "beads-dispatch"  # without a slash: JobSink puts it into Location, and there a slash makes it a 400
_JOB = "/namespaces/"  # how the path in Location begins


class JobSink:
    """The JobSink at `url`: http://job-sink.knative-eventing.svc.cluster.local/NAMESPACE/NAME."""

    tells_jobs = True

    def __init__(self, agent: AgentSettings) -> None:
        self._agent = agent
        self._http = AgentHttp(agent.timeout_seconds, agent.token_file, agent.ca_file)

    def start(self, bead: str, claim: str, traceparent: str = "", hints: Mapping[str, str] | None = None) -> str:
        """POST the event; returns the path of Location. Raises Unreachable, Refused or UnknownOutcome."""
        span = {"traceparent": traceparent} if traceparent else {}
        event = {
            "specversion": "1.0",
            "id": claim,
            "source": SOURCE,
            "type": EVENT_TYPE,
            "subject": bead,
            "datacontenttype": "application/json",
            **span,
            "data": {"bead": bead, "actor": self._agent.name, **self._agent.allowed_hints(hints)},
        }
        headers = {"Content-Type": "application/cloudevents+json", **span}
        answer = self._http.exchange("POST", self._agent.url, event, headers)
        if not 200 <= answer.code < 300:
            # A 500 has no body, but Kubernetes' words in this header.
            raise Refused(answer.code, answer.body.decode("utf-8", "replace") or answer.headers.get("reason", ""))
        job = answer.headers.get("location", "")
        # Only a path: at another host nobody is asked, least of all with our token.
        if not job.startswith(_JOB):
            raise UnknownOutcome(f"HTTP {answer.code} without the Location of a Job")
        return job

    def state(self, job: str) -> JobState:
        """By GET of its Location. Raises Unreachable."""
        if not job.startswith(_JOB):
            return JobState(Phase.UNKNOWN)  # written by somebody else
        answer = self._get(job)
        # The status alone will not do: 400 is also the answer where JobSink does not know the sink.
        match answer.code, answer.headers:
            case 202, {"location": _}:
                return JobState(Phase.RUNNING)
            case 200, {"reason": "Complete"}:
                return JobState(Phase.SUCCEEDED)
            case 400, {"reason": "Failed"}:
                return JobState(Phase.FAILED, "the Job failed: see its pods' logs")
        if _is_no_job(answer):
            return JobState(Phase.FAILED, "the Job does not exist any more")
        raise Unreachable(f"{job} answered HTTP {answer.code}, which tells no state of a Job")

    def find(self, claim: str, bead: str, hints: Mapping[str, str] | None = None) -> str:
        """The job of a claim, by the same POST, which starts it where it was not: a GET cannot tell the two apart, as
        it answers 500 for a Job that does not exist and for a Kubernetes that gives no answer. The bead is in progress
        and wants exactly this one job. A job that is started so gets none of bd's hints.

        Raises Unreachable.
        """
        try:
            return self.start(bead, claim, hints=hints)
        except Refused as exc:
            raise Unreachable(f"the event was refused: HTTP {exc.code}") from exc
        except AgentError as exc:
            raise Unreachable(str(exc)) from exc

    def load(self) -> Load:
        """JobSink counts nothing."""
        return Load()

    def probe(self) -> None:
        """Ask for a Job that does not exist. Raises Unreachable where JobSink, or this one of its sinks, is away."""
        namespace, name = urlsplit(self._agent.url).path.rstrip("/").rsplit("/", 2)[-2:]
        answer = self._get(f"{_JOB}{namespace}/name/{name}/sources/{SOURCE}/ids/probe")
        if not _is_no_job(answer):
            raise Unreachable(f"JobSink answered HTTP {answer.code}")

    def _get(self, path: str) -> AgentAnswer:
        where = urlunsplit(urlsplit(self._agent.url)._replace(path=path, query="", fragment=""))
        try:
            return self._http.exchange("GET", where)
        except UnknownOutcome as exc:
            raise Unreachable(str(exc)) from exc


def _is_no_job(answer: AgentAnswer) -> bool:
    """JobSink's own 500 has no body; a proxy's has one."""
    return answer.code == 500 and not answer.body
