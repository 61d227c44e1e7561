"""Servers that misbehave as they are told: an event sink, an agent service, and a TCP proxy before Dolt."""

import collections
import contextlib
import http.server
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from beads_dispatch import events

Behaviour = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
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
    request_queue_size = 128
    get: Behaviour
    post: Behaviour

    def handle_error(self, *_: Any) -> None:
        pass  # a client that hangs up first is part of the game


class Running:
    """A server on a free port, from its making to `close`; what it answers is its subclass's."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.get = self._get
        self._server.post = self._post
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _get(self, handler: Handler) -> None:
        handler.answer(405)

    def _post(self, handler: Handler) -> None:
        raise NotImplementedError


class Sink(Running):
    """Keeps what it accepts. `mode`: ok, an HTTP status, `silent` (no answer), `slow` (answers late), `trickle`."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.slow_seconds = 1.0
        self.received: list[events.Event] = []
        self.tries = 0
        self._lock = threading.Lock()
        super().__init__()

    def facts(self) -> list[events.Event]:
        """The changes that were accepted, repeats among them, in order."""
        with self._lock:
            return [event for event in self.received if event.type == events.ISSUE_CHANGED]

    def requests(self) -> list[events.Event]:
        with self._lock:
            return [event for event in self.received if event.type == events.DISPATCH_REQUESTED]

    def _post(self, handler: Handler) -> None:
        body = handler.body()
        if len(body) < int(handler.headers["Content-Length"]):
            return  # who sent it died over it
        event = events.from_request(dict(handler.headers), body)
        self.tries += 1
        mode = self.mode
        if mode == "silent":
            self._hold(handler, mode)
            return
        if mode == "trickle":
            handler.wfile.write(b"HTTP/1.1 202 Accepted\r\nX: ")
            self._hold(handler, mode, b".")
            return
        if mode == "slow":
            time.sleep(self.slow_seconds)
        if mode.isdigit():
            handler.answer(int(mode))
            return
        with self._lock:
            self.received.append(event)
        handler.answer(202)

    def _hold(self, handler: Handler, mode: str, drop: bytes = b"") -> None:
        """Keep the connection as it is for as long as the mode lasts."""
        while self.mode == mode:
            time.sleep(0.05)
            if drop:
                handler.wfile.write(drop)
        handler.hang_up()


class Agent(Running):
    """BeadBoard's two routes and /health. `behave` says for each POST what becomes of it; `down`: "posts" are
    answered with 503, or "all" is hung up on."""

    def __init__(self, behave: Callable[[str], str] = lambda bead: "ok", slow_seconds: float = 0.05) -> None:
        self.posts: list[tuple[float, str]] = []
        self.accepted: list[tuple[float, str]] = []
        self.down = ""
        self.behave = behave
        self.on_post: Callable[[str], None] = lambda bead: None
        self.on_get: Callable[[], None] = lambda: None
        self._slow_seconds = slow_seconds
        self._lock = threading.Lock()
        super().__init__()

    def times(self) -> collections.Counter[str]:
        """How often each bead was POSTed, refused or not."""
        with self._lock:
            return collections.Counter(bead for _, bead in self.posts)

    def _get(self, handler: Handler) -> None:
        self.on_get()
        if self.down == "all":
            handler.hang_up()
        else:
            handler.answer(200, b'{"busy": false, "active": 0, "queued": 0}')

    def _post(self, handler: Handler) -> None:
        bead = json.loads(handler.body())["taskId"]
        how = "503" if self.down else self.behave(bead)
        with self._lock:
            self.posts.append((time.time(), bead))
            if how in ("ok", "slow", "cut", "half"):
                self.accepted.append((time.time(), bead))
        self.on_post(bead)
        if how.isdigit():
            handler.answer(int(how), b'{"error": "no"}')
        elif how == "cut":
            handler.hang_up()
        elif how == "half":
            handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"job')
            handler.hang_up()
        elif how == "trickle":
            self._trickle(handler)
        else:
            if how == "slow":
                time.sleep(random.uniform(0, 2 * self._slow_seconds))
            handler.answer(200, json.dumps({"job_id": f"job-{time.monotonic_ns()}"}).encode())

    def _trickle(self, handler: Handler) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(600):
                handler.wfile.write(b".")
                time.sleep(0.1)
        handler.hang_up()


class Proxy:
    """TCP between the feeder and Dolt. `mode`: pass, stall (nothing moves), trickle (some bytes a second), refuse."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.mode = "pass"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lost: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self) -> None:
        """Move nothing on the present connections any more and tell neither side, as a router that lost its table."""
        with self._lock:
            self._lost.update(end for pair in self._pairs for end in pair)

    def cut(self) -> None:
        """End every connection, as a router that restarts does."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._lost.clear()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.append((client, server))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.mode == "stall" or source in self._lost:
                    time.sleep(0.02)
                if self.mode == "trickle":
                    self._drip(data, target)
                else:
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _drip(self, data: bytes, target: socket.socket) -> None:
        for start in range(0, len(data), 16):
            target.sendall(data[start : start + 16])
            if self.mode == "trickle":
                time.sleep(0.005)
