"""HTTP servers of this machine that answer as a test or a measurement needs: an agent and an event sink."""

import contextlib
import http.server
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from beads_dispatch import events
from tools.world import TimedOut

Behaviour = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request. Behaviours answer it."""

    protocol_version = "HTTP/1.1"
    server: "HttpServer"

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

    def sender_is_gone(self) -> bool:
        """Whether the connection was closed while the request waited for its answer."""
        try:
            # Beneath TLS, whose own recv knows no flags.
            return socket.socket.recv(self.connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def log_message(self, *_: Any) -> None:
        pass


class HttpServer(http.server.ThreadingHTTPServer):
    """Serves on a free port from its making until `close`, or until the end of a with block."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour  # how a POST is answered
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.behaviour = hangs_up  # ends those that last as long as the behaviour does
        self.shutdown()
        self.server_close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, handler: Handler) -> None:
        handler.answer(405)

    def post(self, handler: Handler) -> None:
        self.behaviour(handler)

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up first are expected


def job(handler: Handler) -> None:
    """The agent's usual answer: a job id."""
    handler.answer(200, json.dumps({"job_id": f"job-{time.monotonic_ns()}"}).encode())


def slow_job(handler: Handler) -> None:
    """A job id after some 50 ms."""
    time.sleep(random.uniform(0, 0.1))
    job(handler)


def accepted(handler: Handler) -> None:
    """The sink's usual answer."""
    handler.answer(202)


def answers(code: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Behaviour:
    """Always the same answer."""
    return lambda handler: handler.answer(code, body, content_type, **headers)


def half_a_body(code: int) -> Behaviour:
    """The headers and the beginning of a body, then the connection is closed."""

    def behaviour(handler: Handler) -> None:
        handler.wfile.write(f'HTTP/1.1 {code} OK\r\nContent-Length: 100\r\n\r\n{{"job_id": "jo'.encode())
        handler.hang_up()

    return behaviour


def hangs_up(handler: Handler) -> None:
    """The request is taken and the connection closed."""
    handler.hang_up()


def stalls(handler: Handler) -> None:
    """No answer for as long as the server has this behaviour."""
    while handler.server.behaviour is stalls:
        time.sleep(0.05)
    handler.hang_up()


def trickles(handler: Handler) -> None:
    """An endless header, byte by byte, for as long as the server has this behaviour."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 202 Accepted\r\nX: ")
        while handler.server.behaviour is trickles:
            time.sleep(0.05)
            handler.wfile.write(b".")
    handler.hang_up()


HALF_A_JOB = half_a_body(200)
_MAKES_A_JOB = (job, slow_job, hangs_up, HALF_A_JOB)


class Agent(HttpServer):
    """BeadBoard's two routes, and claude-agent-service's /health and /jobs/{id}.

    A POST is answered by `behaviours[bead]`, or else by `behaviour`, unless `choose` is replaced.
    """

    def __init__(self, behaviour: Behaviour = job, on_post: Callable[[str], object] = lambda bead: None) -> None:
        self.received: list[tuple[float, str]] = []  # when each POST came, and for which bead
        self.jobs: Counter[str] = Counter()  # how many jobs each bead got, whether the answer arrived or not
        self.asked: list[float] = []  # when somebody asked for the load
        self.busy = False
        self.active = 0
        self.phases: dict[str, str] = {}  # of a job, where it is not `phase`
        self.phase = "running"  # "" for a job that is lost
        self.behaviours: dict[str, Behaviour] = {}
        self.choose: Callable[[str], Behaviour] = lambda bead: self.behaviours.get(bead, self.behaviour)
        self.report_load: Behaviour = self._report_load
        self.on_post = on_post  # called with each bead before the answer
        self.released = threading.Event()  # set by close: for behaviours that wait
        self._arrived = threading.Condition()
        super().__init__(behaviour)

    @property
    def posts(self) -> list[str]:
        """The beads of the POSTs, in order."""
        return [bead for _, bead in self.received]

    def wait_for(self, bead: str, seconds: float) -> float:
        """When the bead's first POST came. Raises TimedOut."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: bead in self.posts, seconds):
                raise TimedOut(f"{bead} was not POSTed within {seconds:g} s")
            return next(moment for moment, name in self.received if name == bead)

    def get(self, handler: Handler) -> None:
        self.asked.append(time.time())
        self.report_load(handler)

    def post(self, handler: Handler) -> None:
        now = time.time()
        bead = json.loads(handler.body())["taskId"]
        behaviour = self.choose(bead)
        with self._arrived:
            self.received.append((now, bead))
            self.jobs[bead] += behaviour in _MAKES_A_JOB
            self._arrived.notify_all()
        self.on_post(bead)
        behaviour(handler)

    def close(self) -> None:
        self.released.set()
        super().close()

    def _report_load(self, handler: Handler) -> None:
        if handler.path.startswith("/jobs/"):
            phase = self.phases.get(handler.path.removeprefix("/jobs/"), self.phase)
            found = {"status": phase, "error": "exit status 1"} if phase else {"detail": "not found"}
            handler.answer(200 if phase else 404, json.dumps(found).encode())
            return
        load = {"busy": self.busy or self.active > 0, "active": self.active, "queued": 0}
        handler.answer(200, json.dumps(load).encode())


class Sink(HttpServer):
    """Keeps the CloudEvents that it accepts: those answered by `accepted`, to a sender that is still there.

    An event is answered by `behaviour`, unless `choose` is replaced.
    """

    def __init__(self) -> None:
        self.received: list[events.Event] = []
        self.choose: Callable[[events.Event], Behaviour] = lambda event: self.behaviour
        self.delay_seconds = 0.0  # before each answer
        super().__init__(accepted)
        self.url += "/"

    def post(self, handler: Handler) -> None:
        body = handler.body()
        if len(body) < int(handler.headers["Content-Length"]):
            return  # the sender died while sending
        event = events.from_request(dict(handler.headers), body)
        behaviour = self.choose(event)
        time.sleep(self.delay_seconds)
        if behaviour is accepted and not handler.sender_is_gone():
            self.received.append(event)
        behaviour(handler)

    def of_type(self, event_type: str) -> list[events.Event]:
        return [event for event in list(self.received) if event.type == event_type]

    def about(self, bead: str) -> list[events.Event]:
        return [event for event in list(self.received) if event.subject == bead]


def run_until_closed(server: Any) -> None:
    """Run a waitress server that another thread closes: its loop may find a socket closed under it."""
    with contextlib.suppress(OSError):
        server.run()
