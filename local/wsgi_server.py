"""A WSGI application on a port of this machine, in a thread that can be stopped."""

import json
import os
import socket
import threading
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

from waitress.server import create_server

from beads_dispatch import events

LOOP_SECONDS = 0.02  # how soon a stop is noticed


class CannotListen(Exception):
    """The address cannot be used; the text names it and the reason."""


class Server:
    """Serves from construction until `stop`, at `url`. Port 0 is any free one."""

    def __init__(self, application: WSGIApplication, host: str = "127.0.0.1", port: int = 0, threads: int = 8) -> None:
        try:  # not by waitress, which leaves a socket open when the port is taken
            listener = socket.create_server((host, port))
        except OSError as exc:
            why = os.strerror(exc.errno or 0)
            raise CannotListen(
                f"cannot listen on {host}:{port} ({why}). Stop what listens there, or choose another port."
            ) from exc
        self._server = create_server(
            application,
            sockets=[listener],
            threads=threads,
            max_request_body_size=events.MAX_BODY_BYTES,
            channel_timeout=60,  # seconds without a request; one that is being answered is not cut off
        )
        self.port = int(self._server.effective_port)
        self.url = f"http://{host}:{self.port}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"serve-{self.port}", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Let the requests in progress end, within the timeout, then close every socket. Safe to call twice."""
        if self._stopping.is_set():
            return
        self._server.task_dispatcher.shutdown(timeout=timeout_seconds)
        self._stopping.set()
        self._thread.join(1.0)  # it outlives a request that does not end

    def _run(self) -> None:
        """waitress's loop, with an end: its own ends only by an exception in the thread that runs it.

        Each thread of waitress's writes to the trigger, a pipe, when its request is done. So the pipe stays open
        while a request is in progress, or that thread would write to whatever file has the pipe's number by then.
        """
        server = self._server
        while not self._stopping.is_set():
            server.asyncore.loop(timeout=LOOP_SECONDS, use_poll=True, map=server._map, count=1)
        for each in list(server._map.values()):
            if each is not server.trigger:
                server.asyncore.dispatcher.close(each)
        while server.task_dispatcher.threads:
            server.asyncore.loop(timeout=LOOP_SECONDS, use_poll=True, map=server._map, count=1)
        server.trigger.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def answer(
    start_response: StartResponse, status: int, content: bytes = b"", extra: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    """Answer with that status; without content there is no body and no content type."""
    sized = [("Content-Length", str(len(content)))] if status != HTTPStatus.NO_CONTENT else []
    start_response(f"{status} {HTTPStatus(status).phrase}", [*extra, *sized])
    return [content] if content else []


def text(start_response: StartResponse, status: int, message: str, *extra: tuple[str, str]) -> list[bytes]:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return answer(start_response, status, f"{message}\n".encode(), [kind, *extra])


def document(start_response: StartResponse, status: int, value: Any) -> list[bytes]:
    return answer(start_response, status, json.dumps(value).encode(), [("Content-Type", "application/json")])
