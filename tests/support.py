"""Real local servers for the tests: an agent service that answers as it is told, and a sink that keeps events."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from beads import events

Behaviour = Callable[["_Handler"], None]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Wait until `condition` gives something true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds:g} s: {what}")
        time.sleep(0.01)
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        self.server.get(self)

    def do_POST(self) -> None:
        self.server.post(self)

    def answer(self, code: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def hang_up(self) -> None:
        """Close the connection as it is, without another byte."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    get: Behaviour
    post: Behaviour

    def handle_error(self, *_: Any) -> None:
        pass  # a client that hangs up first is part of some tests


class Agent:
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
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.get = self._get
        self._server.post = self._post
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _get(self, handler: _Handler) -> None:
        if handler.path == "/health":
            handler.answer(200, json.dumps({"active": self.active, "queued": 0}).encode())
        else:
            handler.answer(200, json.dumps({"busy": self.busy}).encode())

    def _post(self, handler: _Handler) -> None:
        bead = json.loads(handler.body())["taskId"]
        with self._lock:
            self.posts.append(bead)
            self.times.append(time.time())
        self.behaviours.get(bead, self.behaviour)(handler)


def job(handler: _Handler) -> None:
    handler.answer(200, json.dumps({"job_id": f"job-{time.monotonic_ns()}"}).encode())


def answers(code: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Behaviour:
    return lambda handler: handler.answer(code, body, content_type, **headers)


def half_a_body(code: int) -> Behaviour:
    def behaviour(handler: _Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"job_id": "jo')
        handler.wfile.flush()
        handler.hang_up()

    return behaviour


def hangs_up(handler: _Handler) -> None:
    handler.hang_up()


class Sink:
    """Keeps every CloudEvent that is POSTed to it, and answers with `status`."""

    def __init__(self) -> None:
        self.received: list[events.Event] = []
        self.status = 202
        self.delay_seconds = 0.0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.post = self._post
        self._server.get = lambda handler: handler.answer(405)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of_type(self, event_type: str) -> list[events.Event]:
        return [event for event in self.received if event.type == event_type]

    def about(self, bead: str) -> list[events.Event]:
        return [event for event in self.received if event.subject == bead]

    def _post(self, handler: _Handler) -> None:
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
