"""Agents' services for the tests of the backends: a real A2A server, stand-ins of the others, and a relay before each
that fails on demand."""

import asyncio
import io
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2
from starlette.applications import Starlette

from beads_dispatch import agents
from beads_dispatch.settings import AgentSettings
from tests import support
from tools.servers import Behaviour, Handler, HttpServer, hangs_up

JOBSINK_PATH = "/agents/docs"  # namespace and name of the one JobSink


class Service(Protocol):
    """What the tests ask of each service."""

    url: str

    def beads(self) -> list[str]:
        """Its own list: the bead of each job that it has started."""

    def end(self, job: str, *, well: bool) -> None:
        """Let a job end."""

    def lose(self, job: str) -> None:
        """Forget a job, as a restart does, or as the deletion of a Kubernetes Job."""

    def close(self) -> None:
        """End it with all its jobs."""


class JobsService(HttpServer):
    """BeadBoard and claude-agent-service, as their sources say: no list of jobs, no idempotency key."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}  # status by job
        self._beads: list[str] = []
        super().__init__(lambda handler: None)

    def beads(self) -> list[str]:
        return list(self._beads)

    def end(self, job: str, *, well: bool) -> None:
        self.jobs[job] = "completed" if well else "failed"

    def lose(self, job: str) -> None:
        del self.jobs[job]

    def post(self, handler: Handler) -> None:
        request = json.loads(handler.body())
        if handler.path == "/api/agent-dispatch":
            code, bead = 200, request.get("taskId")
        elif handler.path == "/execute":
            code, bead = 202, request.get("metadata", {}).get("bead")
            if not {"agent", "prompt"} <= set(request):
                return handler.answer(422)
        else:
            return handler.answer(404)
        job = f"job-{len(self._beads)}"
        self.jobs[job] = "running"
        self._beads.append(bead)
        handler.answer(code, json.dumps({"job_id": job}).encode())

    def get(self, handler: Handler) -> None:
        status = self.jobs.get(handler.path.removeprefix("/jobs/"))
        active = sum(each == "running" for each in self.jobs.values())
        if handler.path == "/health":
            answer: Any = {"status": "ok", "busy": active > 0, "active": active, "queued": 0, "capacity": 9}
        elif handler.path == "/api/agent-status":
            answer = {"busy": False}
        elif status:
            answer = {"status": status, "error": "no luck" if status == "failed" else None}
        else:
            return handler.answer(404, b'{"detail": "Job not found"}')
        handler.answer(200, json.dumps(answer).encode())


class JobSinkService(HttpServer):
    """JobSink of Knative Eventing 1.21: a Job for a source and an id, for as long as that Job exists."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}  # event and end of each Job that exists, by the path of its Location
        self.started: list[dict[str, Any]] = []  # the event of every Job
        self._lock = threading.Lock()
        super().__init__(lambda handler: None)
        self.url += JOBSINK_PATH

    def beads(self) -> list[str]:
        return [event["data"]["bead"] for event in self.started]

    def end(self, job: str, *, well: bool) -> None:
        self.jobs[job]["end"] = well

    def lose(self, job: str) -> None:
        del self.jobs[job]

    def post(self, handler: Handler) -> None:
        body = handler.body()
        if handler.path != JOBSINK_PATH or handler.headers["Content-Type"] != "application/cloudevents+json":
            return handler.answer(400)
        event = json.loads(body)
        if not all(event.get(name) for name in ("specversion", "id", "source", "type")):
            return handler.answer(400)
        namespace, name = JOBSINK_PATH.strip("/").split("/")
        where = f"/namespaces/{namespace}/name/{name}/sources/{event['source']}/ids/{event['id']}"
        with self._lock:
            if where not in self.jobs:
                self.jobs[where] = {"event": event}
                self.started.append(event)
        handler.answer(202, Location=where)

    def get(self, handler: Handler) -> None:
        # A slash in source or id, or another sink.
        if len(handler.path.split("/")) != 9 or not handler.path.startswith("/namespaces/agents/name/docs/"):
            return handler.answer(400)
        job = self.jobs.get(handler.path)
        if job is None:
            return handler.answer(500)
        if "end" not in job:
            return handler.answer(202, Location=handler.path)
        if job["end"]:
            return handler.answer(200, Reason="Complete")
        handler.answer(400, Reason="Failed")


class _Executor(AgentExecutor):
    """Works each task until a test ends it; keeps the bead of each in the task's metadata."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ends: dict[str, asyncio.Future[str]] = {}  # the state in which to end a task
        self.replies_with_message = False

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message and context.task_id and context.context_id
        if self.replies_with_message:
            words = a2a_pb2.Part(text="I do not take tasks.")
            return await event_queue.enqueue_event(
                a2a_pb2.Message(message_id="m", role=a2a_pb2.ROLE_AGENT, parts=[words])
            )
        self.loop = asyncio.get_running_loop()
        end = self.ends[context.task_id] = self.loop.create_future()
        status = a2a_pb2.TaskStatus(state=a2a_pb2.TASK_STATE_SUBMITTED)
        task = a2a_pb2.Task(id=context.task_id, context_id=context.context_id, status=status)
        task.metadata["bead"] = context.message.metadata["bead"]
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        state = a2a_pb2.TaskState.Value(await end)
        await updater.add_artifact([a2a_pb2.Part(text="what it made")])
        await updater.update_status(state, message=updater.new_agent_message([a2a_pb2.Part(text="no luck")]))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


class A2AService:
    """A server made with a2a-sdk, in a thread of its own."""

    def __init__(self) -> None:
        self.executor = _Executor()
        card = a2a_pb2.AgentCard(
            name="docs", description="Writes.", version="1", capabilities=a2a_pb2.AgentCapabilities(),
            default_input_modes=["text"], default_output_modes=["text"],
            skills=[a2a_pb2.AgentSkill(id="s", name="s", description="s", tags=["s"])],
            supported_interfaces=[
                a2a_pb2.AgentInterface(url="http://docs", protocol_binding="HTTP+JSON", protocol_version="1.0")
            ],
        )  # fmt: skip
        self._store = InMemoryTaskStore()
        handler = DefaultRequestHandler(self.executor, self._store, card)
        app = Starlette(routes=create_rest_routes(handler))
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        support.wait_for(lambda: self._server.started, "the A2A server's start")
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def tasks(self) -> list[dict[str, Any]]:
        """All that GET /tasks lists."""
        found: list[dict[str, Any]] = []
        page = {"pageSize": "100", "pageToken": ""}
        while True:
            answer = support.get(f"{self.url}/tasks", params=page, headers={"A2A-Version": "1.0"}).json()
            found += answer["tasks"]
            page["pageToken"] = answer["nextPageToken"]
            if not page["pageToken"]:
                return found

    def beads(self) -> list[str]:
        return [task["metadata"]["bead"] for task in self.tasks()]

    def end(self, job: str, *, well: bool) -> None:
        self.end_as(job, "TASK_STATE_COMPLETED" if well else "TASK_STATE_FAILED")

    def end_as(self, job: str, state: str) -> None:
        assert self.executor.loop
        self.executor.loop.call_soon_threadsafe(self.executor.ends.pop(job).set_result, state)

    def lose(self, job: str) -> None:
        self.end(job, well=True)
        support.wait_for(lambda: self._state(job) == "TASK_STATE_COMPLETED", "the task's end")
        assert self.executor.loop
        asyncio.run_coroutine_threadsafe(self._store.delete(job, ServerCallContext()), self.executor.loop).result()

    def _state(self, job: str) -> Any:
        return next(task["status"]["state"] for task in self.tasks() if task["id"] == job)

    def close(self) -> None:
        for job in list(self.executor.ends):
            self.end(job, well=True)
        self._server.should_exit = True
        self._thread.join(support.PATIENCE_SECONDS)


class Relay(HttpServer):
    """Before a service: passes each request on and its answer back, unless `behaviour` (of a POST) or `get_behaviour`
    says otherwise."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.received: list[tuple[str, bytes, Mapping[str, str]]] = []  # path, body and headers of each POST
        self.get_behaviour: Behaviour = passes_on
        self._lock = threading.Lock()
        self._client = httpx.Client(timeout=support.PATIENCE_SECONDS)
        super().__init__(passes_on)
        # With the path of the service's address.
        self.url += httpx.URL(service.url).path.rstrip("/")

    def post(self, handler: Handler) -> None:
        body = handler.body()
        handler.rfile = io.BytesIO(body)  # to be read again
        with self._lock:
            self.received.append((handler.path, body, {name.lower(): value for name, value in handler.headers.items()}))
        self.behaviour(handler)

    def get(self, handler: Handler) -> None:
        self.get_behaviour(handler)

    def close(self) -> None:
        self.get_behaviour = hangs_up  # ends those that last as long as the behaviour does
        super().close()
        self._client.close()
        self.service.close()

    def ask(self, handler: Handler) -> httpx.Response:
        """The service's answer to a request."""
        where = httpx.URL(self.service.url).copy_with(raw_path=handler.path.encode())
        names = ("content-type", "a2a-version", "authorization", "traceparent")
        headers = {name: handler.headers[name] for name in names if name in handler.headers}
        return self._client.request(handler.command, where, content=handler.body(), headers=headers)


def passes_on(handler: Handler) -> None:
    """The service's own answer."""
    relay = handler.server
    assert isinstance(relay, Relay)
    answer = relay.ask(handler)
    more = {name: answer.headers[name] for name in ("Location", "Reason") if name in answer.headers}
    handler.answer(answer.status_code, answer.content, answer.headers.get("content-type", ""), **more)


def loses_the_answer(handler: Handler) -> None:
    """The service gets the request, and nobody its answer."""
    relay = handler.server
    assert isinstance(relay, Relay)
    relay.ask(handler)
    handler.hang_up()


SERVICES: Mapping[str, Callable[[], Service]] = {
    "beadboard": JobsService,
    "claude-agent-service": JobsService,
    "a2a": A2AService,
    "jobsink": JobSinkService,
}


def backend(kind: str, url: str, timeout_seconds: float = support.PATIENCE_SECONDS, **options: Any) -> agents.Backend:
    """A backend of an agent named agent:docs, which may pass on the model opus."""
    jobs = {"jobs_url": url} if kind == "beadboard" else {}
    options = {"hints": {"model": ["opus"]}, **options}
    return agents.backend(
        AgentSettings(url, backend=kind, timeout_seconds=timeout_seconds, name="agent:docs", options=options, **jobs)
    )
