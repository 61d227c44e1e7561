"""A stand-in for BeadBoard and claude-agent-service: accepts beads and works them with the real bd.

It does to a bead what the agent does: a note that claims it, a note of progress, `bd close`. Like BeadBoard it checks
neither status nor duplicates: two POSTs for one bead make two jobs.

    python -m local.stand_in_agent --workspace ~/project --port 3000
"""

import argparse
import functools
import json
import pathlib
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from beads_dispatch import log
from beads_dispatch.log import Action
from feeder import wsgi
from local import interrupts, terminal, wsgi_server
from local.workspace import BdError, Workspace

logger = log.get("stand-in-agent")

ACTOR = "agent"  # bd lets only the assignee close a bead


@dataclass
class Job:
    id: str
    bead_id: str
    status: str = "queued"  # queued, running, completed or failed


class Jobs:
    """The jobs, worked `capacity` at a time in the order in which they came."""

    def __init__(self, workspace: Workspace, work_seconds: float, capacity: int) -> None:
        self.capacity = capacity
        self.by_id: dict[str, Job] = {}
        self._workspace = workspace
        self._work_seconds = work_seconds
        self._slots = threading.Semaphore(capacity)
        self._stop = threading.Event()

    def add(self, bead_id: str) -> Job:
        job = Job(uuid.uuid4().hex[:12], bead_id)
        self.by_id[job.id] = job
        threading.Thread(target=self._work, args=(job,), daemon=True).start()
        return job

    def count(self, status: str) -> int:
        return sum(job.status == status for job in list(self.by_id.values()))

    def stop(self) -> None:
        """Start nothing more. A bd command that runs may end within 5 s; the rest of its job is not done."""
        self._stop.set()
        for _ in range(self.capacity):
            self._slots.acquire(timeout=5)
        self._slots.release(self.capacity)

    def _work(self, job: Job) -> None:
        with self._slots:
            if self._stop.is_set():
                return
            job.status = "running"
            try:
                job.status = "completed" if self._complete(job) else "failed"
            except (BdError, OSError) as exc:
                job.status = "failed"
                logger.error(str(exc), extra=log.context(action=Action.JOB_FAILED, bead=job.bead_id, job=job.id))

    def _complete(self, job: Job) -> bool:
        """Work one bead to its end; False when stopped before that. Raises BdError."""
        bd = functools.partial(self._workspace.run, actor=ACTOR)
        bd("note", "--", job.bead_id, f"claimed by agent job={job.id}")
        if self._stop.wait(self._work_seconds):
            return False
        bd("note", "--", job.bead_id, f"working on it job={job.id}")
        bd("close", "--reason", f"done by agent job={job.id}", "--", job.bead_id)
        logger.info("closed", extra=log.context(action=Action.CLOSED, bead=job.bead_id, job=job.id))
        return True


class StandInAgent:
    """Both HTTP interfaces on one port, `url`, from construction until `stop`. Raises CannotListen."""

    def __init__(
        self,
        workspace: pathlib.Path,  # the folder that holds .beads
        bd: pathlib.Path,
        *,
        port: int = 0,
        work_seconds: float = 2.0,  # from the note that claims a bead to its close; the real agent takes minutes
        capacity: int = 1,  # one after the other, as the real agent is set up
        status_cache_seconds: float = 2.0,  # as BeadBoard's: it may answer "not busy" just after a POST
        on_post: Callable[[str], None] = lambda bead_id: None,  # called with each bead that a POST names, as it comes
    ) -> None:
        # When (seconds since 1970) and for which bead each POST came that named one, accepted or refused.
        self.received: list[tuple[float, str]] = []
        self._workspace = Workspace(bd, workspace)
        self._status_cache_seconds = status_cache_seconds
        self._on_post = on_post
        self._status: tuple[float, bool] | None = None
        self._jobs = Jobs(self._workspace, work_seconds, capacity)
        try:
            self._server = wsgi_server.Server(self._handle, port=port)
        except wsgi_server.CannotListen:
            self._jobs.stop()
            raise
        self.url = self._server.url

    def stop(self) -> None:
        self._server.stop()
        self._jobs.stop()

    def __enter__(self) -> "StandInAgent":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _handle(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if (method, path) == ("POST", "/api/agent-dispatch"):
            status, answer = self._dispatch(wsgi.body(environ))
        elif (method, path) == ("GET", "/api/agent-status"):
            status, answer = 200, {"busy": self._cached_busy()}
        elif (method, path) == ("GET", "/health"):
            status, answer = 200, self._health()
        elif method == "GET" and (job := self._jobs.by_id.get(path.removeprefix("/jobs/"))):
            status, answer = 200, {"job_id": job.id, "status": job.status, "taskId": job.bead_id}
        else:
            status, answer = 404, {"error": f"nothing at {method} {path}"}
        return wsgi_server.document(start_response, status, answer)

    def _dispatch(self, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            request = json.loads(body)
        except ValueError:
            return 400, {"error": "the body is not JSON"}
        bead_id = request.get("taskId") if isinstance(request, dict) else None
        if not isinstance(bead_id, str) or not bead_id.strip():
            return 400, {"error": "taskId is missing"}
        self.received.append((time.time(), bead_id))
        self._on_post(bead_id)
        try:
            bead = self._workspace.show(bead_id)
        except (BdError, ValueError) as exc:  # ValueError: bd printed no JSON, or no command can hold such an id
            # As BeadBoard: a missing bead and a Dolt that cannot be reached look the same.
            return 400, {"error": f"bead {bead_id} not found ({exc})"}
        if not str(bead.get("acceptance_criteria") or "").strip():
            return 400, {"error": f"bead {bead_id} has no acceptance criteria"}
        job = self._jobs.add(bead_id)
        logger.info("queued", extra=log.context(action=Action.QUEUED, bead=bead_id, job=job.id))
        return 200, {"job_id": job.id}

    def _cached_busy(self) -> bool:
        now = time.monotonic()
        if self._status is None or now - self._status[0] >= self._status_cache_seconds:
            self._status = (now, self._busy())
        return self._status[1]

    def _busy(self) -> bool:
        return self._jobs.count("running") + self._jobs.count("queued") >= self._jobs.capacity

    def _health(self) -> dict[str, Any]:
        return {
            "status": "ok", "busy": self._busy(), "active": self._jobs.count("running"),
            "queued": self._jobs.count("queued"), "capacity": self._jobs.capacity,
        }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    bd, workspace = shutil.which(options.bd), options.workspace.resolve()
    if bd is None:
        return _refuse(f"{options.bd} is not a program that can be run. Name bd's binary with --bd.")
    if not (workspace / ".beads").is_dir():
        return _refuse(f"{workspace} holds no .beads folder. Name a bd workspace with --workspace.")
    terminal.configure_log("stand-in-agent", "INFO")
    interrupts.interrupt_once()
    program, timing = pathlib.Path(bd).resolve(), {"work_seconds": options.work_seconds, "capacity": options.capacity}
    try:
        with StandInAgent(workspace, program, port=options.port, **timing) as agent:
            logger.info(f"listening on {agent.url}", extra=log.context(action=Action.START))
            threading.Event().wait()
    except wsgi_server.CannotListen as exc:
        return _refuse(str(exc))
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.stand_in_agent", description="A stand-in agent that works beads with the real bd."
    )
    parser.add_argument("--port", type=int, default=3000, help="port on 127.0.0.1; 0 takes a free one (default 3000)")
    parser.add_argument("--bd", default="bd", help="bd's binary (default: bd on the PATH)")
    parser.add_argument(
        "--workspace", type=pathlib.Path, default=pathlib.Path(), help="folder that holds .beads (default .)"
    )
    parser.add_argument("--work-seconds", type=float, default=2.0, help="time that a bead takes (default 2)")
    parser.add_argument("--capacity", type=int, choices=range(1, 101), metavar="N", default=1, help="beads at once (1)")
    return parser


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
