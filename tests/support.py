"""Real local servers for the tests: an agent service that answers as it is told, and a sink that keeps events."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from beads_dispatch import events
from tools.chaos.servers import Behaviour, Handler, Running


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Wait until `condition` gives something true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds:g} s: {what}")
        time.sleep(0.01)
    return found


class Agent(Running):
    """An agent service: BeadBoard's two routes and /health, answering each POST by `behaviours[bead]` or `job`."""

    def __init__(self) -> None:
        self.posts: list[str] = []
        self.times: list[float] = []
        self.active = 0
        self.busy = False
        self.behaviour: Behaviour = job
        self.behaviours: dict[str, Behaviour] = {}
        self.released = threading.Event()
        self._lock = threading.Lock()
        super().__init__()

    def close(self) -> None:
        self.released.set()
        super().close()

    def _get(self, handler: Handler) -> None:
        if handler.path == "/health":
            handler.answer(200, json.dumps({"active": self.active, "queued": 0}).encode())
        else:
            handler.answer(200, json.dumps({"busy": self.busy}).encode())

    def _post(self, handler: Handler) -> None:
        bead = json.loads(handler.body())["taskId"]
        with self._lock:
            self.posts.append(bead)
            self.times.append(time.time())
        self.behaviours.get(bead, self.behaviour)(handler)


def job(handler: Handler) -> None:
    handler.answer(200, json.dumps({"job_id": f"job-{time.monotonic_ns()}"}).encode())


def answers(code: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Behaviour:
    return lambda handler: handler.answer(code, body, content_type, **headers)


def half_a_body(code: int) -> Behaviour:
    def behaviour(handler: Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"job_id": "jo')
        handler.wfile.flush()
        handler.hang_up()

    return behaviour


def hangs_up(handler: Handler) -> None:
    handler.hang_up()


class Sink(Running):
    """Keeps every CloudEvent that is POSTed to it, and answers with `status`."""

    def __init__(self) -> None:
        self.received: list[events.Event] = []
        self.status = 202
        self.delay_seconds = 0.0
        super().__init__()
        self.url += "/"

    def of_type(self, event_type: str) -> list[events.Event]:
        return [event for event in self.received if event.type == event_type]

    def about(self, bead: str) -> list[events.Event]:
        return [event for event in self.received if event.subject == bead]

    def _post(self, handler: Handler) -> None:
        event = events.from_request(handler.headers, handler.body())
        time.sleep(self.delay_seconds)
        if self.status < 300:
            self.received.append(event)
        handler.answer(self.status)


@contextlib.contextmanager
def closing(thing: Any) -> Iterator[Any]:
    try:
        yield thing
    finally:
        thing.close()
