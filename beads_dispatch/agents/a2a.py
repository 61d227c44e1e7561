"""The backend `a2a`: any agent that speaks A2A 1.0 over HTTP and JSON. A task is the job, our claim its context.

The same message sent twice makes two tasks, so nothing is sent twice; but a task can be found by its context.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from beads_dispatch.agents import CannotTell, JobState, Load, Phase, Refused, UnknownOutcome, Unreachable, prompt
from beads_dispatch.agents.http import AgentHttp, field
from beads_dispatch.settings import AgentSettings

_ANSWER_BYTES = 1024 * 1024  # a task's answer holds what it made
_VERSION = {"A2A-Version": "1.0", "Accept": "application/a2a+json, application/json"}
# In this order: a task that begins between two questions is counted twice, and in the other order not at all.
_RUNNING = ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
_FAILED = {
    "TASK_STATE_FAILED": "the agent failed",
    "TASK_STATE_CANCELED": "it was cancelled",
    "TASK_STATE_REJECTED": "the agent rejected it",
    "TASK_STATE_INPUT_REQUIRED": "the agent asks for input, and nobody answers",
    "TASK_STATE_AUTH_REQUIRED": "the agent asks for credentials, and nobody answers",
}
_NOT_OFFERED = (404, 405, 501)  # what a server without lists answers to the question for one


class A2A:
    """The agent at `url`, which is the address of its interface HTTP+JSON."""

    tells_jobs = True

    def __init__(self, agent: AgentSettings) -> None:
        self._agent = agent
        self._http = AgentHttp(agent.timeout_seconds, agent.token_file, agent.ca_file, _ANSWER_BYTES)

    def start(self, bead: str, claim: str, traceparent: str = "", hints: Mapping[str, str] | None = None) -> str:
        """Send a message that names the bead; returns the task's id.

        Raises Unreachable, Refused or UnknownOutcome. A message for an answer is a refusal: it is no task.
        """
        message = {
            "messageId": claim,
            "contextId": claim,
            "role": "ROLE_USER",
            "parts": [{"text": prompt.for_bead(self._agent, bead)}],
            "metadata": {"bead": bead, "actor": self._agent.name, **self._agent.allowed_hints(hints)},
        }
        request = {"message": message, "configuration": {"returnImmediately": True}}
        span = {"traceparent": traceparent} if traceparent else {}
        code, body = self._http.request("POST", f"{self._agent.url}/message:send", request, {**_VERSION, **span})
        if not 200 <= code < 300:
            raise Refused(code, body.decode("utf-8", "replace"))
        task, answer = _id(field(body, "task")), field(body, "message")
        if task is None and isinstance(answer, dict):
            raise Refused(code, f"the agent answered with a message instead of a task: {_text(answer)}", counts=True)
        if task is None:
            raise UnknownOutcome(f"HTTP {code} without a task")
        return task

    def state(self, job: str) -> JobState:
        """By the task's state. Raises Unreachable."""
        code, body = self._get(f"/tasks/{quote(job, safe='')}", historyLength=0)
        if code == 404 and "TASK_NOT_FOUND" in _reasons(body):  # one of another service is no loss of every task
            return JobState(Phase.FAILED, "the agent does not know the task: it was restarted, or lost it")
        status = field(body, "status")
        state = str(status.get("state")) if isinstance(status, dict) else ""
        if code == 200 and state == "TASK_STATE_COMPLETED":
            return JobState(Phase.SUCCEEDED)
        if code == 200 and state in _RUNNING:
            return JobState(Phase.RUNNING)
        if code == 200 and state in _FAILED:
            words = _text(status.get("message"))
            return JobState(Phase.FAILED, f"{_FAILED[state]}: {words}" if words else _FAILED[state])
        raise Unreachable(f"/tasks answered HTTP {code} without a state that is known")

    def find(self, claim: str, bead: str, hints: Mapping[str, str] | None = None) -> str | None:
        """The first task of the claim's context: an agent may have made more of them there.

        Raises Unreachable, or CannotTell where the agent lists none, or not by context.
        """
        listed = self._list(contextId=claim)
        if listed is None or any(task.get("contextId") != claim for task in listed[0]):
            raise CannotTell("the agent does not list the tasks of a context")
        tasks, _ = listed
        return _id(tasks[-1]) if tasks else None  # the newest comes first

    def load(self) -> Load:
        """The tasks that are submitted or working; not counted where the agent lists none. Raises Unreachable."""
        running = 0
        for state in _RUNNING:
            listed = self._list(status=state, pageSize=1)
            if listed is None:
                return Load()
            running += listed[1]
        return Load(running=running)

    def probe(self) -> None:
        """`load` asks the agent itself."""

    def _get(self, path: str, **parameters: Any) -> tuple[int, bytes]:
        try:
            return self._http.request("GET", f"{self._agent.url}{path}?{urlencode(parameters)}", headers=_VERSION)
        except UnknownOutcome as exc:
            raise Unreachable(str(exc)) from exc

    def _list(self, **parameters: Any) -> tuple[list[dict[str, Any]], int] | None:
        """A page of tasks, and how many there are on all pages; None where the agent lists none. Raises Unreachable."""
        code, body = self._get("/tasks", historyLength=0, **parameters)
        if code in _NOT_OFFERED or "UNSUPPORTED_OPERATION" in _reasons(body):
            return None
        tasks, total = field(body, "tasks"), field(body, "totalSize")
        if tasks is None and total == 0:
            tasks = []  # JSON of a protocol buffer may leave out what is empty
        if code != 200 or not isinstance(tasks, list) or not all(map(_id, tasks)):
            raise Unreachable(f"/tasks answered HTTP {code} without a list of tasks")
        return tasks, total if isinstance(total, int) else len(tasks)


def _id(task: Any) -> str | None:
    found = task.get("id") if isinstance(task, dict) else None
    return found if isinstance(found, str) and found.strip() else None


def _text(message: Any) -> str:
    """The words of a message."""
    parts = message.get("parts") if isinstance(message, dict) else None
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return " ".join(text for text in texts if isinstance(text, str))


def _reasons(body: bytes) -> list[Any]:
    """The reasons in an error of the protocol."""
    error = field(body, "error")
    details = error.get("details") if isinstance(error, dict) else None
    return [each.get("reason") for each in details if isinstance(each, dict)] if isinstance(details, list) else []
